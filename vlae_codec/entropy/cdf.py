"""Integer cumulative distributions: tables and a few integer operations, the same on every machine.

All arithmetic at coding time is on integers of at most 63 bits. The tables hold correctly rounded values of sigmoid,
exp and the normal distribution function. They are computed in decimal arithmetic, never in binary floating point, whose
last digit depends on the machine.

Every distribution over ``n`` symbols maps symbol j to the interval [c(j), c(j + 1)) of [0, 2^24), where

    c(j) = (F(j) * (2^24 - n) >> bits of F) + j,    c(0) = 0,    c(n) = 2^24

and F is a non-decreasing integer function, so every symbol keeps a frequency of at least one.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
from numpy.typing import NDArray

#: Bits of every frequency.
PRECISION = 24
#: Bits of the values in `SIGMOID` and `NORMAL`.
TABLE_BITS = 22
#: Bits of the normalised mixture weights.
WEIGHT_BITS = 16

#: A step of a mixture logit, in nats, is 1 / LOGIT_STEPS.
LOGIT_STEPS = 32
#: A unit of a mean or of an edge is 1 / MEAN_STEPS of a pixel value.
MEAN_STEPS = 64
#: A step of a logistic's log scale, in nats, is 1 / SCALE_STEPS; index 0 is `SCALE_LOWEST`.
SCALE_STEPS = 32
SCALE_LOWEST = -3
SCALE_COUNT = 241
#: A step of a coupling between channels is 1 / COUPLING_STEPS.
COUPLING_STEPS = 256

#: A unit of a Bernoulli pixel's logit, in nats, is 1 / BERNOULLI_STEPS: the distance of the sigmoid's table.
BERNOULLI_STEPS = 128

#: z lies on a grid of 1 / Z_STEPS, its index within [Z_MIN, Z_MIN + Z_COUNT).
Z_STEPS = 16
Z_MIN = -128
Z_COUNT = 256
#: A unit of a Gaussian's mean is 1 / Z_MEAN_STEPS of a step of the grid.
Z_MEAN_STEPS = 16
#: A step of a Gaussian's log standard deviation, in nats, is 1 / Z_SCALE_STEPS; index 0 is `Z_SCALE_LOWEST`.
Z_SCALE_STEPS = 16
Z_SCALE_LOWEST = -3
Z_SCALE_COUNT = 81

#: The sigmoid's table runs over [-SIGMOID_END, SIGMOID_END] in steps of 2^-7.
SIGMOID_END = 16
#: The normal's table runs over [-NORMAL_END, NORMAL_END] in steps of 2^-7.
NORMAL_END = 6
#: Arguments of both are integers in units of 2^-16, so this many bits lie between two entries.
FRACTION_BITS = 9
#: Bits by which a product of a distance and an inverse scale exceeds the units of an argument.
INVERSE_SHIFT = 12

Table = NDArray[np.int64]

_CONTEXT = Context(prec=40, Emax=999999, Emin=-999999)


def _round(value: Decimal) -> int:
    """Nearest integer, halves upwards."""
    return int(_CONTEXT.add(value, Decimal("0.5")).to_integral_value(ROUND_FLOOR))


def _exp(numerator: int, denominator: int) -> Decimal:
    return _CONTEXT.exp(_CONTEXT.divide(Decimal(numerator), Decimal(denominator)))


def _sigmoid_table() -> Table:
    steps = 1 << (16 - FRACTION_BITS)
    one = Decimal(1)
    values = []
    for i in range(-SIGMOID_END * steps, SIGMOID_END * steps + 1):
        value = _CONTEXT.divide(one, _CONTEXT.add(one, _exp(-i, steps)))
        values.append(_round(_CONTEXT.multiply(value, Decimal(1 << TABLE_BITS))))
    values[0], values[-1] = 0, 1 << TABLE_BITS
    return np.array(values, np.int64)


def _normal_table() -> Table:
    """The normal distribution function by the series x + x^3/3 + x^5/(3*5) + ..., times the density, plus a half."""
    steps = 1 << (16 - FRACTION_BITS)
    root = _CONTEXT.sqrt(Decimal("6.283185307179586476925286766559005768394"))
    upper = []
    for i in range(NORMAL_END * steps + 1):
        x = _CONTEXT.divide(Decimal(i), Decimal(steps))
        square = _CONTEXT.multiply(x, x)
        term, total, k = x, x, 1
        while term > Decimal("1e-30"):
            k += 2
            term = _CONTEXT.divide(_CONTEXT.multiply(term, square), Decimal(k))
            total = _CONTEXT.add(total, term)
        density = _CONTEXT.divide(_exp(-i * i, 2 * steps * steps), root)
        value = _CONTEXT.add(Decimal("0.5"), _CONTEXT.multiply(total, density))
        upper.append(_round(_CONTEXT.multiply(value, Decimal(1 << TABLE_BITS))))
    one = 1 << TABLE_BITS
    upper[-1] = one
    return np.array([one - v for v in upper[:0:-1]] + upper, np.int64)


#: SIGMOID[i] = round(2^22 sigmoid((i - 2048) / 128)), the ends set to 0 and 2^22.
SIGMOID = _sigmoid_table()
#: NORMAL[i] = round(2^22 Phi((i - 768) / 128)), the ends set to 0 and 2^22; Phi(-x) = 1 - Phi(x) holds exactly.
NORMAL = _normal_table()
#: EXP[i] = round(2^16 exp(-i / LOGIT_STEPS)), until it is zero.
EXP = np.array([_round(_CONTEXT.multiply(_exp(-i, LOGIT_STEPS), Decimal(1 << 16))) for i in range(400)], np.int64)


def _inverse_table(lowest: int, steps: int, count: int, units: int) -> Table:
    """2^28 / (exp(lowest + i / steps) * units), rounded, for i in 0..count-1."""
    scales = (_CONTEXT.multiply(_exp(lowest * steps + i, steps), Decimal(units)) for i in range(count))
    whole = Decimal(1 << (16 + INVERSE_SHIFT))
    return np.array([_round(_CONTEXT.divide(whole, scale)) for scale in scales], np.int64)


#: 2^28 / (scale in units of 1 / MEAN_STEPS), by the index of the log scale.
INVERSE_SCALE = _inverse_table(SCALE_LOWEST, SCALE_STEPS, SCALE_COUNT, MEAN_STEPS)
#: 2^28 / (standard deviation in units of 1 / (Z_STEPS * Z_MEAN_STEPS)), by the index of its logarithm.
Z_INVERSE_SCALE = _inverse_table(Z_SCALE_LOWEST, Z_SCALE_STEPS, Z_SCALE_COUNT, Z_STEPS * Z_MEAN_STEPS)


def gaussian_cdf(edges: NDArray[np.int64], mean: NDArray[np.int64], scale: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative frequency below a bin of the grid of z.

    Parameters
    ----------
    edges : array of int64
        j in 0..Z_COUNT: how many bins lie below.
    mean : array of int64
        In units of 1 / (Z_STEPS * Z_MEAN_STEPS).
    scale : array of int64
        Index into `Z_INVERSE_SCALE`.

    Returns
    -------
    Array of int64, in [0, 2^24], with c(0) = 0 and c(Z_COUNT) = 2^24.
    """
    below = (2 * (edges + Z_MIN) - 1) * (Z_MEAN_STEPS // 2) - mean
    argument = (below * Z_INVERSE_SCALE[scale]) >> INVERSE_SHIFT
    argument = np.clip(argument + (NORMAL_END << 16), 0, (2 * NORMAL_END << 16) - 1)
    index, fraction = argument >> FRACTION_BITS, argument & ((1 << FRACTION_BITS) - 1)
    left = NORMAL[index]
    value = left + (((NORMAL[index + 1] - left) * fraction) >> FRACTION_BITS)
    inner = ((value * ((1 << PRECISION) - Z_COUNT)) >> TABLE_BITS) + edges
    return np.where(edges == 0, 0, np.where(edges == Z_COUNT, 1 << PRECISION, inner))


def bernoulli_cdf(logit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequency of the symbol 0, which lies below 1, for logits of 1 in 1 / BERNOULLI_STEPS nats; in [1, 2^24)."""
    table = SIGMOID[SIGMOID_END * BERNOULLI_STEPS - logit]
    return ((table * ((1 << PRECISION) - 2)) >> TABLE_BITS) + 1


def logistic_mixture_cdf(
    edges: NDArray[np.int64], count: int, values: NDArray[np.int64],
    logits: NDArray[np.int64], means: NDArray[np.int64], scales: NDArray[np.int64],
) -> NDArray[np.int64]:  # fmt: skip
    """Cumulative frequency below a value, by numpy; `vlae_codec.entropy.kernels` holds the same for one symbol.

    Parameters
    ----------
    edges : array of int64, shape (N,)
        j in 0..count: how many of the values lie below.
    count : int
        Number of values that occur.
    values : array of int64, shape (count,)
        The values that occur, sorted.
    logits, means, scales : arrays of int64, shape (N, K)
        Of the components: in 1 / LOGIT_STEPS nats, in 1 / MEAN_STEPS values, index into `INVERSE_SCALE`.

    Returns
    -------
    Array of int64, shape (N,), in [0, 2^24].
    """
    padded = np.concatenate([values[:1], values, values[-1:]])
    middle = (padded[edges] + padded[edges + 1]) * (MEAN_STEPS // 2)
    argument = ((middle[:, None] - means) * INVERSE_SCALE[scales]) >> INVERSE_SHIFT
    argument = np.clip(argument + (SIGMOID_END << 16), 0, (2 * SIGMOID_END << 16) - 1)
    index, fraction = argument >> FRACTION_BITS, argument & ((1 << FRACTION_BITS) - 1)
    left = SIGMOID[index]
    sigmoid = left + (((SIGMOID[index + 1] - left) * fraction) >> FRACTION_BITS)
    total = (mixture_weights(logits) * sigmoid).sum(1)
    inner = ((total * ((1 << PRECISION) - count)) >> (TABLE_BITS + WEIGHT_BITS)) + edges
    return np.where(edges == 0, 0, np.where(edges == count, 1 << PRECISION, inner))


def mixture_weights(logits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weights of 2^16 in all, (N, K) like the logits; what rounding leaves over goes to the first of the largest."""
    top = logits.max(1, keepdims=True)
    raw = EXP[np.minimum(top - logits, len(EXP) - 1)]
    inverse = (1 << 40) // raw.sum(1, keepdims=True)
    weights = (raw * inverse) >> 24
    rows = np.arange(len(logits))
    weights[rows, logits.argmax(1)] += (1 << WEIGHT_BITS) - weights.sum(1)
    return weights
