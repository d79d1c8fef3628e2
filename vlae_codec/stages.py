"""What is coded when: the wavefront over pixels and over z, and the stages of bits-back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class StageKind(IntEnum):
    """How a stage codes z."""

    #: No z: the decoder works from the window alone.
    WITHOUT_Z = 0
    #: z drawn from the message under q, and returned when decoding.
    BITS_BACK = 1
    #: z is the mean of q, coded under the prior at its full price: for pictures too small to pay for bits-back.
    PLAIN_Z = 2


@dataclass(frozen=True)
class Stage:
    """Rows ``top`` to ``bottom - 1`` of the image, coded together."""

    top: int
    bottom: int
    kind: StageKind


def wavefront(rows: int, width: int, skew: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places that can be decoded together, step after step: all with equal ``x + skew * y``, from the top down.

    Yields
    ------
    Two arrays of int64: the rows and the columns of the step's places.

    Examples
    --------
    >>> [list(zip(y.tolist(), x.tolist())) for y, x in wavefront(2, 3, 2)]
    [[(0, 0)], [(0, 1)], [(0, 2), (1, 0)], [(1, 1)], [(1, 2)]]
    """
    for t in range(width + skew * (rows - 1)):
        y = np.arange(max((t - width) // skew + 1, 0), min(t // skew + 1, rows))
        yield y, t - skew * y


def affordable_rows(stock: float, wanted: NDArray[np.float64]) -> int:
    """How many patch rows, counted from the last, may draw their z from a stock of bits.

    Parameters
    ----------
    stock : float
        Bits on the message that may be drawn.
    wanted : array of float64
        Bits that the z of each patch row draws, from the top.
    """
    return int((np.cumsum(wanted[::-1]) <= stock).sum())
