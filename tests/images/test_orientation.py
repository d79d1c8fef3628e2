from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlae_codec.images import orientation
from vlae_codec.images.orientation import ORIENTATIONS, TRANSPOSED, shortest, squares, turned, turned_back


@pytest.mark.parametrize("way", range(ORIENTATIONS))
def test_each_way_is_another_one_and_undone(way: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(turned_back(turned(image, way), way), image)
    ways = [turned(image, other).tobytes() for other in range(ORIENTATIONS)]
    assert ways.count(ways[way]) == 1


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_squares_are_a_small_share_of_all_from_everywhere(height: int, width: int) -> None:
    image = np.broadcast_to(np.arange(height * width, dtype=np.int64).reshape(height, width, 1), (height, width, 1))
    parts = list(squares(image))
    seen = np.concatenate([part.ravel() for part in parts])
    assert len(np.unique(seen)) == len(seen)
    if len(parts) == 1:
        assert len(seen) == height * width
        return
    room = height * width / (min(height, orientation.SIDE) * min(width, orientation.SIDE))
    assert room >= orientation.SHARE
    assert 2 <= len(parts) <= min(max(room / orientation.SHARE, orientation.FEWEST), orientation.MOST)
    # In both halves of the longer side.
    place = seen // width / height if height > width else seen % width / width
    assert place.min() < 0.5 < place.max()


def test_the_shorter_way_is_taken_and_upright_if_there_is_none() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 40, 3), np.uint8)
    assert shortest(image, lambda part: part.shape[0]) == TRANSPOSED
    assert shortest(image, lambda part: part.shape[1]) == 0
    assert shortest(image, lambda part: part.size) == 0
