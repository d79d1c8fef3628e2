# mypy: disable-error-code="no-untyped-def"
"""The heads that learn, on a GPU, by kernels in Triton: `adapt` and `gradient` to the bit.

Sums are of whole numbers: products of bytes in int32, put together in int64, and added up by atomic additions, whose
order does not matter. All else is single operations of IEEE 754 in the order of `adapt`, float32 division and root by
the functions that round as it says, and launches ask that nothing be fused. Constants in float64 are powers of two or
come from memory. To round, 1.5 * 2^52 is added and taken away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from vlae_codec.entropy import cdf
from vlae_codec.models.exact.device import (
    DUE,
    ROWS,
    TILE_,
    TOP,
    WIDTH,
    Shape,
    limited,
    lower_digit,
    predict,
    rows_of_step,
)
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.plan import ACTIVATION_MAX, MEAN_UNIT

from . import adapt
from .device_pixels import components, frequency_below, learning_rates, sigmoid, sigmoid_argument

#: Pixels that one program learns from, as products over them are of 32 bytes; weights that one takes a step with.
TEACH, UPDATE = 32, 256
#: Digits of a weight, see `models.exact.device`, and of a gradient.
DIGITS, GRADIENT_DIGITS = 4, 3

_TEACH, _UPDATE, _DIGITS = tl.constexpr(TEACH), tl.constexpr(UPDATE), tl.constexpr(DIGITS)
_GRADIENT_DIGITS = tl.constexpr(GRADIENT_DIGITS)
_HALF = tl.constexpr(cdf.MEAN_STEPS // 2)
_TOTAL, _TABLE_TOTAL = tl.constexpr(1 << cdf.PRECISION), tl.constexpr(1 << cdf.TABLE_BITS)
_UNIT, _TABLE = tl.constexpr(1.0 / (1 << 16)), tl.constexpr(1.0 / (1 << cdf.TABLE_BITS))
_INVERSE = tl.constexpr(cdf.MEAN_STEPS / float(1 << (16 + cdf.INVERSE_SHIFT)))
_MEAN_UNIT, _ONE = tl.constexpr(MEAN_UNIT), tl.constexpr(adapt.ONE)
_WHOLE_ONE = tl.constexpr(int(adapt.ONE))
_OUTPUT, _HIDDEN = tl.constexpr(float(1 << adapt.OUTPUT_BITS)), tl.constexpr(float(1 << adapt.HIDDEN_BITS))
_LARGEST, _ACTIVATION_MAX = tl.constexpr(adapt.LARGEST), tl.constexpr(ACTIVATION_MAX)
_MAGIC = tl.constexpr(1.5 * 2.0**52)
#: Beyond this a step takes a weight to its limit anyway.
_FAR = tl.constexpr(2.0**40)
#: float32 as they are in `adapt`.
_DECAY, _GAIN = (tl.constexpr(float(np.float32(each))) for each in (adapt.DECAY, 1.0 - adapt.DECAY))
_SQUARE_DECAY, _SQUARE_GAIN = (
    tl.constexpr(float(np.float32(each))) for each in (adapt.SQUARE_DECAY, 1.0 - adapt.SQUARE_DECAY)
)
_EPSILON, _TINY = tl.constexpr(float(np.float32(adapt.EPSILON))), tl.constexpr(2.0**-100)


class Heads(NamedTuple):
    """`adapt.Heads` on a device.

    Both layers' arrays stand in one: (channels + 1, channels) and after it (channels + 1, outputs), the biases last.
    """

    #: float64 on the grid, and int8 (DIGITS, ...) of the same.
    weights: Any
    digits: Any
    #: Means of the gradient and of its square, float32.
    means: Any
    squares: Any
    #: int64.
    sums: Any
    #: Steps of the grid in a weight of one, and the largest weight, float64.
    steps: Any
    most: Any
    #: float64 (channels,), (outputs,), (outputs,) and (2, outputs).
    first_scale: Any
    second_scale: Any
    back: Any
    limits: Any
    #: See `learning_rates`.
    rates: Any

    @classmethod
    def of(cls, model: IntegerModel, device: torch.device) -> Heads:
        """Those of a model that has not learned yet."""
        shape = Shape.of(model)
        known = adapt.Heads.of(model, 1, 1, 1)

        def put(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        def filled(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
            parts = []
            for part, outputs in ((first, shape.channels), (second, shape.outputs)):
                whole = np.zeros((shape.channels + 1, outputs))
                whole[: len(part) - 1, : part.shape[1]] = part[:-1]
                whole[-1, : part.shape[1]] = part[-1]
                parts.append(whole.ravel())
            return np.concatenate(parts)

        def wide(part: NDArray[Any], width: int) -> NDArray[Any]:
            return np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, width - part.shape[-1])])

        weights = filled(known.first, known.second)
        most = [np.full(part.shape, adapt.WEIGHT_MAX) for part in (known.first, known.second)]
        for part in most:
            part[-1] = adapt.BIAS_MAX
        steps = [
            np.broadcast_to(step, part.shape)
            for step, part in ((known.first_steps, known.first), (known.second_steps, known.second))
        ]
        rest, parts = weights.astype(np.int64), []
        for _ in range(DIGITS):
            parts.append((rest + 128 & 255) - 128)
            rest = rest - parts[-1] >> 8
        return cls(
            put(weights), put(np.stack(parts).astype(np.int8)),
            put(np.zeros(weights.shape, np.float32)), put(np.zeros(weights.shape, np.float32)),
            put(np.zeros(weights.shape, np.int64)),
            put(filled(*steps)), put(filled(*most)), put(wide(known.first_scale, shape.channels)),
            put(wide(known.second_scale, shape.outputs)), put(wide(known.back, shape.outputs)),
            put(wide(known.limits, shape.outputs)), learning_rates(float(known.state[0]), device),
        )  # fmt: skip


@triton.jit
def digit(value, n: tl.constexpr):
    """The n-th digit of int32, as int8."""
    for _ in tl.static_range(n):
        value = (value - lower_digit(value)) >> 8
    return lower_digit(value).to(tl.int8)


@triton.jit
def digit_sums(rows, weights, plane: tl.constexpr, COUNT: tl.constexpr):
    """Sums int64 over int32 rows (T, K) of so many digits, times weights (K, N), whose digits lie so far apart."""
    total = tl.dot(digit(rows, 0), tl.load(weights), out_dtype=tl.int32).to(tl.int64)
    for i in tl.static_range(COUNT):
        for j in tl.static_range(_DIGITS):
            if i + j > 0:
                part = tl.dot(digit(rows, i), tl.load(weights + j * plane), out_dtype=tl.int32)
                total += part.to(tl.int64) << (8 * (i + j))
    return total


@triton.jit
def whole(value):
    """`adapt._whole`, as int32."""
    near = tl.minimum(tl.maximum(value, -_LARGEST), _LARGEST)
    return ((near + _MAGIC) - _MAGIC).to(tl.int32)


@triton.jit
def heads_kernel(stage, heads, active, SHAPE: tl.constexpr, WIDE: tl.constexpr = 0):
    """`adapt._head_rows` of a step, TILE pixels a program.

    Unless ``active`` is None their inputs are taken from there: int16 (rows, W, WIDE).
    """
    C: tl.constexpr = SHAPE.channels
    O: tl.constexpr = SHAPE.outputs
    FIRST: tl.constexpr = (C + 1) * C
    PLANE: tl.constexpr = FIRST + (C + 1) * O
    t, first, count = rows_of_step(stage, SHAPE.skew)
    begin = tl.program_id(0) * TILE_
    if begin >= count:
        return
    i = begin + tl.arange(0, TILE_)
    live = (i < count)[:, None]
    c, o = tl.arange(0, C), tl.arange(0, O)
    kept = stage.inputs + i[:, None] * C + c[None, :]
    if active is None:
        inputs = tl.load(kept, mask=live, other=0).to(tl.int32)
    else:
        row = first + i
        at = active + (row.to(tl.int64) * tl.load(stage.place + WIDTH) + t - SHAPE.skew * row) * WIDE
        inputs = tl.load(at[:, None] + c[None, :], mask=live & (c < WIDE)[None, :], other=0).to(tl.int32)
        tl.store(kept, inputs.to(tl.int16), mask=live)
    sums = digit_sums(inputs, heads.digits + c[:, None] * C + c[None, :], PLANE, 2).to(tl.float64)
    bias = tl.load(heads.weights + C * C + c)[None, :] * _ONE
    value = tl.floor((sums + bias) * tl.load(heads.first_scale + c)[None, :])
    hidden = limited(value, 0.0, _ACTIVATION_MAX * 1.0)
    tl.store(stage.hidden + i[:, None] * C + c[None, :], hidden.to(tl.int16), mask=live)
    sums = digit_sums(hidden, heads.digits + FIRST + c[:, None] * O + o[None, :], PLANE, 2).to(tl.float64)
    bias = tl.load(heads.weights + FIRST + C * O + o)[None, :] * _ONE
    value = tl.floor((sums + bias) * tl.load(heads.second_scale + o)[None, :])
    low, high = tl.load(heads.limits + o)[None, :], tl.load(heads.limits + O + o)[None, :]
    tl.store(stage.params + i[:, None] * O + o[None, :], limited(value, low, high).to(tl.int16), mask=live)


@triton.jit
def keep_gradient(stage, heads, found, block: tl.constexpr, i, live, SHAPE: tl.constexpr):
    """`adapt._round_outputs` of one block of outputs, (TEACH, components)."""
    k = tl.arange(0, SHAPE.components)
    inside = k < SHAPE.mixtures
    known = live[:, None] & inside[None, :]
    o = block * SHAPE.mixtures + k
    at = i[:, None] * SHAPE.outputs + o[None, :]
    param = tl.load(stage.params + at, mask=known, other=0).to(tl.float64)
    low = tl.load(heads.limits + o, mask=inside, other=0.0)[None, :]
    high = tl.load(heads.limits + SHAPE.outputs + o, mask=inside, other=0.0)[None, :]
    beyond = ((param >= high) & (found < 0.0)) | ((param <= low) & (found > 0.0))
    each = tl.where(beyond, 0.0, found)
    unit = tl.load(heads.back + o, mask=inside, other=0.0)[None, :]
    tl.store(stage.gradient + at, whole(each * _OUTPUT), mask=known)
    tl.store(stage.returned + at, whole(each * unit), mask=known)


@triton.jit
def side(tables, channel: tl.constexpr, j, symbols, mixture, OUTSIDE: tl.constexpr):
    """Of the edge below the j-th value: frequency below, argument and sigmoid of each component, 0 or 1 at an end."""
    mean, inverse, weight = mixture
    inner = (j > 0) & (j < symbols)
    edge = tl.load(tables.middles + channel * 257 + j).to(tl.int64) * _HALF
    argument = tl.where(inner[:, None], sigmoid_argument(edge, mean, inverse), 0)
    part = tl.where(inner[:, None], sigmoid(tables, argument), OUTSIDE * _TABLE_TOTAL)
    below = frequency_below(tl.sum(weight * part, 1), j, symbols)
    return tl.where(inner, below, OUTSIDE * _TOTAL), argument.to(tl.float64) * _UNIT, part.to(tl.float64) * _TABLE


@triton.jit
def teach(stage, heads, tables, intervals, pixels, SHAPE: tl.constexpr, CHANNELS: tl.constexpr):
    """`gradient.pixel_gradient`, rounded and kept, of TEACH pixels: numbers, rows and columns, and which there are."""
    i, row, x, live = pixels
    width = tl.load(stage.place + WIDTH)
    y = tl.load(stage.place + TOP) + row
    red, green = x.to(tl.int64) * 0, x.to(tl.int64) * 0
    for channel in tl.static_range(CHANNELS):
        pred = predict(stage.image, width, y, x, channel, live).to(tl.int64)
        mixture = components(tables, stage.params + i * SHAPE.outputs, channel, pred, red, green, live, SHAPE)
        value = tl.load(stage.image + (y.to(tl.int64) * width + x) * 3 + channel, mask=live, other=0).to(tl.int32)
        j = tl.load(tables.ranks + channel * 256 + value)
        symbols = tl.load(tables.counts + channel)
        start, low_away, low = side(tables, channel, j, symbols, mixture, 0)
        stop, high_away, high = side(tables, channel, j + 1, symbols, mixture, 1)
        freq = tl.where(live, stop - start, 1)
        if intervals is not None:
            at = intervals + (row.to(tl.int64) * width + x) * CHANNELS + channel
            tl.store(at, start.to(tl.int32), mask=live)
            plane = tl.load(stage.place + ROWS).to(tl.int64) * width * CHANNELS
            tl.store(at + plane, freq.to(tl.int32), mask=live)
        weight = mixture[2].to(tl.float64) * _UNIT
        # 2^24.
        inverse = 16777216.0 / freq.to(tl.float64)
        share = weight * inverse[:, None]
        keep_gradient(stage, heads, weight - share * (high - low), channel, i, live, SHAPE)
        low_slope, high_slope = low * (1.0 - low), high * (1.0 - high)
        by_mean = share * (high_slope - low_slope) * (mixture[1].to(tl.float64) * _INVERSE)
        keep_gradient(stage, heads, by_mean * _MEAN_UNIT, 3 + channel, i, live, SHAPE)
        by_scale = share * (high_slope * high_away - low_slope * low_away)
        keep_gradient(stage, heads, by_scale, 6 + channel, i, live, SHAPE)
        if channel == 1:
            keep_gradient(stage, heads, by_mean * red.to(tl.float64)[:, None], 9, i, live, SHAPE)
        elif channel == 2:
            keep_gradient(stage, heads, by_mean * red.to(tl.float64)[:, None], 10, i, live, SHAPE)
            keep_gradient(stage, heads, by_mean * green.to(tl.float64)[:, None], 11, i, live, SHAPE)
        if channel == 0:
            red = value - pred
        else:
            green = value - pred


@triton.jit
def add_outer(columns, gradient, sums, I: tl.constexpr, O: tl.constexpr):
    """Add a layer's inputs (I, TEACH) times the gradients by its outputs (TEACH, O) to the sums; below, the biases'."""
    total = tl.zeros((I, O), tl.int64)
    for i in tl.static_range(2):
        for j in tl.static_range(_GRADIENT_DIGITS):
            part = tl.dot(digit(columns, i), digit(gradient, j), out_dtype=tl.int32)
            total += part.to(tl.int64) << (8 * (i + j))
    o = tl.arange(0, O)
    tl.atomic_add(sums + tl.arange(0, I)[:, None] * O + o[None, :], total, sem="relaxed")
    tl.atomic_add(sums + I * O + o, tl.sum(gradient.to(tl.int64), 0) * _WHOLE_ONE, sem="relaxed")


@triton.jit
def learn_kernel(stage, heads, tables, intervals, SHAPE: tl.constexpr, CHANNELS: tl.constexpr):
    """`adapt._teach_share` and `adapt._learn_share` of the step before, TEACH pixels a program.

    Its `adapt` intervals are kept unless ``intervals`` is None: int32 (2, rows, W, channels).
    """
    C: tl.constexpr = SHAPE.channels
    O: tl.constexpr = SHAPE.outputs
    FIRST: tl.constexpr = (C + 1) * C
    PLANE: tl.constexpr = FIRST + (C + 1) * O
    t, first, count = rows_of_step(stage, SHAPE.skew, 1)
    begin = tl.program_id(0) * _TEACH
    if begin >= count:
        return
    i = begin + tl.arange(0, _TEACH)
    live = i < count
    row = first + i
    teach(stage, heads, tables, intervals, (i, row, t - SHAPE.skew * row, live), SHAPE, CHANNELS)
    # What follows takes the gradients of whole pixels, which other threads have kept.
    tl.debug_barrier()
    c, o = tl.arange(0, C), tl.arange(0, O)
    by_output = tl.load(stage.returned + i[:, None] * O + o[None, :], mask=live[:, None], other=0)
    second = heads.digits + FIRST + c[None, :] * O + o[:, None]
    back = digit_sums(by_output, second, PLANE, _GRADIENT_DIGITS).to(tl.float64)
    hidden = tl.load(stage.hidden + i[:, None] * C + c[None, :], mask=live[:, None], other=0)
    by_hidden = whole(back * tl.load(heads.rates))
    by_hidden = tl.where((hidden > 0) & (hidden < _ACTIVATION_MAX), by_hidden, 0)
    columns = i[None, :] * C + c[:, None]
    gradient = tl.load(stage.gradient + i[:, None] * O + o[None, :], mask=live[:, None], other=0)
    add_outer(
        tl.load(stage.hidden + columns, mask=live[None, :], other=0).to(tl.int32), gradient, heads.sums + FIRST, C, O
    )
    add_outer(tl.load(stage.inputs + columns, mask=live[None, :], other=0).to(tl.int32), by_hidden, heads.sums, C, C)


@triton.jit
def update_kernel(stage, heads, SHAPE: tl.constexpr):
    """`adapt._update` where a step is due, UPDATE weights a program."""
    due = tl.load(stage.place + DUE)
    if due == 0:
        return
    FIRST: tl.constexpr = (SHAPE.channels + 1) * SHAPE.channels
    PLANE: tl.constexpr = FIRST + (SHAPE.channels + 1) * SHAPE.outputs
    at = tl.program_id(0) * _UPDATE + tl.arange(0, _UPDATE)
    mask = at < PLANE
    unit = 1.0 / (due.to(tl.float64) * _ONE)
    unit = tl.where(at < FIRST, unit / _HIDDEN, unit / _OUTPUT)
    rate = (tl.load(heads.rates + 5) / (1.0 - tl.load(heads.rates + 1))).to(tl.float32)
    by = (1.0 / (1.0 - tl.load(heads.rates + 2))).to(tl.float32)
    gradient = (tl.load(heads.sums + at, mask=mask, other=0).to(tl.float64) * unit).to(tl.float32)
    mean = tl.load(heads.means + at, mask=mask, other=0.0) * _DECAY + gradient * _GAIN
    square = tl.load(heads.squares + at, mask=mask, other=0.0) * _SQUARE_DECAY + (gradient * gradient) * _SQUARE_GAIN
    mean = tl.where(tl.abs(mean) >= _TINY, mean, 0.0)
    square = tl.where(square >= _TINY, square, 0.0)
    away = tl.math.div_rn(rate * mean, tl.math.sqrt_rn(square * by) + _EPSILON)
    step = away.to(tl.float64) * tl.load(heads.steps + at, mask=mask, other=0.0)
    step = (tl.minimum(tl.maximum(step, -_FAR), _FAR) + _MAGIC) - _MAGIC
    most = tl.load(heads.most + at, mask=mask, other=0.0)
    weight = tl.load(heads.weights + at, mask=mask, other=0.0) - step
    weight = tl.minimum(tl.maximum(weight, -most), most)
    tl.store(heads.means + at, mean, mask=mask)
    tl.store(heads.squares + at, square, mask=mask)
    tl.store(heads.weights + at, weight, mask=mask)
    tl.store(heads.sums + at, tl.zeros((_UPDATE,), tl.int64), mask=mask)
    rest = weight.to(tl.int32)
    for n in tl.static_range(_DIGITS):
        tl.store(heads.digits + n * PLANE + at, digit(rest, n), mask=mask)
