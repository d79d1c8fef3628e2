# mypy: disable-error-code="no-untyped-def, assignment"
"""Photographs drawn from their z: the local decoder's detail, held near the synthesis' reconstruction y.

Popped pixel by pixel, p(x | z, window) drifts away from y, as each pixel is drawn given others that were drawn. So each
value is drawn from p(x | z, window) * p0(x | z), normalised. p0 is a logistic around y: wide where y is busy, as it is
wrong by more there, and for green and blue around y plus what the channel before was drawn away from it, and narrower,
so that the detail has the colours of y. All arithmetic is on integers, so that a seed gives the same picture on every
machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from vlae_codec.entropy.cdf import INVERSE_SCALE, INVERSE_SHIFT, MEAN_STEPS, PRECISION, SCALE_STEPS, WEIGHT_BITS
from vlae_codec.models.exact.loops import predict
from vlae_codec.models.exact.steps import Area, Caches, rows_of_step
from vlae_codec.models.exact.synthesis import Strip
from vlae_codec.models.plan import PIXEL_CENTRE, Y_STEPS
from vlae_codec.stages import Progress, no_progress

from .latent import Z
from .photo import PhotoCoder, strides
from .wavefront import cumulative, fill_boundary, mixture_components, run_network, share_of

#: As `wavefront._TAKEN_FROM`, of coding/wavefront.py too.
_TAKEN_FROM = "101e19f95b10c323"

#: p0's scale is `GAIN` times the root of y's activity, in pixel values: the mean of what y changes by from a pixel to
#: the one below and to its right, over `AROUND` pixels each way. About three times the root is the scale of what y is
#: wrong by on training photographs (|x - y| of 4 where the activity is 0.9, of 16 where it is 20), but draws that keep
#: nearer to y look better.
GAIN, AROUND = 1, 4
#: Lowest and highest index of p0's scale: 0.7 and 14 pixel values.
SCALES = (84, 180)
#: How many steps less p0's scale has for green and blue, which are held to what was drawn of the channel before: e^-1.5
#: times as wide.
NARROWER = 3 * SCALE_STEPS // 2
#: Values farther from p0's middle than so many times its scale are never drawn.
REACH = 8

#: Scales in units of 1 / MEAN_STEPS, by their index.
_UNITS = (1 << (16 + INVERSE_SHIFT)) // INVERSE_SCALE
_REACHES = REACH * _UNITS // MEAN_STEPS + 1
_PLACES = (2 * AROUND + 1) ** 2
#: Least sum of changes in 1 / Y_STEPS over `_PLACES` pixels and three channels with which a scale is taken.
_CHANGES = -(-(_UNITS**2) * (_PLACES * 3 * Y_STEPS) // (GAIN * MEAN_STEPS) ** 2)
#: Twice the edge below each value, as `Alphabet.middles` has them where all values occur.
_MIDDLES = 2 * np.arange(257, dtype=np.int64) - 1
_ONE = 1 << WEIGHT_BITS
_MASK = (1 << PRECISION) - 1
#: By how much a word of chance is longer than a frequency.
_SPARE = 32 - PRECISION


class Pull(NamedTuple):
    """What a strip is drawn by."""

    #: p0's middle in units of 1 / MEAN_STEPS, int16 (rows, W, channels); one channel for grey.
    y: NDArray[np.int16]
    #: Index of its scale, uint8 (rows, W).
    scales: NDArray[np.uint8]
    #: Random words, uint32 (rows, W, channels).
    chances: NDArray[np.uint32]

    @classmethod
    def of(
        cls, y: NDArray[np.int16], scales: NDArray[np.uint8], channels: int, rng: np.random.Generator
    ) -> Pull:  # fmt: skip
        """That of a strip's y, (rows, W, 3) as in `Strip`, and its scales."""
        middles = (y.astype(np.int32) + int(PIXEL_CENTRE) * Y_STEPS) * (MEAN_STEPS // Y_STEPS)
        if channels == 1:
            middles = middles.sum(2, keepdims=True) // 3
        chances = rng.integers(0, 1 << 32, middles.shape, np.uint32)
        return cls(middles.astype(np.int16), np.ascontiguousarray(scales), chances)


def scales_of(y: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Index of p0's scale at each pixel of y, as in `Strip`: uint8 (rows, W)."""
    wide = y.astype(np.int64)
    changes = sum(np.abs(np.diff(wide, axis=axis, append=wide.take([-1], axis))).sum(2) for axis in (0, 1))
    for axis in (0, 1):
        # Differences of running sums are sums over a window, the last row or column repeated beyond the strip's ends.
        beside = [(0, 0), (0, 0)]
        beside[axis] = (AROUND + 1, AROUND)
        running = np.pad(changes, beside, mode="edge").cumsum(axis)
        last, first = (np.arange(y.shape[axis]) + shift for shift in (2 * AROUND + 1, 0))
        changes = running.take(last, axis) - running.take(first, axis)
    return (np.searchsorted(_CHANGES, changes, side="right") - 1).clip(*SCALES).astype(np.uint8)


def sample_photograph(
    coder: PhotoCoder, z: Z, shape: tuple[int, int], seed: int, channels: int = 3, progress: Progress = no_progress
) -> NDArray[np.uint8]:
    """Draw a photograph given its z.

    Parameters
    ----------
    coder : PhotoCoder
    z : array of int64, shape (h, w, z_channels)
    shape : tuple of int
        Height and width.
    seed : int
    channels : int
        1 for a grey photograph, whose three channels are one.
    progress : function

    Returns
    -------
    uint8, (H, W, 3).
    """
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    rng = np.random.Generator(np.random.PCG64(seed))
    above = np.zeros((0, 0, coder.config.channels), np.int16)
    for strip, scales in _with_scales(coder.synthesis.strips(z, True)):
        rows = min(len(strip.y), height - strip.first)
        pull = Pull.of(strip.y[:rows, :width], scales[:rows, :width], channels, rng)
        above = _draw_strip(coder, image, strip, above, pull)
        progress(rows * width)
    return image


def _with_scales(strips: Iterator[Strip]) -> Iterator[tuple[Strip, NDArray[np.uint8]]]:
    """Each strip and its scales, which are those of the whole: rows of the strips above and below are looked at."""
    reach = AROUND + 1
    strip = next(strips, None)
    above = np.zeros((0, 0, 3), np.int16)
    while strip is not None:
        below = next(strips, None)
        parts = [strip.y] if below is None else [strip.y, below.y[:reach]]
        y = np.concatenate([above, *parts] if len(above) else parts)
        yield strip, scales_of(y)[len(above) : len(above) + len(strip.y)]
        above = strip.y[-reach:]
        strip = below


def _draw_strip(
    coder: PhotoCoder, image: NDArray[np.uint8], strip: Strip, above: NDArray[np.int16], pull: Pull
) -> NDArray[np.int16]:
    """Draw a strip's rows into an image, given the features of the rows above that it sees; its own last ones."""
    assert strip.features is not None
    rows, width = pull.scales.shape
    skew, halo = coder.config.skew, coder.model.halo
    area = Area(image, strip.first, strip.first + rows, skew)
    caches = Caches.of(coder.model, area, get_num_threads())
    if len(above) and halo:
        before = Area(image, area.top - len(above), area.top, skew)
        fill_boundary(
            coder.arrays, before, above, Caches.of(coder.model, before, get_num_threads()), caches.boundary
        )  # fmt: skip
    features = np.ascontiguousarray(strip.features[:rows, :width])
    for begin, end in strides(width + skew * (rows - 1)):
        draw_wavefront(coder.arrays, area, features, caches, pull, begin, end)
    return features[max(rows - halo, 0) :].copy()


@njit(cache=True)
def _draw(mixture, around, scale, chance, products):
    """A value of 0..255 drawn from the product of a mixture and a logistic, by a random word."""
    middle = around[0, 0] // MEAN_STEPS
    low, high = max(middle - _REACHES[scale], 0), min(middle + 1 + _REACHES[scale], 255)
    below, near_below = cumulative(low, 256, _MIDDLES, mixture), cumulative(low, 256, _MIDDLES, around)
    total = np.int64(0)
    for value in range(low, high + 1):
        above = cumulative(value + 1, 256, _MIDDLES, mixture)
        near_above = cumulative(value + 1, 256, _MIDDLES, around)
        # At least 1, and all of them at most 2^48.
        products[value] = (above - below) * (near_above - near_below)
        total += products[value]
        below, near_below = above, near_above
    # floor(total * chance / 2^24), without a product of more than 63 bits.
    rest = (total >> PRECISION) * chance + ((total & _MASK) * chance >> PRECISION)
    value = low
    while rest >= products[value]:
        rest -= products[value]
        value += 1
    return value


@njit(cache=True)
def _draw_rows(params, area, pull, t, low, high):
    """Draw the rows ``low`` to ``high - 1`` of step t."""
    image, channels = area.image, pull.y.shape[2]
    first, _ = rows_of_step(t, area.skew, area.bottom - area.top, image.shape[1])
    mixture, around = np.empty((3, params.shape[1] // 12), np.int64), np.empty((3, 1), np.int64)
    around[2, 0] = _ONE
    products = np.empty(256, np.int64)
    for row in range(low, high):
        y, x = area.top + row, t - area.skew * row
        red, green, away = np.int64(0), np.int64(0), np.int64(0)
        scale = np.int64(pull.scales[row, x])
        for channel in range(channels):
            pred = predict(image, y, x, channel)
            mixture_components(params[row - first], channel, pred, red, green, mixture)
            own = np.int64(pull.y[row, x, channel])
            around[0, 0] = min(max(own + away, 0), 255 * MEAN_STEPS)
            around[1, 0] = INVERSE_SCALE[scale]
            value = _draw(mixture, around, scale, np.int64(pull.chances[row, x, channel]) >> _SPARE, products)
            image[y, x, channel] = value
            if channel == 0:
                red = value - pred
                scale -= NARROWER
            else:
                green = value - pred
            away = value * MEAN_STEPS - own
        if channels == 1:
            image[y, x, 1] = image[y, x, 0]
            image[y, x, 2] = image[y, x, 0]


@njit(cache=True, parallel=True)
def _draw_step(params, area, pull, t, threads):
    """Draw the pixels of step t."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    for thread in prange(threads):
        low, high = share_of(thread, threads, last - first)
        _draw_rows(params, area, pull, t, first + low, first + high)


@njit(cache=True)
def draw_wavefront(net, area, features, caches, pull, begin, end):
    """Draw the steps ``begin`` to ``end - 1`` of a strip.

    Parameters
    ----------
    net : models.exact.loops.Network
    area : models.exact.steps.Area
        Of the strip's rows, which are written.
    features : array of int16, shape (rows, W, channels)
    caches : models.exact.steps.Caches
    pull : Pull
    begin, end : int
    """
    for t in range(begin, end):
        run_network(net, area, features, caches, t, t + 1)
        _draw_step(caches.params, area, pull, t, caches.inputs.shape[0])
