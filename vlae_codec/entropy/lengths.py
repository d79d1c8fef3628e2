"""Code lengths in whole numbers: what is chosen by them is chosen alike on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import cdf

#: Code lengths are in units of 2^-16 bits.
LENGTH_BITS = 16
#: The table has 2^12 entries: LOG2[i] = round(2^16 log2(1 + i / 2^12)).
TABLE_BITS = 12
LOG2 = np.rint(np.log2(1 + np.arange(1 << TABLE_BITS) / (1 << TABLE_BITS)) * (1 << LENGTH_BITS)).astype(np.int64)


def code_lengths(freqs: NDArray[Any]) -> NDArray[np.int64]:
    """Of symbols with frequencies in 1..2^24, in units of 2^-16 bits."""
    # Both are exact for whole numbers below 2^53.
    mantissa, exponent = np.frexp(freqs.astype(np.float64))
    index = (mantissa * (2 << TABLE_BITS)).astype(np.int64) - (1 << TABLE_BITS)
    return ((cdf.PRECISION + 1 - exponent.astype(np.int64)) << LENGTH_BITS) - LOG2[index]
