from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlae_codec.stages import Passes


class Counter:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.expected = 0
        self.calls: list[int] = []

    def __call__(self, pixels: int) -> None:
        self.calls.append(pixels)

    def expect(self, pixels: int) -> None:
        self.expected += pixels


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.integers(0, 10**9), max_size=5)), max_size=5),
)
def test_passes_count_each_pixel_once(pixels: int, planned: list[tuple[float, list[int]]]) -> None:
    """Whatever they tell: fewer pixels than there are, or more."""
    counter = Counter()
    passes = Passes(counter, pixels)
    for share, told in planned:
        progress = passes.take(share)
        for part in told:
            progress(part)
    assert sum(counter.calls) <= pixels
    passes.finish()
    assert sum(counter.calls) == pixels == counter.expected
    assert all(call > 0 for call in counter.calls)


def test_passes_take_shares_of_what_is_left() -> None:
    counter = Counter()
    passes = Passes(counter, 1000)
    passes.take(0.5)(500)
    assert counter.calls == [250]
    passes.take(0.5)(1000)
    assert counter.calls == [250, 250, 250]
    passes.take(1)(999)
    assert sum(counter.calls) == 1000
