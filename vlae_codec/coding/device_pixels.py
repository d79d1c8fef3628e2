# mypy: disable-error-code="no-untyped-def"
"""A step's pixels on a GPU, by kernels in Triton: what `wavefront` does, with messages and their lanes side by side.

All arithmetic is on integers. A vector's lanes take their words from the stack in the lanes' order, so each finds its
own by counting those before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_codec.entropy import cdf
from vlae_codec.models.exact.device import DRY, DUE, PIXELS, STEP, TOP, WIDTH, predict, rows_of_step

from .adapt import DECAY, GROUP, RATE, SQUARE_DECAY
from .wavefront import Alphabet

_MASK, _TOTAL = tl.constexpr((1 << cdf.PRECISION) - 1), tl.constexpr(1 << cdf.PRECISION)
_HEAD_MIN, _WORD = tl.constexpr(1 << 31), tl.constexpr((1 << 32) - 1)
_PRECISION, _INVERSE_SHIFT = tl.constexpr(cdf.PRECISION), tl.constexpr(cdf.INVERSE_SHIFT)
_END, _LAST = tl.constexpr(cdf.SIGMOID_END << 16), tl.constexpr((2 * cdf.SIGMOID_END << 16) - 1)
_FRACTION_BITS, _FRACTION_MASK = tl.constexpr(cdf.FRACTION_BITS), tl.constexpr((1 << cdf.FRACTION_BITS) - 1)
_HALF, _MEAN_STEPS = tl.constexpr(cdf.MEAN_STEPS // 2), tl.constexpr(cdf.MEAN_STEPS)
#: Bits of what a coupling is divided by: a shift is a division that rounds down.
_COUPLE_BITS = tl.constexpr((cdf.COUPLING_STEPS // cdf.MEAN_STEPS).bit_length() - 1)
_EXP_LAST, _WEIGHT_TOTAL = tl.constexpr(len(cdf.EXP) - 1), tl.constexpr(1 << cdf.WEIGHT_BITS)
_SUM_BITS = tl.constexpr(cdf.TABLE_BITS + cdf.WEIGHT_BITS)
_GROUP = tl.constexpr(GROUP)


class Tables(NamedTuple):
    """`cdf`'s tables and an `Alphabet`, on a device."""

    #: SIGMOID, and what the next entry exceeds it by in the upper half: int64.
    sigmoid: Any
    #: EXP and INVERSE_SCALE, int32.
    exp: Any
    inverse_scale: Any
    #: As in `Alphabet`: int32 (3,), uint8 (3, 256), int32 (3, 257) and (3, 256).
    counts: Any
    occurring: Any
    middles: Any
    ranks: Any

    @classmethod
    def of(cls, alphabet: Alphabet, device: torch.device) -> Tables:
        """Those of an alphabet."""
        pairs = cdf.SIGMOID[:-1] | np.diff(cdf.SIGMOID) << 32
        arrays = (
            pairs, cdf.EXP.astype(np.int32), cdf.INVERSE_SCALE.astype(np.int32), alphabet.counts.astype(np.int32),
            alphabet.values, alphabet.middles, alphabet.ranks,
        )  # fmt: skip
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


class Lanes(NamedTuple):
    """Messages on a device, see `ans.Stacks`."""

    #: int64 (M, L), and int32 whose bits are those of uint32.
    heads: Any
    words: Any
    #: int64 (M,).
    begins: Any
    sizes: Any
    #: M and L, int32.
    shape: Any


def learning_rates(returned: float, device: torch.device) -> Tensor:
    """`adapt.Heads.state`, and the rates that it is advanced with, float64 (6,).

    In memory, as a kernel would take decimal fractions for float32.
    """
    return torch.tensor([returned, 1.0, 1.0, DECAY, SQUARE_DECAY, RATE], dtype=torch.float64, device=device)


@triton.jit
def sigmoid(tables, argument):
    """`wavefront.sigmoid`, int64."""
    within = tl.minimum(tl.maximum(argument + _END, 0), _LAST).to(tl.int32)
    pair = tl.load(tables.sigmoid + (within >> _FRACTION_BITS))
    left, slope = (pair & _WORD).to(tl.int32), (pair >> 32).to(tl.int32)
    return (left + (slope * (within & _FRACTION_MASK) >> _FRACTION_BITS)).to(tl.int64)


@triton.jit
def sigmoid_argument(edge, mean, inverse):
    """`wavefront.sigmoid_argument` of edges (P,) and components (P, K)."""
    return (edge[:, None] - mean) * inverse >> _INVERSE_SHIFT


@triton.jit
def frequency_below(total, j, count):
    """`wavefront.frequency_below`."""
    return (total * (_TOTAL - count) >> _SUM_BITS) + j


@triton.jit
def residual(stage, width, y, x, channel: tl.constexpr, live):
    """What a channel's value that is known exceeds the prediction by, int64."""
    at = stage.image + (y.to(tl.int64) * width + x) * 3 + channel
    value = tl.load(at, mask=live, other=0).to(tl.int32)
    return (value - predict(stage.image, width, y, x, channel, live)).to(tl.int64)


@triton.jit
def components(tables, params, channel: tl.constexpr, pred, red, green, live, SHAPE: tl.constexpr):
    """`wavefront.mixture_components`: means, inverse scales and weights, int64 (P, K).

    ``params`` points to the pixels' outputs; ``pred``, ``red`` and ``green`` are int64 (P,).
    """
    K: tl.constexpr = SHAPE.mixtures
    k = tl.arange(0, SHAPE.components)
    known = live[:, None] & (k < K)[None, :]
    at = params[:, None] + k[None, :]
    logit = tl.load(at + channel * K, mask=known, other=-32768).to(tl.int32)
    top = tl.max(logit, 1)
    away = tl.minimum(top[:, None] - logit, _EXP_LAST)
    weight = tl.load(tables.exp + away, mask=known, other=0).to(tl.int64)
    # Of equal ones the first.
    largest = tl.min(tl.where(logit == top[:, None], k[None, :], SHAPE.components), 1)
    reciprocal = (1 << 40) // tl.maximum(tl.sum(weight, 1), 1)
    weight = weight * reciprocal[:, None] >> 24
    rest = _WEIGHT_TOTAL - tl.sum(weight, 1)
    weight += tl.where(k[None, :] == largest[:, None], rest[:, None], 0)
    mean = tl.load(at + (3 + channel) * K, mask=known, other=0).to(tl.int64) + pred[:, None] * _MEAN_STEPS
    if channel == 1:
        mean += tl.load(at + 9 * K, mask=known, other=0).to(tl.int64) * red[:, None] >> _COUPLE_BITS
    elif channel == 2:
        shift = tl.load(at + 10 * K, mask=known, other=0).to(tl.int64) * red[:, None]
        shift += tl.load(at + 11 * K, mask=known, other=0).to(tl.int64) * green[:, None]
        mean += shift >> _COUPLE_BITS
    scale = tl.load(at + (6 + channel) * K, mask=known, other=0).to(tl.int32)
    inverse = tl.load(tables.inverse_scale + scale).to(tl.int64)
    return mean, inverse, weight


@triton.jit
def advance_kernel(stage, rates, SHAPE: tl.constexpr):
    """To the next step, in one program; whether heads that learn take a step once this one has been learned from."""
    t, _, count = rows_of_step(stage, SHAPE.skew)
    tl.debug_barrier()
    tl.store(stage.place + STEP, t + 1)
    pixels = tl.load(stage.place + PIXELS) + count
    due = pixels >= _GROUP
    tl.store(stage.place + PIXELS, tl.where(due, 0, pixels))
    tl.store(stage.place + DUE, tl.where(due, pixels, 0))
    mean, square = tl.load(rates + 1), tl.load(rates + 2)
    tl.store(rates + 1, tl.where(due, mean * tl.load(rates + 3), mean))
    tl.store(rates + 2, tl.where(due, square * tl.load(rates + 4), square))


@triton.jit
def pop_kernel(stage, stacks, tables, SHAPE: tl.constexpr, CHANNELS: tl.constexpr, LANES: tl.constexpr):
    """`wavefront.pop_messages`, a program for each message. LANES are those of a message or more."""
    t, first, count = rows_of_step(stage, SHAPE.skew)
    top, width = tl.load(stage.place + TOP), tl.load(stage.place + WIDTH)
    messages, lanes = tl.load(stacks.shape), tl.load(stacks.shape + 1)
    message = tl.program_id(0)
    words = stacks.words + tl.load(stacks.begins + message)
    size = tl.load(stacks.sizes + message).to(tl.int32)
    dry = tl.load(stage.place + DRY)
    lane = tl.arange(0, LANES)
    own = stacks.heads + message * lanes + lane
    heads = tl.load(own, mask=lane < lanes, other=_HEAD_MIN)
    begin = message * count // messages
    wanted = tl.where(dry > 0, begin, (message + 1) * count // messages)
    for channel in tl.static_range(CHANNELS):
        symbols = tl.load(tables.counts + channel)
        done = begin
        while done < wanted:
            i = done + lane
            live = (lane < lanes) & (i < wanted)
            row = first + i
            x, y = t - SHAPE.skew * row, top + row
            pred = predict(stage.image, width, y, x, channel, live).to(tl.int64)
            red, green = pred * 0, pred * 0
            if channel > 0:
                red = residual(stage, width, y, x, 0, live)
            if channel > 1:
                green = residual(stage, width, y, x, 1, live)
            mean, inverse, weight = components(
                tables, stage.params + i * SHAPE.outputs, channel, pred, red, green, live, SHAPE
            )
            cf = heads & _MASK
            low, high = lane * 0, lane * 0 + symbols
            start, stop = cf * 0, cf * 0 + _TOTAL
            span = symbols
            while span > 1:
                span = (span + 1) >> 1
                middle = (low + high) >> 1
                edge = tl.load(tables.middles + channel * 257 + middle).to(tl.int64) * _HALF
                total = tl.sum(weight * sigmoid(tables, sigmoid_argument(edge, mean, inverse)), 1)
                value = frequency_below(total, middle, symbols)
                between, under = high - low > 1, value <= cf
                start = tl.where(between & under, value, start)
                low = tl.where(between & under, middle, low)
                stop = tl.where(between & (value > cf), value, stop)
                high = tl.where(between & (value > cf), middle, high)
            new = (stop - start) * (heads >> _PRECISION) + cf - start
            short = live & (new < _HEAD_MIN)
            rank = tl.cumsum(short.to(tl.int32), 0)
            word = tl.load(words + size - rank, mask=short & (rank <= size), other=0).to(tl.int64) & _WORD
            new = tl.where(short, (new << 32) | word, new)
            heads = tl.where(live, new, heads)
            taken = tl.sum(short.to(tl.int32), 0)
            dry = tl.where(taken > size, 1, dry)
            size = tl.maximum(size - taken, 0)
            symbol = tl.load(tables.occurring + channel * 256 + low, mask=live, other=0)
            at = stage.image + (y.to(tl.int64) * width + x) * 3
            if CHANNELS == 1:
                tl.store(at + 1, symbol, mask=live)
                tl.store(at + 2, symbol, mask=live)
            tl.store(at + channel, symbol, mask=live)
            done += lanes
        # The next channel looks at this one's values, which other threads have stored.
        tl.debug_barrier()
    tl.store(own, heads, mask=lane < lanes)
    tl.store(stacks.sizes + message, size.to(tl.int64))
    tl.atomic_max(stage.place + DRY, dry)
