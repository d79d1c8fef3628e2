"""Which way round a picture is coded: turned or mirrored, it may take fewer bits.

The decoder's window and its layers see more above a pixel than to its left, so columns and rows are not alike to it.
Squares from all over the picture are measured each way, by the network as it is, and the shortest way is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

#: Bits of an orientation: rows and columns change places, then rows, then columns are reversed.
TRANSPOSED, ROWS_REVERSED, COLUMNS_REVERSED = 1, 2, 4
ORIENTATIONS = 8
#: Side of the squares, and of how many that an image has room for one is looked at.
SIDE, SHARE = 64, 16
#: Fewest and most squares.
FEWEST, MOST = 4, 32


def turned(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An image (H, W, C) as it is coded, contiguous."""
    if orientation & TRANSPOSED:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(_reversed(image, orientation))


def turned_back(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The inverse of `turned`."""
    image = _reversed(image, orientation)
    if orientation & TRANSPOSED:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def _reversed(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation & ROWS_REVERSED:
        image = image[::-1]
    return image[:, ::-1] if orientation & COLUMNS_REVERSED else image


def squares(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Views of squares spread evenly over an image, cut off where it is thinner than they are; a small one as it is."""
    height, width = image.shape[:2]
    down, across = min(SIDE, height), min(SIDE, width)
    count = height * width // (down * across * SHARE)
    if not count:
        yield image
        return
    count = min(max(count, FEWEST), MOST)
    # As many in a column and in a row as suit the image's shape.
    rows = min(max(round((count * height / width) ** 0.5), 1), count, -(-height // SIDE))
    columns = min(count // rows, -(-width // SIDE))
    for i in range(rows):
        for j in range(columns):
            y = (2 * i + 1) * (height - down) // (2 * rows)
            x = (2 * j + 1) * (width - across) // (2 * columns)
            yield image[y : y + down, x : x + across]


def shortest(image: NDArray[np.uint8], length: Callable[[NDArray[np.uint8]], int]) -> int:
    """0, or `TRANSPOSED` where squares of an image are shorter that way.

    Parameters
    ----------
    image : array of uint8, shape (H, W, C)
    length : function
        The code length of an image.
    """
    parts = list(squares(image))
    upright, aside = (sum(length(turned(part, way)) for part in parts) for way in (0, TRANSPOSED))
    return TRANSPOSED if aside < upright else 0
