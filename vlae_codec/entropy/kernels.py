# mypy: disable-error-code="no-untyped-def, call-overload"
"""Compiled pushes and pops of vectors. All arithmetic is on integers; a `Stack` is changed in place.

Pops return whether the stack held enough; where it did not, its size is left as it was.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .cdf import (
    FRACTION_BITS,
    INVERSE_SHIFT,
    NORMAL,
    NORMAL_END,
    PRECISION,
    TABLE_BITS,
    Z_COUNT,
    Z_INVERSE_SCALE,
    Z_MEAN_STEPS,
    Z_MIN,
)

#: First digits of the SHA-256 of the records' fields and cdf.py; a test compares them. numba keeps compiled loops by
#: the contents of this file alone, so it must change when what they take from elsewhere does.
_TAKEN_FROM = "8feacd80cb4083c7"

_HEAD_MIN = 1 << 31
_RENORM_SHIFT = 63 - PRECISION
_MASK = (1 << PRECISION) - 1
_TOTAL = 1 << PRECISION
_FRACTION_MASK = (1 << FRACTION_BITS) - 1


@njit(cache=True, inline="always")
def push_one(heads, lane, words, size, start, freq):
    """Push one interval; returns the new size of the stack."""
    head = heads[lane]
    if head >= freq << np.uint64(_RENORM_SHIFT):
        words[size] = np.uint32(head & np.uint64(0xFFFFFFFF))
        size += 1
        head >>= np.uint64(32)
    quotient = head // freq
    heads[lane] = (quotient << np.uint64(PRECISION)) + (head - quotient * freq) + start
    return size


@njit(cache=True, inline="always")
def pop_one(heads, lane, words, size, start, freq):
    """Remove the interval that the lane shows; returns the new size of the stack, or -1 if it ran dry."""
    head = heads[lane]
    head = freq * (head >> np.uint64(PRECISION)) + (head & np.uint64(_MASK)) - start
    if head < np.uint64(_HEAD_MIN):
        if size == 0:
            return -1
        size -= 1
        head = (head << np.uint64(32)) | np.uint64(words[size])
    heads[lane] = head
    return size


@njit(cache=True, inline="always")
def _gaussian(j, mean, scale):
    """`cdf.gaussian_cdf` of one symbol."""
    if j == 0:
        return np.int64(0)
    if j == Z_COUNT:
        return np.int64(_TOTAL)
    below = (2 * (j + Z_MIN) - 1) * (Z_MEAN_STEPS // 2) - mean
    argument = (below * Z_INVERSE_SCALE[scale] >> INVERSE_SHIFT) + (NORMAL_END << 16)
    argument = min(max(argument, 0), (2 * NORMAL_END << 16) - 1)
    index = argument >> FRACTION_BITS
    left = NORMAL[index]
    value = left + ((NORMAL[index + 1] - left) * (argument & _FRACTION_MASK) >> FRACTION_BITS)
    return (value * (_TOTAL - Z_COUNT) >> TABLE_BITS) + j


@njit(cache=True)
def push_gaussians(stack, symbols, given, bits):
    """Push a vector of symbols 0..Z_COUNT-1 under `Gaussians`, symbol k with lane k mod lanes; the first ends on top.

    ``bits[0]`` gains the ideal length of what was pushed, in bits.
    """
    heads, words, size = stack.heads, stack.words, stack.size[0]
    for k in range(len(symbols) - 1, -1, -1):
        start = _gaussian(symbols[k], given.mean[k], given.scale[k])
        freq = _gaussian(symbols[k] + 1, given.mean[k], given.scale[k]) - start
        bits[0] += PRECISION - np.log2(np.float64(freq))
        size = push_one(heads, k % len(heads), words, size, np.uint64(start), np.uint64(freq))
    stack.size[0] = size


@njit(cache=True)
def pop_gaussians(stack, symbols, given, bits):
    """Undo `push_gaussians` into ``symbols``."""
    heads, words, size = stack.heads, stack.words, stack.size[0]
    for k in range(len(symbols)):
        lane = k % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        low, high = np.int64(0), np.int64(Z_COUNT)
        start, stop = np.int64(0), np.int64(_TOTAL)
        while high - low > 1:
            middle = (low + high) >> 1
            value = _gaussian(middle, given.mean[k], given.scale[k])
            if value <= cf:
                low, start = middle, value
            else:
                high, stop = middle, value
        symbols[k] = low
        bits[0] += PRECISION - np.log2(np.float64(stop - start))
        size = pop_one(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
        if size < 0:
            return False
    stack.size[0] = size
    return True


@njit(cache=True, inline="always")
def _coarse(r, mean, scale, centre, step):
    """Cumulative frequency below bin r of a lattice of ``step`` grid bins, bin 0 around ``centre``."""
    return _gaussian(min(max(centre + r * step - step // 2 - Z_MIN, 0), Z_COUNT), mean, scale)


@njit(cache=True)
def coarse_intervals(symbols, given, centre, steps, intervals):
    """Intervals of symbols on a coarse lattice, see `vlae_codec.coding.latent.Lattice`; each has its own step."""
    for k in range(len(symbols)):
        start = _coarse(symbols[k], given.mean[k], given.scale[k], centre[k], steps[k])
        intervals.starts[k] = start
        intervals.freqs[k] = _coarse(symbols[k] + 1, given.mean[k], given.scale[k], centre[k], steps[k]) - start


@njit(cache=True)
def pop_coarse(stack, symbols, given, centre, steps):
    """Pop symbols that were pushed with `coarse_intervals`."""
    heads, words, size = stack.heads, stack.words, stack.size[0]
    for k in range(len(symbols)):
        lane = k % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        low, high = np.int64(-Z_COUNT // steps[k] - 1), np.int64(Z_COUNT // steps[k] + 2)
        while high - low > 1:
            middle = (low + high) >> 1
            if _coarse(middle, given.mean[k], given.scale[k], centre[k], steps[k]) <= cf:
                low = middle
            else:
                high = middle
        symbols[k] = low
        start = _coarse(low, given.mean[k], given.scale[k], centre[k], steps[k])
        stop = _coarse(low + 1, given.mean[k], given.scale[k], centre[k], steps[k])
        size = pop_one(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
        if size < 0:
            return False
    stack.size[0] = size
    return True


@njit(cache=True)
def push_intervals(stack, intervals):
    """Push a vector of `Intervals`, number k with lane k mod lanes; the first ends on top."""
    heads, words, size = stack.heads, stack.words, stack.size[0]
    for k in range(len(intervals.starts) - 1, -1, -1):
        start, freq = np.uint64(intervals.starts[k]), np.uint64(intervals.freqs[k])
        size = push_one(heads, k % len(heads), words, size, start, freq)
    stack.size[0] = size


@njit(cache=True)
def pop_bernoulli(stack, zeros, first, symbols):
    """Pop bits into ``symbols``, bit k with lane (first + k) mod lanes; ``zeros`` are the frequencies of 0."""
    heads, words, size = stack.heads, stack.words, stack.size[0]
    for k in range(len(symbols)):
        lane = (first + k) % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        symbols[k] = cf >= zeros[k]
        if symbols[k]:
            size = pop_one(heads, lane, words, size, np.uint64(zeros[k]), np.uint64(_TOTAL - zeros[k]))
        else:
            size = pop_one(heads, lane, words, size, np.uint64(0), np.uint64(zeros[k]))
        if size < 0:
            return False
    stack.size[0] = size
    return True
