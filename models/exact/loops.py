# mypy: disable-error-code="no-untyped-def"
"""The decoder's network in compiled loops: the pixels of one wavefront step, and what lies between a band's products.

float32 holds every sum exactly, in whatever order a matrix product adds it up. fastmath stays off, as a layer's one
multiplication must round as IEEE 754 says.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  the library of compiled products, loaded before its threads are limited
from numba import config as numba_config
from numba import njit, prange, set_num_threads
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from vlae_codec.models.plan import NEIGHBOURS, STREAM_LIMIT, output_limits

from .integer import IntegerLayer, IntegerModel

#: Columns of each row whose activations the step-by-step pass keeps: the five neighbours of the row below lag behind
#: by at most window_right + 2 columns, and a power of two makes the place of a column a mask.
RING = 16
#: Pixels of a step that one thread takes through the network at once: few enough for its cache.
CHUNK = 256


Floats = NDArray[np.float32]
_threadpools = ThreadpoolController()


def single_threaded_products() -> Any:
    """A context in which a matrix product starts no threads: the loops around it already run on all of them."""
    return _threadpools.limit(limits=1, user_api="blas")


def set_threads(count: int) -> None:
    """Use so many CPU threads; more than the machine's cores are cut to those."""
    most = int(numba_config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    set_num_threads(min(count, most))
    _threadpools.limit(limits=count, user_api="blas")
    # torch reads the variable when it is loaded, which not every command does.
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


class Network(NamedTuple):
    """The decoder's layers as the loops take them: products' right sides, then biases and scales, (2, outputs)."""

    #: The window's offsets (dy, dx), int64 (taps, 2).
    offsets: NDArray[np.int64]
    window: Floats
    window_affine: Floats
    #: Of all blocks, (blocks, inputs, outputs) and (blocks, 2, outputs).
    pointwise: Floats
    pointwise_affine: Floats
    masked: Floats
    masked_affine: Floats
    head: Floats
    head_affine: Floats
    output: Floats
    #: Below biases and scales the lowest and highest values: (4, outputs).
    output_affine: Floats
    #: Highest inputs of a pointwise or the first head's layer, of a masked, of the last one, and of the stream.
    limits: Floats
    #: Whether masked layers see neighbours.
    spatial: bool


class Area(NamedTuple):
    """What is decoded: the rows ``top`` to ``bottom - 1`` of an image, along a wavefront of some skew."""

    #: uint8 (H, W, 3).
    image: NDArray[np.uint8]
    top: int
    bottom: int
    skew: int


class Caches(NamedTuple):
    """What the step-by-step pass keeps of a stage, and room for the rows of each thread, (threads, CHUNK, width).

    All in one, as numba takes no record within a record into a parallel loop.
    """

    #: The masked layers' inputs at the last columns of each row, (blocks, R, RING, channels); row y is at y mod R.
    #: Steps reach over at most R - 1 rows, and the row above those is still wanted.
    ring: Floats
    #: The same in the row above the stage, (blocks, W + 2, channels); one column at the top of the image.
    boundary: Floats
    #: What the network says of a step's pixels, from the top down, int16 (rows, outputs).
    params: NDArray[np.int16]
    #: Inputs of the window and of a masked layer, sums, the stream, activations, outputs.
    inputs: Floats
    gathered: Floats
    acc: Floats
    stream: Floats
    active: Floats
    out: Floats

    @classmethod
    def of(cls, model: IntegerModel, area: Area, threads: int) -> Caches:
        """Empty ones for an area, for so many threads; the boundary is still to be filled in."""
        config = model.config
        rows, width = area.bottom - area.top, area.image.shape[1]
        neighbours = len(NEIGHBOURS) if config.spatial else 1
        widths = (
            3 * len(config.window_offsets) + 3, neighbours * config.channels, config.channels, config.channels,
            config.channels, config.outputs,
        )  # fmt: skip
        kept = min(rows, width // area.skew + 2) if config.spatial else 1
        # Nothing lies above the image, so that a width that is only claimed takes no memory.
        columns = width + 2 if area.top else 1
        return cls(
            np.zeros((config.blocks, kept, RING, config.channels), np.float32),
            np.zeros((config.blocks, columns, config.channels), np.float32),
            np.empty((min(rows, width // area.skew + 1), config.outputs), np.int16),
            *(np.zeros((threads, CHUNK, each), np.float32) for each in widths),
        )


def network_arrays(model: IntegerModel) -> Network:
    """The decoder's layers."""
    config, layers = model.config, model.layers

    def weight(layer: IntegerLayer) -> Floats:
        return np.ascontiguousarray(layer.weight.T.astype(np.float32))

    def affine(layer: IntegerLayer) -> Floats:
        return np.stack([layer.bias.astype(np.float32), layer.scale])

    def stacked(kind: str, inputs: int) -> tuple[Floats, Floats]:
        chosen = [layers[f"decoder.block{i}.{kind}"] for i in range(config.blocks)]
        if not chosen:
            return np.zeros((0, inputs, config.channels), np.float32), np.zeros((0, 2, config.channels), np.float32)
        return np.stack([weight(layer) for layer in chosen]), np.stack([affine(layer) for layer in chosen])

    window, head1, head2 = (layers[f"decoder.{name}"] for name in ("window", "head1", "head2"))
    low, high = output_limits(config.mixtures)
    masked_high = layers["decoder.block0.masked"].high if config.blocks else 0
    return Network(
        np.array(config.window_offsets, np.int64),
        weight(window), affine(window),
        *stacked("pointwise", config.channels),
        *stacked("masked", config.channels * (len(NEIGHBOURS) if config.spatial else 1)),
        weight(head1), affine(head1),
        weight(head2), np.concatenate([affine(head2), low[None], high[None]]),
        np.array([head1.high, masked_high, head2.high, STREAM_LIMIT], np.float32), config.spatial,
    )  # fmt: skip


@njit(cache=True, inline="always")
def rows_of_step(t, skew, rows, width):
    """First and last-plus-one row of the pixels with x + skew * y == t."""
    first = max((t - width) // skew + 1, 0)
    return first, min(t // skew + 1, rows)


@njit(cache=True, inline="always")
def predict(image, y, x, channel):
    """`likelihood.gradient_predictor` of one pixel."""
    if y == 0:
        return np.int64(image[0, x - 1, channel]) if x > 0 else np.int64(128)
    if x == 0:
        return np.int64(image[y - 1, 0, channel])
    west, north = np.int64(image[y, x - 1, channel]), np.int64(image[y - 1, x, channel])
    low, high = min(west, north), max(west, north)
    return min(max(west + north - np.int64(image[y - 1, x - 1, channel]), low), high)


@njit(cache=True)
def _window_inputs(image, y, x, offsets, row):
    """The first layer's inputs of one pixel: the window's pixels and the prediction, less 128; 0 outside."""
    width = image.shape[1]
    for tap in range(len(offsets)):
        yy, xx = y + offsets[tap, 0], x + offsets[tap, 1]
        if yy >= 0 and 0 <= xx < width:
            for c in range(3):
                row[3 * tap + c] = np.float32(np.int64(image[yy, xx, c]) - 128)
        else:
            for c in range(3):
                row[3 * tap + c] = np.float32(0.0)
    for c in range(3):
        row[3 * len(offsets) + c] = np.float32(predict(image, y, x, c) - 128)


@njit(cache=True)
def _requantize(acc, affine, low, high, out):
    """floor((acc + bias) * scale) within the limits, on rows."""
    for i in range(acc.shape[0]):
        for j in range(acc.shape[1]):
            value = np.floor((acc[i, j] + affine[0, j]) * affine[1, j])
            out[i, j] = min(max(value, low), high)


@njit(cache=True)
def _add_requantized(acc, affine, limit, stream):
    """What a block adds to the stream."""
    for i in range(acc.shape[0]):
        for j in range(acc.shape[1]):
            value = np.floor((acc[i, j] + affine[0, j]) * affine[1, j])
            stream[i, j] += min(max(value, -limit), limit)


@njit(cache=True)
def _rectify(stream, high, out):
    """The stream as a layer takes it."""
    for i in range(stream.shape[0]):
        for j in range(stream.shape[1]):
            out[i, j] = min(max(stream[i, j], np.float32(0.0)), high)


@njit(cache=True)
def _outputs(net, stream, acc, active, out, params):
    """The last two layers, on rows."""
    output_affine = net.output_affine
    n = len(stream)
    _rectify(stream, net.limits[0], active[:n])
    np.dot(active[:n], net.head, acc[:n])
    _requantize(acc[:n], net.head_affine, np.float32(0.0), net.limits[2], active[:n])
    np.dot(active[:n], net.output, out[:n])
    for i in range(n):
        for j in range(output_affine.shape[1]):
            value = np.floor((out[i, j] + output_affine[0, j]) * output_affine[1, j])
            params[i, j] = np.int16(min(max(value, output_affine[2, j]), output_affine[3, j]))


@njit(cache=True)
def network_rows(net, area, features, caches, thread, t, begin, end):
    """The network for rows begin..end-1 of a wavefront step; writes their parameters, the step's first row at 0.

    Parameters
    ----------
    net : Network
    area : Area
    features : array of int16, shape (h, w, channels)
        Of the stage; empty without z.
    caches : Caches
    thread : int
        Whose scratch arrays to use.
    t : int
        The step.
    begin, end : int
        Rows count from the stage's first.
    """
    image, top, skew, ring, boundary = area.image, area.top, area.skew, caches.ring, caches.boundary
    offsets, limits, masked = net.offsets, net.limits, net.masked
    inputs, gathered, acc = caches.inputs[thread], caches.gathered[thread], caches.acc[thread]
    stream, active, out = caches.stream[thread], caches.active[thread], caches.out[thread]
    width = image.shape[1]
    kept = ring.shape[1]
    first, _ = rows_of_step(t, skew, area.bottom - top, width)
    n = end - begin
    channels = net.window.shape[1]
    zero = np.float32(0.0)
    for i in range(n):
        _window_inputs(image, top + begin + i, t - skew * (begin + i), offsets, inputs[i])
    np.dot(inputs[:n], net.window, acc[:n])
    _requantize(acc[:n], net.window_affine, -limits[3], limits[3], stream)
    if features.shape[0] > 0:
        for i in range(n):
            row = features[(begin + i) // 4, (t - skew * (begin + i)) // 4]
            for c in range(channels):
                stream[i, c] += np.float32(row[c])
    for block in range(net.pointwise.shape[0]):
        _rectify(stream[:n], limits[0], active)
        np.dot(active[:n], net.pointwise[block], acc[:n])
        _requantize(acc[:n], net.pointwise_affine[block], zero, limits[1], active)
        if net.spatial:
            for i in range(n):
                y = begin + i
                x = t - skew * y
                own = ring[block, y % kept, x & (RING - 1)]
                for c in range(channels):
                    own[c] = active[i, c]
                    gathered[i, 4 * channels + c] = active[i, c]
                west = ring[block, y % kept, (x - 1) & (RING - 1)]
                for c in range(channels):
                    gathered[i, 3 * channels + c] = west[c] if x > 0 else zero
                for place in range(3):
                    xx = x + place - 1
                    at = place * channels
                    # The boundary of the image's top is one column of zeros.
                    column = min(xx + 1, boundary.shape[1] - 1)
                    above = boundary[block, column] if y == 0 else ring[block, (y - 1) % kept, xx & (RING - 1)]
                    inside = 0 <= xx < width
                    for c in range(channels):
                        gathered[i, at + c] = above[c] if inside else zero
            np.dot(gathered[:n], masked[block], acc[:n])
        else:
            np.dot(active[:n], masked[block], acc[:n])
        _add_requantized(acc[:n], net.masked_affine[block], limits[3], stream)
    _outputs(net, stream[:n], acc, active, out, caches.params[begin - first :])


@njit(cache=True, parallel=True)
def window_band(image, y, offsets, inputs):
    """The first layer's inputs of a band from image row y on: (rows, W, 3 * taps + 3) float32."""
    rows, width = inputs.shape[:2]
    for r in prange(rows):
        for x in range(width):
            _window_inputs(image, y + r, x, offsets, inputs[r, x])


@njit(cache=True, parallel=True)
def begin_band(acc, scale, limits, features, first, stream, active):
    """The stream from the first layer's sums, with features, and as the next layer takes it; (rows, W, channels).

    ``first`` is the band's first row in its stage; ``features`` are empty without z and in the halo.
    """
    rows, width, channels = acc.shape
    for r in prange(rows):
        for x in range(width):
            for c in range(channels):
                stream[r, x, c] = min(max(np.floor(acc[r, x, c] * scale[c]), -limits[3]), limits[3])
            if features.shape[0] > 0:
                row = features[(first + r) // 4, x // 4]
                for c in range(channels):
                    stream[r, x, c] += np.float32(row[c])
            for c in range(channels):
                active[r, x, c] = min(max(stream[r, x, c], np.float32(0.0)), limits[0])


@njit(cache=True, parallel=True)
def finish_activations(acc, scale, high, out):
    """What a layer after a relu takes: floor(acc * scale) within 0..high."""
    rows, width, channels = acc.shape
    for r in prange(rows):
        for x in range(width):
            for c in range(channels):
                out[r, x, c] = min(max(np.floor(acc[r, x, c] * scale[c]), np.float32(0.0)), high)


@njit(cache=True, parallel=True)
def finish_block(acc, scale, limits, stream, active):
    """Add a block's sums to the stream; also the stream as the next layer takes it."""
    rows, width, channels = acc.shape
    for r in prange(rows):
        for x in range(width):
            for c in range(channels):
                value = min(max(np.floor(acc[r, x, c] * scale[c]), -limits[3]), limits[3])
                stream[r, x, c] += value
                active[r, x, c] = min(max(stream[r, x, c], np.float32(0.0)), limits[0])


@njit(cache=True, parallel=True)
def finish_outputs(acc, scale, low, high, params):
    """The decoder's outputs as int16."""
    rows, width, channels = acc.shape
    for r in prange(rows):
        for x in range(width):
            for c in range(channels):
                params[r, x, c] = np.int16(min(max(np.floor(acc[r, x, c] * scale[c]), low[c]), high[c]))
