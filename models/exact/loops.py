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
from vlae_codec.models.plan import NEIGHBOURS, STREAM_LIMIT, WIDE_NEIGHBOURS, output_limits

from .integer import IntegerLayer, IntegerModel

#: Columns of each row whose activations the step-by-step pass keeps: the neighbours that the rows below still want lag
#: behind by at most 2 * skew + 2 columns, and a power of two makes the place of a column a mask.
RING = 32
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
    #: Of all blocks, (blocks, inputs, outputs) and (blocks, 2, outputs): the first layer, and the last.
    pointwise: Floats
    pointwise_affine: Floats
    last: Floats
    last_affine: Floats
    #: Depthwise layers between the two, (blocks, neighbours, channels) and (blocks, 2, channels); else no blocks.
    depthwise: Floats
    depthwise_affine: Floats
    head: Floats
    head_affine: Floats
    output: Floats
    #: Below biases and scales the lowest and highest values: (4, outputs).
    output_affine: Floats
    #: Highest inputs of a pointwise or the first head's layer, of a masked, of the last one, of the stream, and of what
    #: follows a depthwise layer.
    limits: Floats
    #: How far masked layers see: 0 not at all, 1 `NEIGHBOURS`, 2 `WIDE_NEIGHBOURS`, see `VLAEConfig.reach`.
    reach: int


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

    #: The masked layers' inputs at the last columns of each row, (blocks, R, RING, inner); row y is at y mod R. Steps
    #: reach over at most R - reach rows, and the rows above those are still wanted.
    ring: Floats
    #: The same in the rows above the stage, (blocks, reach, W + 2 * reach, inner); without columns at the top of the
    #: image.
    boundary: Floats
    #: What the network says of a step's pixels, from the top down, int16 (rows, outputs).
    params: NDArray[np.int16]
    #: Inputs of the window and of a block's last layer, sums, what is inside a block, the stream, activations, outputs.
    inputs: Floats
    gathered: Floats
    acc: Floats
    inside: Floats
    stream: Floats
    active: Floats
    out: Floats

    @classmethod
    def of(cls, model: IntegerModel, area: Area, threads: int) -> Caches:
        """Empty ones for an area, for so many threads; the boundary is still to be filled in."""
        config, reach = model.config, model.config.reach
        rows, width = area.bottom - area.top, area.image.shape[1]
        widths = (
            3 * len(config.window_offsets) + 3, config.channels * (2 if config.depthwise else len(NEIGHBOURS)),
            config.channels, config.inner, config.channels, config.channels, config.outputs,
        )  # fmt: skip
        kept = min(rows, width // area.skew + 1 + reach) if reach else 1
        # Nothing lies above the image, so that a width that is only claimed takes no memory.
        columns = width + 2 * reach if area.top else 0
        return cls(
            np.zeros((config.blocks, kept, RING, config.inner), np.float32),
            np.zeros((config.blocks, reach, columns, config.inner), np.float32),
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

    def stacked(kind: str, inputs: int, outputs: int) -> tuple[Floats, Floats]:
        chosen = [layers[name] for i in range(config.blocks) if (name := f"decoder.block{i}.{kind}") in layers]
        if not chosen:
            return np.zeros((0, inputs, outputs), np.float32), np.zeros((0, 2, outputs), np.float32)
        return np.stack([weight(layer) for layer in chosen]), np.stack([affine(layer) for layer in chosen])

    window, head1, head2 = (layers[f"decoder.{name}"] for name in ("window", "head1", "head2"))
    low, high = output_limits(config.mixtures)
    highs = [layers[name].high if (name := f"decoder.block0.{kind}") in layers else 0 for kind in ("masked", "back")]
    masked = stacked("masked", len(WIDE_NEIGHBOURS) if config.depthwise else config.channels, config.inner)
    last = stacked("back", config.inner, config.channels) if config.depthwise else masked
    nothing = np.zeros((0, len(WIDE_NEIGHBOURS), config.inner), np.float32), np.zeros((0, 2, config.inner), np.float32)
    return Network(
        np.array(config.window_offsets, np.int64),
        weight(window), affine(window),
        *stacked("pointwise", config.channels, config.inner), *last, *(masked if config.depthwise else nothing),
        weight(head1), affine(head1),
        weight(head2), np.concatenate([affine(head2), low[None], high[None]]),
        np.array([head1.high, highs[0], head2.high, STREAM_LIMIT, highs[1]], np.float32), config.reach,
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
    """`trunk_rows`, and the parameters of the pixels, the step's first row at 0."""
    trunk_rows(net, area, features, caches, thread, t, begin, end)
    first, _ = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    _outputs(
        net, caches.stream[thread][: end - begin], caches.acc[thread], caches.active[thread], caches.out[thread],
        caches.params[begin - first :],
    )  # fmt: skip


@njit(cache=True)
def trunk_rows(net, area, features, caches, thread, t, begin, end):
    """The network but for its last two layers for rows begin..end-1 of a wavefront step; leaves the thread's stream.

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
    offsets, limits = net.offsets, net.limits
    inputs, gathered, acc, inside = (
        caches.inputs[thread], caches.gathered[thread], caches.acc[thread], caches.inside[thread]
    )  # fmt: skip
    stream, active = caches.stream[thread], caches.active[thread]
    width = image.shape[1]
    n = end - begin
    channels = net.window.shape[1]
    zero = np.float32(0.0)
    nothing = np.zeros(inside.shape[1], np.float32)
    for i in range(n):
        _window_inputs(image, top + begin + i, t - skew * (begin + i), offsets, inputs[i])
    np.dot(inputs[:n], net.window, acc[:n])
    _requantize(acc[:n], net.window_affine, -limits[3], limits[3], stream)
    if features.shape[0] > 0:
        for i in range(n):
            row = features[begin + i, t - skew * (begin + i)]
            for c in range(channels):
                stream[i, c] += np.float32(row[c])
    for block in range(net.pointwise.shape[0]):
        _rectify(stream[:n], limits[0], active)
        np.dot(active[:n], net.pointwise[block], inside[:n])
        _requantize(inside[:n], net.pointwise_affine[block], zero, limits[1], inside)
        if net.reach == 0:
            np.dot(inside[:n], net.last[block], acc[:n])
        else:
            if net.reach == 1:
                _gather(
                    ring[block], boundary[block], nothing, width, begin, t, skew, inside[:n], gathered
                )  # fmt: skip
            else:
                _depthwise(
                    ring[block], boundary[block], nothing, width, begin, t, skew, inside[:n], net.depthwise[block],
                    gathered,
                )  # fmt: skip
                _requantize(gathered[:n], net.depthwise_affine[block], zero, limits[4], gathered)
            np.dot(gathered[:n], net.last[block], acc[:n])
        _add_requantized(acc[:n], net.last_affine[block], limits[3], stream)


@njit(cache=True, inline="always")
def _neighbour(ring, boundary, nothing, y, x, width):
    """A masked layer's inputs at row y, counted from the stage's first, and column x; zeros outside the image."""
    if x < 0 or x >= width:
        return nothing
    if y >= 0:
        return ring[y % ring.shape[0], x & (RING - 1)]
    reach = boundary.shape[0]
    return boundary[reach + y, x + reach] if boundary.shape[1] > 0 else nothing


@njit(cache=True)
def _gather(ring, boundary, nothing, width, begin, t, skew, inside, gathered):
    """Keep what is inside a block, and put what a masked layer sees of it side by side, on rows of a step."""
    channels = inside.shape[1]
    for i in range(len(inside)):
        y = begin + i
        x = t - skew * y
        own = ring[y % ring.shape[0], x & (RING - 1)]
        own[:] = inside[i]
        for place in range(5):
            if place < 3:
                row = _neighbour(ring, boundary, nothing, y - 1, x + place - 1, width)
            else:
                row = _neighbour(ring, boundary, nothing, y, x + place - 4, width)
            at = place * channels
            for c in range(channels):
                gathered[i, at + c] = row[c]


@njit(cache=True, inline="always")
def _five(out, weights, at, r0, r1, r2, r3, r4):
    """Add five neighbours of a row to a depthwise layer's sums."""
    w0, w1, w2, w3, w4 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3], weights[at + 4]
    for c in range(len(out)):
        out[c] += w0[c] * r0[c] + w1[c] * r1[c] + w2[c] * r2[c] + w3[c] * r3[c] + w4[c] * r4[c]


@njit(cache=True)
def _depthwise(ring, boundary, nothing, width, begin, t, skew, inside, weights, sums):
    """Keep what is inside a block, and a depthwise layer's sums of it, on rows of a step."""
    for i in range(len(inside)):
        y = begin + i
        x = t - skew * y
        own = ring[y % ring.shape[0], x & (RING - 1)]
        own[:] = inside[i]
        out = sums[i]
        r0 = _neighbour(ring, boundary, nothing, y, x - 2, width)
        r1 = _neighbour(ring, boundary, nothing, y, x - 1, width)
        w0, w1, w2 = weights[10], weights[11], weights[12]
        for c in range(len(out)):
            out[c] = w0[c] * r0[c] + w1[c] * r1[c] + w2[c] * own[c]
        for up in range(2):
            yy = y - 2 + up
            _five(
                out, weights, 5 * up, _neighbour(ring, boundary, nothing, yy, x - 2, width),
                _neighbour(ring, boundary, nothing, yy, x - 1, width),
                _neighbour(ring, boundary, nothing, yy, x, width),
                _neighbour(ring, boundary, nothing, yy, x + 1, width),
                _neighbour(ring, boundary, nothing, yy, x + 2, width),
            )  # fmt: skip


@njit(cache=True, parallel=True)
def depthwise_band(padded, weights, scale, bias, high, out):
    """A depthwise layer of a band, as the next layer takes it.

    ``padded`` is (rows + 2, W + 4, inner), with two rows above and two columns to both sides; ``out`` (rows, W, inner).
    """
    rows, width, channels = out.shape
    for r in prange(rows):
        sums = np.empty(channels, np.float32)
        for x in range(width):
            own = padded[r + 2]
            r0, r1, r2 = own[x], own[x + 1], own[x + 2]
            w0, w1, w2 = weights[10], weights[11], weights[12]
            for c in range(channels):
                sums[c] = bias[c] + w0[c] * r0[c] + w1[c] * r1[c] + w2[c] * r2[c]
            for up in range(2):
                row = padded[r + up]
                _five(sums, weights, 5 * up, row[x], row[x + 1], row[x + 2], row[x + 3], row[x + 4])
            for c in range(channels):
                out[r, x, c] = min(max(np.floor(sums[c] * scale[c]), np.float32(0.0)), high)


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
                row = features[first + r, x]
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
