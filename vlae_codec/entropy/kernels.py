# mypy: disable-error-code="no-untyped-def, call-overload"
"""Compiled loops: intervals of pixels, and pushes and pops in wavefront order. All arithmetic is on integers."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from vlae_codec.models.exact.loops import network_rows, predict

from .cdf import (
    COUPLING_STEPS,
    EXP,
    FRACTION_BITS,
    INVERSE_SCALE,
    INVERSE_SHIFT,
    MEAN_STEPS,
    NORMAL,
    NORMAL_END,
    PRECISION,
    SIGMOID,
    SIGMOID_END,
    TABLE_BITS,
    WEIGHT_BITS,
    Z_COUNT,
    Z_INVERSE_SCALE,
    Z_MEAN_STEPS,
    Z_MIN,
)

#: First digits of the SHA-256 of cdf.py and models/exact/loops.py, one after the other; a test compares them. numba
#: keeps compiled loops by the contents of this file alone, so it must change when what they take from those two does.
_TAKEN_FROM = "822a0624bddd25a3"

_HEAD_MIN = 1 << 31
_RENORM_SHIFT = 63 - PRECISION
_MASK = (1 << PRECISION) - 1
_TOTAL = 1 << PRECISION
_END = SIGMOID_END << 16
_LAST = (2 * SIGMOID_END << 16) - 1
_FRACTION_MASK = (1 << FRACTION_BITS) - 1
_HALF = MEAN_STEPS // 2
_COUPLE = COUPLING_STEPS // MEAN_STEPS
_EXP_LAST = len(EXP) - 1
_WEIGHT_TOTAL = 1 << WEIGHT_BITS
_SIGMOID = SIGMOID.astype(np.int64)
_SUM_BITS = TABLE_BITS + WEIGHT_BITS


@njit(cache=True, inline="always")
def _below(edge, k, mean, inverse, weight):
    """Sum of weight * sigmoid over the components, below an edge in 1 / MEAN_STEPS values."""
    total = np.int64(0)
    for i in range(k):
        argument = ((edge - mean[i]) * inverse[i] >> INVERSE_SHIFT) + _END
        argument = min(max(argument, 0), _LAST)
        index = argument >> FRACTION_BITS
        left = _SIGMOID[index]
        total += weight[i] * (left + ((_SIGMOID[index + 1] - left) * (argument & _FRACTION_MASK) >> FRACTION_BITS))
    return total


@njit(cache=True, inline="always")
def _components(params, k, channel, pred, red, green, mean, inverse, weight):
    """Means, inverse scales and weights of one channel of one pixel; red and green are residuals of the prediction."""
    top = params[channel * k]
    for i in range(1, k):
        top = max(top, params[channel * k + i])
    total = np.int64(0)
    largest = -1
    for i in range(k):
        logit = params[channel * k + i]
        if largest < 0 and logit == top:
            largest = i
        weight[i] = EXP[min(np.int64(top) - np.int64(logit), _EXP_LAST)]
        total += weight[i]
        shift = np.int64(0)
        if channel == 1:
            shift = np.int64(params[9 * k + i]) * red
        elif channel == 2:
            shift = np.int64(params[10 * k + i]) * red + np.int64(params[11 * k + i]) * green
        mean[i] = np.int64(params[(3 + channel) * k + i]) + pred * MEAN_STEPS + shift // _COUPLE
        inverse[i] = INVERSE_SCALE[params[(6 + channel) * k + i]]
    reciprocal = (np.int64(1) << 40) // total
    rest = np.int64(_WEIGHT_TOTAL)
    for i in range(k):
        weight[i] = weight[i] * reciprocal >> 24
        rest -= weight[i]
    weight[largest] += rest


@njit(cache=True, inline="always")
def _cumulative(j, count, middles, k, mean, inverse, weight):
    if j == 0:
        return np.int64(0)
    if j == count:
        return np.int64(_TOTAL)
    return (_below(np.int64(middles[j]) * _HALF, k, mean, inverse, weight) * (_TOTAL - count) >> _SUM_BITS) + j


@njit(cache=True, parallel=True)
def pixel_intervals(params, image, top, channels, ranks, middles, counts, starts, freqs):
    """Intervals of a band's pixels.

    Parameters
    ----------
    params : array of int16, shape (rows, W, 12 K)
    image : array of uint8, shape (H, W, 3)
    top : int
        The image row of the band's first.
    channels : int
        How many of the channels are coded.
    ranks : array of int32, shape (3, 256)
        Index of each value among those that occur.
    middles : array of int32, shape (3, 257)
        Twice the edge below each index, in pixel values.
    counts : array of int64, shape (3,)
    starts, freqs : arrays of uint32, shape (rows, W, channels)
        Receive the intervals.
    """
    rows, width = params.shape[:2]
    k = params.shape[2] // 12
    for r in prange(rows):
        mean = np.empty(k, np.int64)
        inverse = np.empty(k, np.int64)
        weight = np.empty(k, np.int64)
        y = top + r
        for x in range(width):
            red = np.int64(0)
            green = np.int64(0)
            for channel in range(channels):
                pred = predict(image, y, x, channel)
                _components(params[r, x], k, channel, pred, red, green, mean, inverse, weight)
                value = np.int64(image[y, x, channel])
                j = np.int64(ranks[channel, value])
                start = _cumulative(j, counts[channel], middles[channel], k, mean, inverse, weight)
                end = _cumulative(j + 1, counts[channel], middles[channel], k, mean, inverse, weight)
                starts[r, x, channel] = start
                freqs[r, x, channel] = end - start
                if channel == 0:
                    red = value - pred
                else:
                    green = value - pred


@njit(cache=True, inline="always")
def _push(heads, lane, words, size, start, freq):
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
def _pop(heads, lane, words, size, start, freq):
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
def push_gaussians(heads, words, size, symbols, mean, scale, bits):
    """Push a vector of symbols 0..Z_COUNT-1, symbol k with lane k mod lanes; the first ends on top.

    ``bits[0]`` gains the ideal length of what was pushed, in bits. Returns the new size of the stack.
    """
    for k in range(len(symbols) - 1, -1, -1):
        start = _gaussian(symbols[k], mean[k], scale[k])
        freq = _gaussian(symbols[k] + 1, mean[k], scale[k]) - start
        bits[0] += PRECISION - np.log2(np.float64(freq))
        size = _push(heads, k % len(heads), words, size, np.uint64(start), np.uint64(freq))
    return size


@njit(cache=True)
def pop_gaussians(heads, words, size, symbols, mean, scale, bits):
    """Undo `push_gaussians` into ``symbols``; returns the stack's size, or -1 if it ran dry."""
    for k in range(len(symbols)):
        lane = k % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        low, high = np.int64(0), np.int64(Z_COUNT)
        start, stop = np.int64(0), np.int64(_TOTAL)
        while high - low > 1:
            middle = (low + high) >> 1
            value = _gaussian(middle, mean[k], scale[k])
            if value <= cf:
                low, start = middle, value
            else:
                high, stop = middle, value
        symbols[k] = low
        bits[0] += PRECISION - np.log2(np.float64(stop - start))
        size = _pop(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
        if size < 0:
            return -1
    return size


@njit(cache=True, inline="always")
def _coarse(r, mean, scale, centre, step):
    """Cumulative frequency below bin r of a lattice of ``step`` grid bins, bin 0 around ``centre``."""
    return _gaussian(min(max(centre + r * step - step // 2 - Z_MIN, 0), Z_COUNT), mean, scale)


@njit(cache=True)
def coarse_intervals(symbols, mean, scale, centre, step, starts, freqs):
    """Intervals of symbols on a coarse lattice, see `vlae_codec.formats.lossy`."""
    for k in range(len(symbols)):
        starts[k] = _coarse(symbols[k], mean[k], scale[k], centre[k], step)
        freqs[k] = _coarse(symbols[k] + 1, mean[k], scale[k], centre[k], step) - starts[k]


@njit(cache=True)
def pop_coarse(heads, words, size, symbols, mean, scale, centre, step):
    """Pop symbols that were pushed with `coarse_intervals`; returns the stack's size, or -1 if it ran dry."""
    for k in range(len(symbols)):
        lane = k % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        low, high = np.int64(-Z_COUNT // step - 1), np.int64(Z_COUNT // step + 2)
        while high - low > 1:
            middle = (low + high) >> 1
            if _coarse(middle, mean[k], scale[k], centre[k], step) <= cf:
                low = middle
            else:
                high = middle
        symbols[k] = low
        start = _coarse(low, mean[k], scale[k], centre[k], step)
        stop = _coarse(low + 1, mean[k], scale[k], centre[k], step)
        size = _pop(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
        if size < 0:
            return -1
    return size


@njit(cache=True)
def push_intervals(heads, words, size, starts, freqs):
    """Push a vector of intervals, number k with lane k mod lanes; the first ends on top. Returns the stack's size."""
    for k in range(len(starts) - 1, -1, -1):
        size = _push(heads, k % len(heads), words, size, np.uint64(starts[k]), np.uint64(freqs[k]))
    return size


@njit(cache=True)
def pop_bernoulli(heads, words, size, zeros, first, symbols):
    """Pop bits into ``symbols``, bit k with lane (first + k) mod lanes.

    ``zeros`` are the frequencies of the symbol 0. Returns the stack's size, or -1 if it ran dry.
    """
    for k in range(len(symbols)):
        lane = (first + k) % len(heads)
        cf = np.int64(heads[lane] & np.uint64(_MASK))
        symbols[k] = cf >= zeros[k]
        if symbols[k]:
            size = _pop(heads, lane, words, size, np.uint64(zeros[k]), np.uint64(_TOTAL - zeros[k]))
        else:
            size = _pop(heads, lane, words, size, np.uint64(0), np.uint64(zeros[k]))
        if size < 0:
            return -1
    return size


@njit(cache=True, inline="always")
def _rows_of_step(t, skew, rows, width):
    """First and last-plus-one row of the pixels with x + skew * y == t."""
    first = max((t - width) // skew + 1, 0)
    return first, min(t // skew + 1, rows)


@njit(cache=True)
def push_wavefront(heads, words, size, starts, freqs, skew):
    """Push a stage's intervals so that they pop in wavefront order; returns the new size of the stack.

    Step t holds the pixels with x + skew * y == t, from the top down. A step's symbols are popped channel by channel,
    each channel as a vector over its pixels, pixel k with lane k mod lanes.
    """
    rows, width, channels = starts.shape
    lanes = len(heads)
    for t in range(width + skew * (rows - 1) - 1, -1, -1):
        first, end = _rows_of_step(t, skew, rows, width)
        for channel in range(channels - 1, -1, -1):
            for y in range(end - 1, first - 1, -1):
                lane = (y - first) % lanes
                x = t - skew * y
                start, freq = np.uint64(starts[y, x, channel]), np.uint64(freqs[y, x, channel])
                size = _push(heads, lane, words, size, start, freq)
    return size


@njit(cache=True)
def pop_step(heads, words, size, params, image, top, t, skew, first, end, channels, ranks, middles, counts, values):
    """Pop one step's pixels into the image, given their parameters; returns the stack's size, or -1 if it ran dry."""
    k = params.shape[1] // 12
    lanes = len(heads)
    mean = np.empty(k, np.int64)
    inverse = np.empty(k, np.int64)
    weight = np.empty(k, np.int64)
    for channel in range(channels):
        count = counts[channel]
        for y in range(first, end):
            x = t - skew * y
            lane = (y - first) % lanes
            pred = predict(image, top + y, x, channel)
            red = np.int64(0)
            green = np.int64(0)
            if channel > 0:
                red = np.int64(image[top + y, x, 0]) - predict(image, top + y, x, 0)
            if channel > 1:
                green = np.int64(image[top + y, x, 1]) - predict(image, top + y, x, 1)
            _components(params[y - first], k, channel, pred, red, green, mean, inverse, weight)
            cf = np.int64(heads[lane] & np.uint64(_MASK))
            low, high = np.int64(0), np.int64(count)
            start, stop = np.int64(0), np.int64(_TOTAL)
            while high - low > 1:
                middle = (low + high) >> 1
                value = _cumulative(middle, count, middles[channel], k, mean, inverse, weight)
                if value <= cf:
                    low, start = middle, value
                else:
                    high, stop = middle, value
            size = _pop(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
            if size < 0:
                return -1
            symbol = values[channel, low]
            image[top + y, x, channel] = symbol
            if channels == 1:
                image[top + y, x, 1] = symbol
                image[top + y, x, 2] = symbol
    return size


@njit(cache=True, parallel=True)
def pop_wavefront(
    net,
    heads,
    words,
    size,
    image,
    top,
    bottom,
    z,
    ring,
    boundary,
    scratch,
    params,
    begin,
    end,
    skew,
    threads,
    channels,
    ranks,
    middles,
    counts,
    values,
):
    """Pop the steps ``begin`` to ``end - 1`` of a stage; returns the stack's size, or -1 if it ran dry.

    With ``channels`` 0 only the network runs, over the image as it is: a benchmark tells the shares apart so.
    """
    rows, width = bottom - top, image.shape[1]
    for t in range(begin, end):
        first, last = _rows_of_step(t, skew, rows, width)
        count = last - first
        if count <= 0:
            continue
        share = (count + threads - 1) // threads
        # The scratch arrays hold so many rows; a share may need several rounds.
        room = scratch[0][0].shape[0]
        for thread in prange(threads):
            low = first + thread * share
            high = min(low + share, last)
            inputs, gathered, acc, stream, active, out = scratch
            mine = (inputs[thread], gathered[thread], acc[thread], stream[thread], active[thread], out[thread])
            while low < high:
                stop = min(low + room, high)
                network_rows(net, image, top, t, skew, first, low, stop, z, ring, boundary, mine, params)
                low = stop
        if channels:
            size = pop_step(
                heads, words, size, params, image, top, t, skew, first, last, channels, ranks, middles, counts, values
            )
            if size < 0:
                return -1
    return size
