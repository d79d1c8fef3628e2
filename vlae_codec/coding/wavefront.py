# mypy: disable-error-code="no-untyped-def, call-overload"
"""A stage's pixels in compiled loops: their intervals, and pushes and pops in wavefront order.

Step t holds the pixels with x + skew * y == t, from the top down; of M messages each codes its share of them, see
`share_of`. A share's symbols are popped channel by channel, each channel as a vector over its pixels, pixel k with lane
k mod lanes. All arithmetic is on integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from vlae_codec.compiled import inner
from vlae_codec.entropy.cdf import (
    COUPLING_STEPS,
    EXP,
    FRACTION_BITS,
    INVERSE_SCALE,
    INVERSE_SHIFT,
    MEAN_STEPS,
    PRECISION,
    SIGMOID,
    SIGMOID_END,
    TABLE_BITS,
    WEIGHT_BITS,
)
from vlae_codec.entropy.kernels import pop_one, push_one
from vlae_codec.models.exact.loops import predict
from vlae_codec.models.exact.steps import RING, network_rows, rows_of_step

#: First digits of the SHA-256 of the records' fields, entropy/cdf.py, entropy/kernels.py, models/exact/loops.py and
#: models/exact/steps.py; a test compares them. numba keeps compiled loops by the contents of this file alone, so it
#: must change when what they take from elsewhere does.
_TAKEN_FROM = "f93023ba515f98e2"

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
#: Rows that are counted at once.
_ROWS_AT_ONCE = 256


class Alphabet(NamedTuple):
    """The values that occur in each channel, and the tables that the loops want."""

    #: Index of each value among those that occur, int32 (3, 256).
    ranks: NDArray[np.int32]
    #: Twice the edge below each index, in pixel values, int32 (3, 257).
    middles: NDArray[np.int32]
    #: How many values occur, int64 (channels,).
    counts: NDArray[np.int64]
    #: They themselves, sorted, uint8 (3, 256).
    values: NDArray[np.uint8]

    @property
    def channels(self) -> int:
        """How many channels are coded."""
        return len(self.counts)

    @property
    def occurring(self) -> NDArray[np.bool_]:
        """Which values occur, (channels, 256)."""
        found = np.zeros((self.channels, 256), np.bool_)
        for c, count in enumerate(self.counts):
            found[c, self.values[c, :count]] = True
        return found

    @property
    def certain(self) -> bool:
        """Whether every channel has one value: the pixels are known, so they cost no bits and need no network."""
        return bool((self.counts == 1).all())

    @classmethod
    def having(cls, occurring: NDArray[np.bool_]) -> Alphabet:
        """That of values that occur, (channels, 256)."""
        made = cls(
            np.zeros((3, 256), np.int32), np.zeros((3, 257), np.int32), occurring.sum(1).astype(np.int64),
            np.zeros((3, 256), np.uint8),
        )  # fmt: skip
        for c, row in enumerate(occurring):
            values = np.flatnonzero(row)
            made.values[c, : len(values)] = values
            made.ranks[c, values] = np.arange(len(values))
            made.middles[c, 1 : len(values)] = values[1:] + values[:-1]
        return made

    @classmethod
    def of(cls, image: NDArray[np.uint8], channels: int) -> Alphabet:
        """That of an image (H, W, 3)."""
        occurring = np.zeros((channels, 256), np.bool_)
        for top in range(0, len(image), _ROWS_AT_ONCE):
            rows = image[top : top + _ROWS_AT_ONCE]
            for c in range(channels):
                occurring[c] |= np.bincount(rows[..., c].ravel(), minlength=256) > 0
        return cls.having(occurring)


# What is filled in here within a loop is one array, `mixture`, (3, K): means, inverse scales and weights of the
# components of one channel of one pixel. A record made here numba would take, once inlined, for values nobody reads.


@njit(cache=True, inline="always")
def sigmoid(argument):
    """The table's sigmoid of an argument in units of 2^-16."""
    argument = min(max(argument + _END, 0), _LAST)
    index = argument >> FRACTION_BITS
    left = _SIGMOID[index]
    return left + ((_SIGMOID[index + 1] - left) * (argument & _FRACTION_MASK) >> FRACTION_BITS)


@njit(cache=True, inline="always")
def sigmoid_argument(edge, mixture, i):
    """Where an edge in 1 / MEAN_STEPS values lies in a component, in units of 2^-16 of its scale."""
    return (edge - mixture[0, i]) * mixture[1, i] >> INVERSE_SHIFT


@njit(cache=True, inline="always")
def _below(edge, mixture):
    """Sum of weight * sigmoid over the components, below an edge in 1 / MEAN_STEPS values."""
    total = np.int64(0)
    for i in range(mixture.shape[1]):
        total += mixture[2, i] * sigmoid(sigmoid_argument(edge, mixture, i))
    return total


@njit(cache=True, inline="always")
def frequency_below(total, j, count):
    """Cumulative frequency below the j-th of the values that occur, from what `_below` sums up."""
    return (total * (_TOTAL - count) >> _SUM_BITS) + j


@njit(cache=True, inline="always")
def mixture_components(params, channel, pred, red, green, mixture):
    """Fill in the mixture of one channel of one pixel; red and green are residuals of the prediction."""
    k = mixture.shape[1]
    top = params[channel * k]
    for i in range(1, k):
        top = max(top, params[channel * k + i])
    total = np.int64(0)
    largest = -1
    for i in range(k):
        logit = params[channel * k + i]
        if largest < 0 and logit == top:
            largest = i
        mixture[2, i] = EXP[min(np.int64(top) - np.int64(logit), _EXP_LAST)]
        total += mixture[2, i]
        shift = np.int64(0)
        if channel == 1:
            shift = np.int64(params[9 * k + i]) * red
        elif channel == 2:
            shift = np.int64(params[10 * k + i]) * red + np.int64(params[11 * k + i]) * green
        mixture[0, i] = np.int64(params[(3 + channel) * k + i]) + pred * MEAN_STEPS + shift // _COUPLE
        mixture[1, i] = INVERSE_SCALE[params[(6 + channel) * k + i]]
    reciprocal = (np.int64(1) << 40) // total
    rest = np.int64(_WEIGHT_TOTAL)
    for i in range(k):
        mixture[2, i] = mixture[2, i] * reciprocal >> 24
        rest -= mixture[2, i]
    mixture[2, largest] += rest


@njit(cache=True, inline="always")
def cumulative(j, count, middles, mixture):
    """Cumulative frequency below the j-th of the values that occur."""
    if j == 0:
        return np.int64(0)
    if j == count:
        return np.int64(_TOTAL)
    return frequency_below(_below(np.int64(middles[j]) * _HALF, mixture), j, count)


@njit(cache=True, inline="always")
def symbol_interval(j, count, middles, mixture):
    """Start and frequency of the j-th of the values that occur."""
    start = cumulative(j, count, middles, mixture)
    return start, cumulative(j + 1, count, middles, mixture) - start


@njit(cache=True, parallel=True)
def pixel_intervals(params, image, top, alphabet, starts, freqs):
    """Intervals of a band's pixels.

    Parameters
    ----------
    params : array of int16, shape (rows, W, 12 K)
    image : array of uint8, shape (H, W, 3)
    top : int
        The image row of the band's first.
    alphabet : Alphabet
    starts, freqs : arrays of uint32, shape (rows, W, channels)
        Receive the intervals. As a record numba would take a parallel loop that fills them for one without effect.
    """
    rows, width = params.shape[:2]
    k = params.shape[2] // 12
    counts, ranks, middles = alphabet.counts, alphabet.ranks, alphabet.middles
    for r in prange(rows):
        mixture = np.empty((3, k), np.int64)
        y = top + r
        for x in range(width):
            red = np.int64(0)
            green = np.int64(0)
            for channel in range(len(counts)):
                pred = predict(image, y, x, channel)
                mixture_components(params[r, x], channel, pred, red, green, mixture)
                value = np.int64(image[y, x, channel])
                j = np.int64(ranks[channel, value])
                start, freq = symbol_interval(j, counts[channel], middles[channel], mixture)
                starts[r, x, channel] = start
                freqs[r, x, channel] = freq
                if channel == 0:
                    red = value - pred
                else:
                    green = value - pred


@njit(cache=True, inline="always")
def share_of(part, parts, count):
    """First and last-plus-one of the places 0..count - 1 that fall to one of several parts."""
    return part * count // parts, (part + 1) * count // parts


@inner
def own_share(thread, threads, messages, count):
    """First and last-plus-one of a thread's messages, and of the places 0..count - 1 that are theirs.

    Where there are fewer messages than threads, none has any, and its share of the places.
    """
    if messages < threads:
        low, high = share_of(thread, threads, count)
        return 0, 0, low, high
    begin, end = share_of(thread, threads, messages)
    low, _ = share_of(begin, messages, count)
    high, _ = share_of(end, messages, count)
    return begin, end, low, high


@inner
def _message_bits(freqs, skew, message, messages):
    """Ideal code length of a message's share of intervals (rows, W, channels)."""
    rows, width, channels = freqs.shape
    bits = 0.0
    for t in range(width + skew * (rows - 1)):
        first, end = rows_of_step(t, skew, rows, width)
        low, high = share_of(message, messages, end - first)
        for y in range(first + low, first + high):
            for channel in range(channels):
                bits += PRECISION - np.log2(np.float64(freqs[y, t - skew * y, channel]))
    return bits


@njit(cache=True, parallel=True)
def message_bits(freqs, skew, bits):
    """Ideal code lengths of the shares of several messages, into ``bits``."""
    for message in prange(len(bits)):
        bits[message] = _message_bits(freqs, skew, np.int64(message), len(bits))


@inner
def _push_message(stacks, intervals, skew, message):
    """Push a message's share of a stage's intervals."""
    starts, freqs = intervals.starts, intervals.freqs
    heads, words = stacks.heads[message], stacks.words[stacks.begins[message] :]
    size, messages = stacks.sizes[message], len(stacks.sizes)
    rows, width, channels = starts.shape
    lanes = len(heads)
    for t in range(width + skew * (rows - 1) - 1, -1, -1):
        first, end = rows_of_step(t, skew, rows, width)
        low, high = share_of(message, messages, end - first)
        for channel in range(channels - 1, -1, -1):
            for k in range(high - low - 1, -1, -1):
                y = first + low + k
                x = t - skew * y
                start, freq = np.uint64(starts[y, x, channel]), np.uint64(freqs[y, x, channel])
                size = push_one(heads, k % lanes, words, size, start, freq)
    stacks.sizes[message] = size


@njit(cache=True, parallel=True)
def push_wavefront(stacks, intervals, skew):
    """Push a stage's intervals, arrays (rows, W, channels), so that they pop in wavefront order."""
    for message in prange(len(stacks.sizes)):
        _push_message(stacks, intervals, skew, np.int64(message))


@inner
def pop_messages(stacks, area, params, t, alphabet, begin, end):
    """Pop the shares of the messages ``begin`` to ``end - 1`` of step t's pixels into the image.

    ``params`` are those of the step's pixels. The size of a message that held too little becomes -1.
    """
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    for message in range(begin, end):
        low, high = share_of(message, len(stacks.sizes), last - first)
        size = _pop_rows(stacks, message, area, params[low:high], t, alphabet, first + low)
        stacks.sizes[message] = size
        if size < 0:
            return


@inner
def pop_rest(stacks, area, params, t, alphabet, threads):
    """Pop step t's pixels where the threads have not done it; whether all messages held enough."""
    messages = len(stacks.sizes)
    if messages < threads:
        pop_messages(stacks, area, params, t, alphabet, 0, messages)
    return stacks.sizes.min() >= 0


@inner
def _pop_rows(stacks, message, area, params, t, alphabet, top):
    """Pop so many pixels of step t as there are parameters, the first in row ``top``; the new size of the message."""
    image, skew = area.image, area.skew
    heads, words = stacks.heads[message], stacks.words[stacks.begins[message] :]
    size = stacks.sizes[message]
    lanes, channels = len(heads), len(alphabet.counts)
    mixture = np.empty((3, params.shape[1] // 12), np.int64)
    for channel in range(channels):
        count = alphabet.counts[channel]
        middles = alphabet.middles[channel]
        for k in range(len(params)):
            lane = k % lanes
            y, x = area.top + top + k, t - skew * (top + k)
            pred = predict(image, y, x, channel)
            red = np.int64(0)
            green = np.int64(0)
            if channel > 0:
                red = np.int64(image[y, x, 0]) - predict(image, y, x, 0)
            if channel > 1:
                green = np.int64(image[y, x, 1]) - predict(image, y, x, 1)
            mixture_components(params[k], channel, pred, red, green, mixture)
            cf = np.int64(heads[lane] & np.uint64(_MASK))
            low, high = np.int64(0), np.int64(count)
            start, stop = np.int64(0), np.int64(_TOTAL)
            while high - low > 1:
                middle = (low + high) >> 1
                value = cumulative(middle, count, middles, mixture)
                if value <= cf:
                    low, start = middle, value
                else:
                    high, stop = middle, value
            size = pop_one(heads, lane, words, size, np.uint64(start), np.uint64(stop - start))
            if size < 0:
                return size
            symbol = alphabet.values[channel, low]
            image[y, x, channel] = symbol
            if channels == 1:
                image[y, x, 1] = symbol
                image[y, x, 2] = symbol
    return size


@inner
def _network_share(net, area, features, caches, thread, t, low, high):
    """The network on the rows ``low`` to ``high - 1`` of step t, in rounds, as a thread's arrays hold so many rows."""
    room = caches.inputs.shape[1]
    while low < high:
        stop = min(low + room, high)
        network_rows(net, area, features, caches, thread, t, low, stop)
        low = stop


@inner
def _step_share(net, area, features, caches, thread, t):
    """The network on a thread's share of step t."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    low, high = share_of(thread, caches.inputs.shape[0], last - first)
    _network_share(net, area, features, caches, thread, t, first + low, first + high)


@njit(cache=True, parallel=True)
def run_network(net, area, features, caches, begin, end):
    """The network over the steps ``begin`` to ``end - 1`` of an image that is known."""
    threads = caches.inputs.shape[0]
    for t in range(begin, end):
        for thread in prange(threads):
            _step_share(net, area, features, caches, np.int64(thread), t)


@inner
def _decode_share(net, stacks, area, features, caches, alphabet, thread, t):
    """The network on a thread's share of step t, and the pops of the messages that it has to itself, if any."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    begin, end, low, high = own_share(thread, caches.inputs.shape[0], len(stacks.sizes), last - first)
    _network_share(net, area, features, caches, thread, t, first + low, first + high)
    pop_messages(stacks, area, caches.params, t, alphabet, begin, end)


@njit(cache=True, parallel=True)
def pop_wavefront(net, stacks, area, features, caches, alphabet, begin, end):
    """Pop the steps ``begin`` to ``end - 1`` of a stage; returns whether the messages held enough.

    Parameters
    ----------
    net : models.exact.loops.Network
    stacks : Stacks
    area : models.exact.steps.Area
    features : array of int16, shape (h, w, channels)
        Of the stage; empty without z.
    caches : models.exact.steps.Caches
    alphabet : Alphabet
    begin, end : int
    """
    threads = caches.inputs.shape[0]
    for t in range(begin, end):
        # Where each thread has messages of its own none waits for another between network and pops.
        for thread in prange(threads):
            _decode_share(net, stacks, area, features, caches, alphabet, np.int64(thread), t)
        if not pop_rest(stacks, area, caches.params, t, alphabet, threads):
            return False
    return True


@njit(cache=True, parallel=True)
def fill_boundary(net, area, features, caches, boundary):
    """The masked layers' inputs in an area's last rows, into `Caches.boundary`.

    The area is the halo: the rows above a stage that its first row depends on. ``features`` are empty.
    """
    rows, width, threads = area.bottom - area.top, area.image.shape[1], caches.inputs.shape[0]
    for t in range(width + area.skew * (rows - 1)):
        for thread in prange(threads):
            _step_share(net, area, features, caches, np.int64(thread), t)
        _keep_last(area, caches, t, boundary)


@inner
def _keep_last(area, caches, t, boundary):
    """`fill_boundary` of step t."""
    rows, width = area.bottom - area.top, area.image.shape[1]
    kept, reach = caches.ring.shape[1], boundary.shape[1]
    for y in range(max(rows - reach, 0), rows):
        x = t - area.skew * y
        if 0 <= x < width:
            for block in range(boundary.shape[0]):
                for c in range(boundary.shape[3]):
                    value = caches.ring[block, (y + reach) % kept, x & (RING - 1), c]
                    boundary[block, reach - rows + y, x + reach, c] = value
