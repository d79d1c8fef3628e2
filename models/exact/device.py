# mypy: disable-error-code="no-untyped-def"
"""The decoder's network step by step on a GPU, by kernels in Triton: the integers of `steps`.

All pixels of a step go through the network in one launch: what a block sees of the pixels around one comes from earlier
steps, and of the pixel itself it is in registers, so programs need not wait for each other.

Products are of bytes, which GPUs multiply and add up in int32: a weight w is w1 * 256 + w0 and an activation likewise,
each digit in -128..127. So no float rounds, whatever the order and the hardware. Else a layer's one multiplication in
float32 stands alone; launches ask that nothing be fused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import NEIGHBOURS, STREAM_LIMIT, output_limits

from .integer import IntegerLayer, IntegerModel
from .steps import RING as _RING

#: Pixels that one program takes through the network: the fewest that products of bytes take.
TILE = 16
#: Widest stream and block that a program's memory holds.
MOST_CHANNELS, MOST_INNER, MOST_TAPS = 128, 256, 256

RING, TILE_ = tl.constexpr(_RING), tl.constexpr(TILE)
#: Where `Stage.place` holds the step, the area's first row in the image, its rows and columns, the rows of the ring,
#: columns of the boundary (0 for none), pixels since the heads' last step and those of the step due, and whether the
#: message ran dry.
STEP, TOP, ROWS, WIDTH, KEPT, ABOVE, PIXELS, DUE, DRY = (tl.constexpr(i) for i in range(9))
PLACES = 9


class Shape(NamedTuple):
    """What kernels are compiled for. Widths are filled up to powers of two, with zeros."""

    #: Inputs of the window but for the prediction, as they are and filled up.
    taps: int
    window: int
    channels: int
    inner: int
    outputs: int
    blocks: int
    reach: int
    skew: int
    mixtures: int
    components: int
    #: Highest inputs of a pointwise or the first head's layer, of a masked, of the last one, and of what follows a
    #: depthwise layer; limit of what the stream gains.
    rectified: int
    masked: int
    hidden: int
    back: int
    stream: int

    @classmethod
    def of(cls, model: IntegerModel) -> Shape:
        """That of a model."""
        config, layers = model.config, model.layers
        taps = 3 * len(config.window_offsets)
        highs = [layers[key].high if (key := f"decoder.block0.{kind}") in layers else 0 for kind in ("masked", "back")]
        return cls(
            taps, _filled(taps), _filled(config.channels), _filled(config.inner), _filled(config.outputs),
            config.blocks, config.reach, config.skew, config.mixtures, 1 << (config.mixtures - 1).bit_length(),
            layers["decoder.head1"].high, highs[0], layers["decoder.head2"].high, highs[1], STREAM_LIMIT,
        )  # fmt: skip


def _filled(width: int) -> int:
    # Products of bytes take 32 of them at once.
    return max(32, 1 << (width - 1).bit_length())


def fits(config: VLAEConfig) -> bool:
    """Whether the kernels hold the network of a configuration for photographs."""
    return (
        _filled(config.channels) <= MOST_CHANNELS
        and _filled(config.inner) <= MOST_INNER
        and 3 * len(config.window_offsets) <= MOST_TAPS
    )


class Layer(NamedTuple):
    """Linear layers of one kind, on a device."""

    #: int8 (layers, 2, inputs, outputs): lower digits and upper ones.
    weight: Any
    #: (layers, outputs): int32, and float32.
    bias: Any
    scale: Any


class Net(NamedTuple):
    """The decoder's layers on a device."""

    #: dy, dx and channel of each input of the window, int32 (3, window).
    offsets: Any
    window: Layer
    #: The window's weights for the prediction, int32 (3, channels).
    predicted: Any
    pointwise: Layer
    #: As the weights have it: int32 (blocks, 13, inner).
    depthwise: Layer
    #: Of a masked layer that is not depthwise the inputs are the neighbours' one after the other.
    last: Layer
    head: Layer
    output: Layer
    #: Lowest and highest outputs, float32 (2, outputs).
    limits: Any


class Stage(NamedTuple):
    """What is decoded, on a device, and what is kept from step to step."""

    #: uint8 (H, W, 3), and int32, see `STEP` and those after it.
    image: Any
    place: Any
    #: As `steps.Caches` has them, but that nothing is kept beside the image.
    ring: Any
    boundary: Any
    #: int16 (rows, W, channels) without any filling up.
    features: Any
    #: Of a step's pixels, int16: inputs of the heads, what lies between them, and outputs.
    inputs: Any
    hidden: Any
    params: Any
    #: Gradients by the outputs, as they are and as they go back, int32 (R, outputs).
    gradient: Any
    returned: Any


def _padded(array: NDArray[Any], *shape: int) -> NDArray[Any]:
    return np.pad(array, [(0, to - size) for size, to in zip(array.shape, shape, strict=True)])


def digits(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Lower and upper digits of weights below 32640, as int8 (2, ...)."""
    wide = weight.astype(np.int32)
    lower = (wide + 128 & 255) - 128
    upper = wide - lower >> 8
    return np.stack([lower, upper]).astype(np.int8)


def holds(model: IntegerModel) -> bool:
    """Whether the kernels take a model: its shape `fits`, and two digits hold every weight."""
    most = (1 << 15) - 129
    return fits(model.config) and all(
        layer.weight.max(initial=0) <= most for name, layer in model.layers.items() if name.startswith("decoder.")
    )


def network_on(model: IntegerModel, device: torch.device) -> Net:
    """The decoder's layers, on a device."""
    config, layers, shape = model.config, model.layers, Shape.of(model)

    def put(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def load(chosen: list[IntegerLayer], inputs: int, outputs: int, places: int = 1) -> Layer:
        if not chosen:
            return Layer(
                *(torch.zeros(1, dtype=kind, device=device) for kind in (torch.int8, torch.int32, torch.float32))
            )
        weights = [
            digits(_padded(each.weight.reshape(len(each.weight), places, -1), outputs, places, inputs))
            .reshape(2, outputs, -1).transpose(0, 2, 1)
            for each in chosen
        ]  # fmt: skip
        return Layer(
            put(np.stack(weights)), put(np.stack([_padded(each.bias, outputs) for each in chosen])),
            put(np.stack([_padded(each.scale, outputs) for each in chosen])),
        )  # fmt: skip

    def blocks(kind: str) -> list[IntegerLayer]:
        return [layers[name] for i in range(config.blocks) if (name := f"decoder.block{i}.{kind}") in layers]

    window, head, output = (layers[f"decoder.{name}"] for name in ("window", "head1", "head2"))
    offsets = np.array([(dy, dx, c) for dy, dx in config.window_offsets for c in range(3)], np.int32).T
    seen = IntegerLayer(window.weight[:, : shape.taps], window.bias, window.scale, window.low, window.high)
    wide, inner, places = shape.channels, shape.inner, len(NEIGHBOURS) if config.reach == 1 else 1
    if config.depthwise:
        masked = blocks("masked")
        depthwise = Layer(
            put(np.stack([_padded(each.weight.T.astype(np.int32), each.weight.shape[1], inner) for each in masked])),
            *(put(np.stack([_padded(part, inner) for part in parts])) for parts in (
                [each.bias for each in masked], [each.scale for each in masked])),
        )  # fmt: skip
    else:
        depthwise = load([], 0, 0)
    return Net(
        put(_padded(offsets, 3, shape.window)), load([seen], shape.window, wide),
        put(_padded(window.weight[:, shape.taps :].T.astype(np.int32), 3, wide)),
        load(blocks("pointwise"), wide, inner), depthwise,
        load(blocks("back" if config.depthwise else "masked"), inner, wide, places),
        load([head], wide, wide), load([output], wide, shape.outputs),
        put(np.stack([_padded(each, shape.outputs) for each in output_limits(config.mixtures)])),
    )  # fmt: skip


# -- kernels -----------------------------------------------------------------------------------------------------------


@triton.jit
def rows_of_step(stage, SKEW: tl.constexpr, BEFORE: tl.constexpr = 0):
    """The step, or the one so many before, its first row and how many rows it has."""
    t = tl.load(stage.place + STEP) - BEFORE
    rows = tl.load(stage.place + ROWS)
    width = tl.load(stage.place + WIDTH)
    first = tl.where(t < width, 0, (t - width) // SKEW + 1)
    return t, first, tl.maximum(tl.minimum(t // SKEW + 1, rows) - first, 0)


@triton.jit
def predict(image, width, y, x, channel, live):
    """`loops.predict` of some pixels."""
    at = image + (y.to(tl.int64) * width + x) * 3 + channel
    beside, below = live & (x > 0), live & (y > 0)
    west = tl.load(at - 3, mask=beside, other=128).to(tl.int32)
    north = tl.load(at - 3 * width, mask=below, other=128).to(tl.int32)
    corner = tl.load(at - 3 * width - 3, mask=beside & below, other=128).to(tl.int32)
    low, high = tl.minimum(west, north), tl.maximum(west, north)
    both = tl.minimum(tl.maximum(west + north - corner, low), high)
    return tl.where(y == 0, west, tl.where(x == 0, north, both))


@triton.jit
def lower_digit(value):
    """The lower digit in -128..127 of int32; what remains is a multiple of 256."""
    return ((value + 128) & 255) - 128


@triton.jit
def product(rows, weight, K: tl.constexpr, N: tl.constexpr, PLACES: tl.constexpr = 1):
    """Sums int32 over K inputs of rows (TILE, K), times weights of two digits, which lie PLACES * K inputs apart."""
    at = weight + tl.arange(0, K)[:, None] * N + tl.arange(0, N)[None, :]
    lower, upper = tl.load(at), tl.load(at + PLACES * K * N)
    low = lower_digit(rows)
    high = ((rows - low) >> 8).to(tl.int8)
    low = low.to(tl.int8)
    middle = tl.dot(high, lower, acc=tl.dot(low, upper, out_dtype=tl.int32), out_dtype=tl.int32)
    return tl.dot(low, lower, out_dtype=tl.int32) + (middle << 8) + (tl.dot(high, upper, out_dtype=tl.int32) << 16)


@triton.jit
def scaled(total, layer, at):
    """floor((sum + bias) * scale) of sums (TILE, N); ``at`` are the outputs' places in the layer's arrays."""
    whole = (total + tl.load(layer.bias + at)[None, :]).to(tl.float32)
    return tl.floor(whole * tl.load(layer.scale + at)[None, :])


@triton.jit
def limited(value, low, high):
    """Floats between limits, as int32."""
    return tl.minimum(tl.maximum(value, low), high).to(tl.int32)


@triton.jit
def window_sums(net, stage, y, x, live, SHAPE: tl.constexpr):
    """The first layer's sums."""
    width = tl.load(stage.place + WIDTH)
    k = tl.arange(0, SHAPE.window)
    o = tl.arange(0, SHAPE.channels)
    yy = y[:, None] + tl.load(net.offsets + k)[None, :]
    xx = x[:, None] + tl.load(net.offsets + SHAPE.window + k)[None, :]
    inside = live[:, None] & (k < SHAPE.taps)[None, :] & (yy >= 0) & (xx >= 0) & (xx < width)
    at = (yy.to(tl.int64) * width + xx) * 3 + tl.load(net.offsets + 2 * SHAPE.window + k)[None, :]
    seen = (tl.load(stage.image + at, mask=inside, other=128).to(tl.int32) - 128).to(tl.int8)
    weight = net.window.weight + k[:, None] * SHAPE.channels + o[None, :]
    lower, upper = tl.load(weight), tl.load(weight + SHAPE.window * SHAPE.channels)
    total = tl.dot(seen, lower, out_dtype=tl.int32) + (tl.dot(seen, upper, out_dtype=tl.int32) << 8)
    for channel in tl.static_range(3):
        pred = predict(stage.image, width, y, x, channel, live) - 128
        total += pred[:, None] * tl.load(net.predicted + channel * SHAPE.channels + o)[None, :]
    return total


@triton.jit
def kept_at(stage, block, row, x, SHAPE: tl.constexpr):
    """Where the ring has a pixel's first channel."""
    kept = tl.load(stage.place + KEPT)
    return (
        stage.ring
        + (((block * kept + (row + SHAPE.reach) % kept) * RING + (x & (RING - 1))).to(tl.int64)) * SHAPE.inner
    )


@triton.jit
def neighbour(stage, block, row, x, live, SHAPE: tl.constexpr):
    """What is inside a block at pixels of earlier steps or above the stage, 0 beside the image: int32 (TILE, inner)."""
    above = tl.load(stage.place + ABOVE)
    inside = live & (x >= 0) & (x < tl.load(stage.place + WIDTH)) & (row >= tl.where(above > 0, -SHAPE.reach, 0))
    up = (block * SHAPE.reach + row + SHAPE.reach).to(tl.int64) * above + x + SHAPE.reach
    at = tl.where(row < 0, stage.boundary + up * SHAPE.inner, kept_at(stage, block, row, x, SHAPE))
    channel = tl.arange(0, SHAPE.inner)
    return tl.load(at[:, None] + channel[None, :], mask=inside[:, None], other=0).to(tl.int32)


@triton.jit
def last_sums(net, stage, block, inside, row, x, live, SHAPE: tl.constexpr):
    """The sums of a block's last layer, of what is inside it."""
    channel = tl.arange(0, SHAPE.inner)
    size: tl.constexpr = SHAPE.inner * SHAPE.channels
    if SHAPE.reach == 2:
        weight = net.depthwise.weight + block * 13 * SHAPE.inner + channel
        total = inside * tl.load(weight + 12 * SHAPE.inner)[None, :]
        for n in tl.static_range(12):
            seen = neighbour(stage, block, row + (n // 5 - 2), x + (n % 5 - 2), live, SHAPE)
            total += seen * tl.load(weight + n * SHAPE.inner)[None, :]
        inside = limited(scaled(total, net.depthwise, block * SHAPE.inner + channel), 0.0, SHAPE.back * 1.0)
        total = product(inside, net.last.weight + block * 2 * size, SHAPE.inner, SHAPE.channels)
    elif SHAPE.reach == 1:
        weight = net.last.weight + block * 10 * size
        total = product(inside, weight + 4 * size, SHAPE.inner, SHAPE.channels, 5)
        for n in tl.static_range(4):
            seen = neighbour(stage, block, row + (n // 3 - 1), x + (n % 3 - 1), live, SHAPE)
            total += product(seen, weight + n * size, SHAPE.inner, SHAPE.channels, 5)
    else:
        total = product(inside, net.last.weight + block * 2 * size, SHAPE.inner, SHAPE.channels)
    return total


@triton.jit
def network_kernel(net, stage, below, SHAPE: tl.constexpr, FEATURES: tl.constexpr, HEADS: tl.constexpr):
    """The network for a step's pixels, TILE of them a program.

    With ``HEADS`` their outputs are kept, without them the heads' inputs, or where ``below`` is not None only what the
    rows below the area will see of its last ones.
    """
    t, first, count = rows_of_step(stage, SHAPE.skew)
    begin = tl.program_id(0) * TILE_
    if begin >= count:
        return
    i = begin + tl.arange(0, TILE_)
    live = i < count
    row = first + i
    x = t - SHAPE.skew * row
    o = tl.arange(0, SHAPE.channels)
    c = tl.arange(0, SHAPE.inner)
    width = tl.load(stage.place + WIDTH)
    sums = window_sums(net, stage, tl.load(stage.place + TOP) + row, x, live, SHAPE)
    stream = limited(scaled(sums, net.window, o), -SHAPE.stream * 1.0, SHAPE.stream * 1.0)
    if FEATURES > 0:
        at = stage.features + (row.to(tl.int64) * width + x) * FEATURES
        stream += tl.load(at[:, None] + o[None, :], mask=live[:, None] & (o < FEATURES)[None, :], other=0).to(tl.int32)
    for block in tl.range(0, SHAPE.blocks, num_stages=1):
        active = tl.minimum(tl.maximum(stream, 0), SHAPE.rectified)
        sums = product(
            active, net.pointwise.weight + block * 2 * SHAPE.channels * SHAPE.inner, SHAPE.channels, SHAPE.inner
        )
        inside = limited(scaled(sums, net.pointwise, block * SHAPE.inner + c), 0.0, SHAPE.masked * 1.0)
        if SHAPE.reach > 0:
            at = kept_at(stage, block, row, x, SHAPE)
            tl.store(at[:, None] + c[None, :], inside.to(tl.int16), mask=live[:, None])
        if below is not None:
            rows = tl.load(stage.place + ROWS)
            up = block * SHAPE.reach + SHAPE.reach - rows + row
            at = below + (up.to(tl.int64) * (width + 2 * SHAPE.reach) + x + SHAPE.reach) * SHAPE.inner
            wanted = live & (row >= rows - SHAPE.reach)
            tl.store(at[:, None] + c[None, :], inside.to(tl.int16), mask=wanted[:, None])
        sums = last_sums(net, stage, block, inside, row, x, live, SHAPE)
        added = scaled(sums, net.last, block * SHAPE.channels + o)
        stream += limited(added, -SHAPE.stream * 1.0, SHAPE.stream * 1.0)
    active = tl.minimum(tl.maximum(stream, 0), SHAPE.rectified)
    if HEADS:
        sums = product(active, net.head.weight, SHAPE.channels, SHAPE.channels)
        active = limited(scaled(sums, net.head, o), 0.0, SHAPE.hidden * 1.0)
        p = tl.arange(0, SHAPE.outputs)
        value = scaled(product(active, net.output.weight, SHAPE.channels, SHAPE.outputs), net.output, p)
        low, high = tl.load(net.limits + p), tl.load(net.limits + SHAPE.outputs + p)
        at = stage.params + i[:, None] * SHAPE.outputs + p[None, :]
        tl.store(at, limited(value, low[None, :], high[None, :]).to(tl.int16), mask=live[:, None])
    elif below is None:
        tl.store(stage.inputs + i[:, None] * SHAPE.channels + o[None, :], active.to(tl.int16), mask=live[:, None])
