# mypy: disable-error-code="no-untyped-def"
"""Products of whole numbers that int16 does not hold, by products of int16: each number in an upper and a lower part.

A weight is upper * 2^WEIGHT_BITS + lower, a gradient upper * 2^GRADIENT_BITS + lower, and the sums of the parts'
products, each within int32, are put together in float64, which holds them exactly. So the numbers are those of a
product in float64 in any order, at several times its speed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from vlae_codec.compiled import inner
from vlae_codec.models.exact.products import product_rows

#: First digits of the SHA-256 of models/exact/products.py, see wavefront.py.
_TAKEN_FROM = "1092a63fea8bcb78"

#: Bits of a lower part with its sign: 256 activations below 2^11 times parts of weights up to 2^12, 256 of them times
#: parts of gradients up to 2^10, and 192 parts of gradients times parts of weights sum up to less than 2^31.
WEIGHT_BITS, GRADIENT_BITS = 13, 11

_WEIGHT, _GRADIENT = float(1 << WEIGHT_BITS), float(1 << GRADIENT_BITS)
_HALF_GRADIENT = np.int32(1 << (GRADIENT_BITS - 1))


@inner
def split_weights(weights, packed):
    """Split whole weights.

    Parameters
    ----------
    weights : array of float64, shape (inputs, outputs)
    packed : array of int16, shape (2, inputs / 2, rounded outputs, 2)
        Receives upper and lower parts as `products.pack` has them.
    """
    for i in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            upper = np.floor(weights[i, j] * (1.0 / _WEIGHT) + 0.5)
            packed[0, i >> 1, j, i & 1] = np.int16(upper)
            packed[1, i >> 1, j, i & 1] = np.int16(weights[i, j] - upper * _WEIGHT)


@inner
def forward_rows(rows, forward, sums, count):
    """Products of int16 (rows, inputs) with split weights; `forward_sum` puts together two rows of ``sums``."""
    product_rows(rows, forward[0], sums[0], count)
    product_rows(rows, forward[1], sums[1], count)


@njit(cache=True, inline="always")
def forward_sum(upper, lower, j):
    """Output j of a row, whose two sums `forward_rows` leaves."""
    return np.float64(upper[j]) * _WEIGHT + np.float64(lower[j])


@inner
def split_rows(values, parts):
    """Parts of int32 values (rows, columns) as int16 (2, rows, columns)."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            upper = (values[i, j] + _HALF_GRADIENT) >> np.int32(GRADIENT_BITS)
            parts[0, i, j] = np.int16(upper)
            parts[1, i, j] = np.int16(values[i, j] - (upper << np.int32(GRADIENT_BITS)))


@inner
def back_rows(parts, back, sums, count):
    """Products of `split_rows` with split weights transposed, for `put_together`."""
    for part in range(2):
        product_rows(parts[part], back[0], sums[2 * part], count)
        product_rows(parts[part], back[1], sums[2 * part + 1], count)


@inner
def put_together(sums, count, out):
    """What `back_rows` leaves, as float64 rows."""
    for i in range(count):
        _join(sums[0, i], sums[1, i], sums[2, i], sums[3, i], out[i])


@inner
def _join(highest, high, low, lowest, out):
    for j in range(len(out)):
        upper = np.float64(highest[j]) * _WEIGHT + np.float64(high[j])
        out[j] = upper * _GRADIENT + (np.float64(low[j]) * _WEIGHT + np.float64(lowest[j]))


@inner
def pair_rows(parts, count, words):
    """`products.pack` of a part's rows as inputs, two int16 in a word: int32 (rows / 2, columns)."""
    width = parts.shape[1]
    for i in range(count >> 1):
        for j in range(width):
            words[i, j] = (np.int32(parts[2 * i + 1, j]) << np.int32(16)) | (
                np.int32(parts[2 * i, j]) & np.int32(0xFFFF)
            )
    if count & 1:
        for j in range(width):
            words[count >> 1, j] = np.int32(parts[count - 1, j]) & np.int32(0xFFFF)


@inner
def transpose(rows, count, columns):
    """Int16 rows as columns."""
    for i in range(count):
        for j in range(columns.shape[0]):
            columns[j, i] = rows[i, j]


@inner
def add_outer(columns, parts, count, words, sums, into):
    """Add to ``into`` the sums over rows of inputs times gradients.

    Parameters
    ----------
    columns : array of int16, shape (inputs, rows)
        See `transpose`.
    parts : array of int16, shape (2, rows, outputs)
        See `split_rows`.
    count : int
        How many rows.
    words, sums : arrays of int32
        Room: (rows / 2, rounded outputs), and (2, inputs, rounded outputs).
    into : array of float64, shape (at least inputs, outputs)
    """
    pairs = (count + 1) >> 1
    for part in range(2):
        pair_rows(parts[part], count, words)
        packed = words[:pairs].view(np.int16).reshape((pairs, words.shape[1], 2))
        product_rows(columns, packed, sums[part], columns.shape[0])
    for i in range(columns.shape[0]):
        _add_row(sums[0, i], sums[1, i], into[i])


@inner
def _add_row(upper, lower, into):
    for j in range(len(into)):
        into[j] += np.float64(upper[j]) * _GRADIENT + np.float64(lower[j])
