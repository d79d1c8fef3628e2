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
#: Side of the squares, and most of them.
SIDE, MOST = 64, 32
#: Of so many squares one is looked at.
SHARE = 16


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
    """Views of squares spread evenly over an image; of a small one, the whole."""
    height, width = image.shape[:2]
    count = min(height * width // (SIDE * SIDE * SHARE), MOST)
    if min(height, width) < 2 * SIDE or count < 1:
        yield image
        return
    # On a grid of about the image's shape, its places shifted from row to row.
    rows = max(1, min(round((count * height / width) ** 0.5), count, height // SIDE))
    columns = max(1, min(count // rows, width // SIDE))
    for i in range(rows):
        for j in range(columns):
            y = (2 * i + 1) * (height - SIDE) // (2 * rows)
            x = (2 * j + 1) * (width - SIDE) // (2 * columns)
            yield image[y : y + SIDE, x : x + SIDE]


def shortest(
    image: NDArray[np.uint8], length: Callable[[NDArray[np.uint8]], float], ways: tuple[int, ...] = (0, TRANSPOSED)
) -> int:
    """The orientation in which squares of an image take the fewest bits; the first of several.

    Parameters
    ----------
    image : array of uint8, shape (H, W, C)
    length : function
        The code length of an image.
    ways : tuple of int
        The orientations to choose from.
    """
    parts = list(squares(image))
    lengths = [sum(length(turned(part, way)) for part in parts) for way in ways]
    return ways[int(np.argmin(lengths))]
