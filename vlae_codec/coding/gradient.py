# mypy: disable-error-code="no-untyped-def"
"""The gradient of a pixel's code length by what the network says of it, in compiled loops."""

from __future__ import annotations

import numpy as np

from vlae_codec.compiled import inner
from vlae_codec.entropy.cdf import INVERSE_SHIFT, MEAN_STEPS, PRECISION, TABLE_BITS
from vlae_codec.models.exact.loops import predict
from vlae_codec.models.plan import MEAN_UNIT

from .wavefront import frequency_below, mixture_components, sigmoid, sigmoid_argument

#: As `wavefront._TAKEN_FROM`, of models/plan.py and coding/wavefront.py too.
_TAKEN_FROM = "465e5c064c130069"

_HALF = MEAN_STEPS // 2
_UNIT = 1.0 / (1 << 16)
_TABLE = 1.0 / (1 << TABLE_BITS)
_TOTAL = float(1 << PRECISION)
_INVERSE = MEAN_STEPS / float(1 << (16 + INVERSE_SHIFT))


@inner
def pixel_gradient(params, image, y, x, alphabet, scratch, gradient, interval):
    """The gradient of a pixel's code length in nats by its outputs, in the likelihood's units; and its intervals."""
    mixture, edges = scratch[:3], scratch[3:]
    k = mixture.shape[1]
    gradient[:] = 0.0
    red = np.int64(0)
    green = np.int64(0)
    for channel in range(len(alphabet.counts)):
        pred = predict(image, y, x, channel)
        mixture_components(params, channel, pred, red, green, mixture)
        value = np.int64(image[y, x, channel])
        j = np.int64(alphabet.ranks[channel, value])
        count = alphabet.counts[channel]
        middles = alphabet.middles[channel]
        # Below the value and above it, one after the other: sums, arguments and sigmoids.
        start, stop = np.int64(0), np.int64(1 << PRECISION)
        for i in range(k):
            edges[0, i], edges[1, i], edges[2, i], edges[3, i] = 0, 0, 0, 1 << TABLE_BITS
        if j > 0:
            total, edge = np.int64(0), np.int64(middles[j]) * _HALF
            for i in range(k):
                edges[0, i] = sigmoid_argument(edge, mixture, i)
                edges[2, i] = sigmoid(edges[0, i])
                total += mixture[2, i] * edges[2, i]
            start = frequency_below(total, j, count)
        if j + 1 < count:
            total, edge = np.int64(0), np.int64(middles[j + 1]) * _HALF
            for i in range(k):
                edges[1, i] = sigmoid_argument(edge, mixture, i)
                edges[3, i] = sigmoid(edges[1, i])
                total += mixture[2, i] * edges[3, i]
            stop = frequency_below(total, j + 1, count)
        freq = stop - start
        interval[0, channel] = start
        interval[1, channel] = freq
        inverse = _TOTAL / np.float64(freq)
        for i in range(k):
            low, high = np.float64(edges[2, i]) * _TABLE, np.float64(edges[3, i]) * _TABLE
            low_away, high_away = np.float64(edges[0, i]) * _UNIT, np.float64(edges[1, i]) * _UNIT
            weight = np.float64(mixture[2, i]) * _UNIT
            share = weight * inverse
            gradient[channel * k + i] = weight - share * (high - low)
            low_slope, high_slope = low * (1.0 - low), high * (1.0 - high)
            by_mean = share * (high_slope - low_slope) * (mixture[1, i] * _INVERSE)
            gradient[(3 + channel) * k + i] = by_mean * MEAN_UNIT
            gradient[(6 + channel) * k + i] = share * (high_slope * high_away - low_slope * low_away)
            if channel == 1:
                gradient[9 * k + i] = by_mean * red
            elif channel == 2:
                gradient[10 * k + i] = by_mean * red
                gradient[11 * k + i] = by_mean * green
        if channel == 0:
            red = value - pred
        else:
            green = value - pred
