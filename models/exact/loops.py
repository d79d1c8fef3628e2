# mypy: disable-error-code="no-untyped-def"
"""The decoder's network in compiled loops, on rows of pixels: what `bands` and `steps` are made of.

Activations are int16 and sums int32, which hold what float32 holds elsewhere. fastmath stays off, as a layer's one
multiplication must round as IEEE 754 says. All widths but that of the window's inputs are `products.rounded_up`: the
channels of zeros that fill them up stay zero.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import numpy as np
from numba import config as numba_config
from numba import njit, set_num_threads
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import NEIGHBOURS, STREAM_LIMIT, output_limits

from vlae_codec.compiled import inner

from .integer import IntegerLayer, IntegerModel
from .products import pack, pack_depthwise, product_rows, rounded_up

#: First digits of the SHA-256 of models/exact/products.py, see coding/wavefront.py.
_TAKEN_FROM = "1092a63fea8bcb78"

#: Pixels that one thread takes through a layer at once: few enough for its cache.
CHUNK = 256

Floats = NDArray[np.float32]
Weights = NDArray[np.int16]
_threadpools = ThreadpoolController()


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
    """The decoder's layers as the loops take them: packed weights, then biases and scales, (2, outputs)."""

    #: The window's offsets (dy, dx), int64 (taps, 2).
    offsets: NDArray[np.int64]
    window: Weights
    window_affine: Floats
    #: Of all blocks, (blocks, pairs of inputs, outputs, 2) and (blocks, 2, outputs): the first layer, and the last.
    pointwise: Weights
    pointwise_affine: Floats
    last: Weights
    last_affine: Floats
    #: Depthwise layers between the two, (blocks, pairs of neighbours, channels, 2) and (blocks, 2, channels), see
    #: `pack_depthwise`; else no blocks.
    depthwise: Weights
    depthwise_affine: Floats
    head: Weights
    head_affine: Floats
    output: Weights
    #: Of the outputs alone: below biases and scales the lowest and highest values, (4, outputs).
    output_affine: Floats
    #: Highest inputs of a pointwise or the first head's layer, of a masked, of the last one, of the stream, and of what
    #: follows a depthwise layer.
    limits: Floats
    #: How far masked layers see: 0 not at all, 1 `NEIGHBOURS`, 2 `WIDE_NEIGHBOURS`, see `VLAEConfig.reach`.
    reach: int


class Scratch(NamedTuple):
    """Room for the pixels that each thread takes at once, (threads, CHUNK, width)."""

    #: Inputs of the window, and of a block's last layer; activations.
    inputs: NDArray[np.int16]
    seen: NDArray[np.int16]
    active: NDArray[np.int16]
    #: Of any layer.
    sums: NDArray[np.int32]

    @classmethod
    def of(cls, config: VLAEConfig, threads: int) -> Scratch:
        """For so many threads."""
        inner, channels = rounded_up(config.inner), rounded_up(config.channels)
        taps = 3 * len(config.window_offsets) + 3
        seen, most = inner * (len(NEIGHBOURS) if config.reach == 1 else 1), rounded_up(config.outputs)
        return cls(
            np.zeros((threads, CHUNK, taps + taps % 2), np.int16),
            np.zeros((threads, CHUNK, seen), np.int16),
            np.zeros((threads, CHUNK, channels), np.int16),
            np.zeros((threads, CHUNK, max(inner, channels, most)), np.int32),
        )


def network_arrays(model: IntegerModel) -> Network:
    """The decoder's layers."""
    config, layers = model.config, model.layers
    inner = rounded_up(config.inner)

    def affine(layer: IntegerLayer) -> Floats:
        filled = np.zeros((2, rounded_up(len(layer.bias))), np.float32)
        filled[:, : len(layer.bias)] = layer.bias, layer.scale
        return filled

    def filled(weight: NDArray[np.int16], places: int, width: int) -> NDArray[np.int16]:
        """Weights (outputs, places * channels), each place's channels filled up to a width."""
        each = weight.reshape(len(weight), places, -1)
        return np.pad(each, ((0, 0), (0, 0), (0, width - each.shape[2]))).reshape(len(weight), -1)

    def stacked(kind: str, places: int, width: int, outputs: int) -> tuple[Weights, Floats]:
        chosen = [layers[name] for i in range(config.blocks) if (name := f"decoder.block{i}.{kind}") in layers]
        if not chosen:
            return np.zeros((0, places * width // 2, outputs, 2), np.int16), np.zeros((0, 2, outputs), np.float32)
        packed = [pack(filled(layer.weight, places, width)) for layer in chosen]
        return np.stack(packed), np.stack([affine(layer) for layer in chosen])

    def depthwise() -> tuple[Weights, Floats]:
        if not config.depthwise:
            return np.zeros((0, 0, inner, 2), np.int16), np.zeros((0, 2, inner), np.float32)
        chosen = [layers[f"decoder.block{i}.masked"] for i in range(config.blocks)]
        packed = [pack_depthwise(filled(layer.weight.T, 1, inner), affine(layer)) for layer in chosen]
        return np.stack([weights for weights, _ in packed]), np.stack([rest for _, rest in packed])

    window, head1, head2 = (layers[f"decoder.{name}"] for name in ("window", "head1", "head2"))
    channels = rounded_up(config.channels)
    low, high = output_limits(config.mixtures)
    highs = [layers[name].high if (name := f"decoder.block0.{kind}") in layers else 0 for kind in ("masked", "back")]
    places = len(NEIGHBOURS) if config.reach == 1 else 1
    return Network(
        np.array(config.window_offsets, np.int64),
        pack(window.weight), affine(window),
        *stacked("pointwise", 1, channels, inner),
        *stacked("back" if config.depthwise else "masked", places, inner, channels), *depthwise(),
        pack(filled(head1.weight, 1, channels)), affine(head1), pack(filled(head2.weight, 1, channels)),
        np.stack([head2.bias.astype(np.float32), head2.scale, low, high]),
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


@inner
def window_inputs(image, y, x, offsets, row):
    """The first layer's inputs of one pixel: the window's pixels and the prediction, less 128; 0 outside."""
    width = image.shape[1]
    for tap in range(len(offsets)):
        yy, xx = y + offsets[tap, 0], x + offsets[tap, 1]
        if yy >= 0 and 0 <= xx < width:
            for c in range(3):
                row[3 * tap + c] = np.int16(image[yy, xx, c]) - np.int16(128)
        else:
            for c in range(3):
                row[3 * tap + c] = np.int16(0)
    for c in range(3):
        row[3 * len(offsets) + c] = np.int16(predict(image, y, x, c) - 128)


@njit(cache=True, inline="always")
def _scaled(total, affine, j):
    """floor((sum + bias) * scale), of output j."""
    return np.floor((np.float32(total) + affine[0, j]) * affine[1, j])


@inner
def requantize_row(sums, affine, high, out):
    """What a layer after a relu takes of one pixel."""
    for j in range(len(out)):
        out[j] = np.int16(min(max(_scaled(sums[j], affine, j), np.float32(0.0)), high))


@inner
def rectify_rows(stream, high, out):
    """The stream as a layer takes it."""
    for i in range(stream.shape[0]):
        for j in range(stream.shape[1]):
            out[i, j] = np.int16(min(max(stream[i, j], np.float32(0.0)), high))


@inner
def window_rows(net, inputs, sums, stream):
    """The first layer: the stream of its inputs."""
    product_rows(inputs, net.window, sums, len(stream))
    affine, limit = net.window_affine, net.limits[3]
    for i in range(stream.shape[0]):
        for j in range(stream.shape[1]):
            stream[i, j] = min(max(_scaled(sums[i, j], affine, j), -limit), limit)


@inner
def pointwise_rows(net, block, stream, active, sums):
    """A block's first layer, up to its sums."""
    rectify_rows(stream, net.limits[0], active)
    product_rows(active, net.pointwise[block], sums, len(stream))


@inner
def last_rows(net, block, seen, sums, stream):
    """A block's last layer: what it adds to the stream."""
    product_rows(seen, net.last[block], sums, len(stream))
    affine, limit = net.last_affine[block], net.limits[3]
    for i in range(stream.shape[0]):
        for j in range(stream.shape[1]):
            stream[i, j] += min(max(_scaled(sums[i, j], affine, j), -limit), limit)


@inner
def output_rows(net, active, sums, params):
    """The last two layers, of a stream that is rectified: it is overwritten."""
    n = len(active)
    product_rows(active, net.head, sums, n)
    for i in range(n):
        requantize_row(sums[i], net.head_affine, net.limits[2], active[i])
    product_rows(active, net.output, sums, n)
    affine = net.output_affine
    for i in range(n):
        for j in range(affine.shape[1]):
            params[i, j] = np.int16(min(max(_scaled(sums[i, j], affine, j), affine[2, j]), affine[3, j]))


@inner
def copy_rows(source, out):
    """An array of three axes into one at least as large. An assignment compiles what words its error, for seconds."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            for c in range(source.shape[2]):
                out[i, j, c] = source[i, j, c]


@inner
def near_row(kept, rows, columns, seen):
    """What a masked layer sees of the pixels around one, whose own activations are kept already.

    ``kept``, ``rows`` and ``columns`` are those of `depthwise_row`; ``seen``, int16 (5 * inner,), receives
    `NEIGHBOURS` one after the other.
    """
    inner = kept.shape[2]
    for c in range(inner):
        seen[c] = kept[rows[1], columns[1], c]
        seen[inner + c] = kept[rows[1], columns[2], c]
        seen[2 * inner + c] = kept[rows[1], columns[3], c]
        seen[3 * inner + c] = kept[rows[2], columns[1], c]
        seen[4 * inner + c] = kept[rows[2], columns[2], c]
