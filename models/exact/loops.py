# mypy: disable-error-code="no-untyped-def"
"""The decoder's network in compiled loops, on rows of pixels: what `bands` and `steps` are made of.

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
from numba import njit, set_num_threads
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import NEIGHBOURS, STREAM_LIMIT, WIDE_NEIGHBOURS, output_limits

from .integer import IntegerLayer, IntegerModel

#: Pixels that one thread takes through a layer at once: few enough for its cache.
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


class Scratch(NamedTuple):
    """Room for the pixels that each thread takes at once, (threads, CHUNK, width)."""

    #: Inputs of the window, what is inside a block, inputs of its last layer, sums, activations, sums of outputs.
    inputs: Floats
    inside: Floats
    seen: Floats
    sums: Floats
    active: Floats
    out: Floats

    @classmethod
    def of(cls, config: VLAEConfig, threads: int) -> Scratch:
        """For so many threads."""
        seen = config.inner * (len(NEIGHBOURS) if config.reach == 1 else 1)
        widths = (
            3 * len(config.window_offsets) + 3, config.inner, seen, config.channels, config.channels, config.outputs,
        )  # fmt: skip
        return cls(*(np.zeros((threads, CHUNK, width), np.float32) for width in widths))


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
def window_inputs(image, y, x, offsets, row):
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
def requantize_rows(sums, affine, low, high, out):
    """floor((sums + bias) * scale) within the limits; ``out`` is another array, or the loop would be slow."""
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            out[i, j] = min(max(np.floor((sums[i, j] + affine[0, j]) * affine[1, j]), low), high)


@njit(cache=True)
def requantize_row(sums, affine, high, out):
    """What a layer after a relu takes of one pixel, int16."""
    for j in range(len(sums)):
        out[j] = np.int16(min(max(np.floor((sums[j] + affine[0, j]) * affine[1, j]), np.float32(0.0)), high))


@njit(cache=True)
def rectify_rows(stream, high, out):
    """The stream as a layer takes it."""
    for i in range(stream.shape[0]):
        for j in range(stream.shape[1]):
            out[i, j] = min(max(stream[i, j], np.float32(0.0)), high)


@njit(cache=True)
def window_rows(net, inputs, sums, stream):
    """The first layer: the stream of its inputs."""
    n = len(stream)
    np.dot(inputs[:n], net.window, sums[:n])
    requantize_rows(sums[:n], net.window_affine, -net.limits[3], net.limits[3], stream)


@njit(cache=True)
def pointwise_rows(net, block, stream, active, inside):
    """A block's first layer, up to its sums."""
    n = len(stream)
    rectify_rows(stream, net.limits[0], active[:n])
    np.dot(active[:n], net.pointwise[block], inside[:n])


@njit(cache=True)
def last_rows(net, block, seen, sums, stream):
    """A block's last layer: what it adds to the stream."""
    n = len(stream)
    np.dot(seen[:n], net.last[block], sums[:n])
    affine, limit = net.last_affine[block], net.limits[3]
    for i in range(n):
        for j in range(stream.shape[1]):
            value = np.floor((sums[i, j] + affine[0, j]) * affine[1, j])
            stream[i, j] += min(max(value, -limit), limit)


@njit(cache=True)
def output_rows(net, active, sums, out, params):
    """The last two layers, of a stream that is rectified: it is overwritten."""
    affine, n = net.output_affine, len(active)
    np.dot(active, net.head, sums[:n])
    requantize_rows(sums[:n], net.head_affine, np.float32(0.0), net.limits[2], active)
    np.dot(active, net.output, out[:n])
    for i in range(n):
        for j in range(affine.shape[1]):
            value = np.floor((out[i, j] + affine[0, j]) * affine[1, j])
            params[i, j] = np.int16(min(max(value, affine[2, j]), affine[3, j]))


@njit(cache=True)
def near_row(kept, rows, columns, seen):
    """What a masked layer sees of the pixels around one, whose own activations are kept already.

    Parameters
    ----------
    kept : array of int16, shape (rows, columns, inner)
    rows, columns : tuples of uint64
        Where in ``kept`` the farthest row above the pixel is, the one above it and its own; and the farthest column to
        the left, the one to the left, its own, the one to the right and the farthest.
    seen : array of float32, shape (5 * inner,)
        Receives `NEIGHBOURS` one after the other.
    """
    inner = kept.shape[2]
    for c in range(inner):
        seen[c] = np.float32(kept[rows[1], columns[1], c])
        seen[inner + c] = np.float32(kept[rows[1], columns[2], c])
        seen[2 * inner + c] = np.float32(kept[rows[1], columns[3], c])
        seen[3 * inner + c] = np.float32(kept[rows[2], columns[1], c])
        seen[4 * inner + c] = np.float32(kept[rows[2], columns[2], c])


@njit(cache=True, inline="always")
def _at(weights, place, kept, row, column, c):
    return weights[place, c] * np.float32(kept[row, column, c])


@njit(cache=True)
def depthwise_row(kept, rows, columns, weights, affine, high, seen):
    """A depthwise layer of one pixel, as the next layer takes it; see `near_row` and `Network`."""
    r0, r1, r2 = rows
    c0, c1, c2, c3, c4 = columns
    # One loop over few arrays, and indices without a sign: so it becomes vector instructions.
    for c in range(kept.shape[2]):
        total = affine[0, c]
        total += (
            _at(weights, 0, kept, r0, c0, c) + _at(weights, 1, kept, r0, c1, c) + _at(weights, 2, kept, r0, c2, c)
            + _at(weights, 3, kept, r0, c3, c) + _at(weights, 4, kept, r0, c4, c)
        )  # fmt: skip
        total += (
            _at(weights, 5, kept, r1, c0, c) + _at(weights, 6, kept, r1, c1, c) + _at(weights, 7, kept, r1, c2, c)
            + _at(weights, 8, kept, r1, c3, c) + _at(weights, 9, kept, r1, c4, c)
        )  # fmt: skip
        total += (
            _at(weights, 10, kept, r2, c0, c) + _at(weights, 11, kept, r2, c1, c) + _at(weights, 12, kept, r2, c2, c)
        )
        seen[c] = min(max(np.floor(total * affine[1, c]), np.float32(0.0)), high)
