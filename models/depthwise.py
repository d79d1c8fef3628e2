# mypy: disable-error-code="no-untyped-def"
"""The depthwise masked layer between its two rectifiers, in compiled loops: training on a CPU spends its time there.

torch has no fast gradient of a depthwise layer in bfloat16 on a CPU. Here each row of a picture is taken to float32
once, and what comes out is rounded to bfloat16 once; nothing but the layer's input and output is kept for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

#: Channels that the loops take at once.
LANES = 16

_I64, _FLOATS = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
_WORDS, _HALVES = ir.VectorType(ir.IntType(32), LANES), ir.VectorType(ir.IntType(16), LANES)
_ZEROS = _FLOATS([0.0] * LANES)
#: Sums in any order, and fused with products.
_FREE = ("fast",)


class _Rows(NamedTuple):
    """`LANES` channels of an array: where they begin, how many rows there are, and how far apart."""

    data: Any
    count: Any
    step: Any


def _pointer(builder: Any, rows: _Rows, row: Any) -> Any:
    return builder.gep(rows.data, [builder.mul(row, rows.step)])


def _loads(builder: Any, rows: _Rows, first: Any, count: int = 1) -> list[Any]:
    """Vectors of `LANES` channels, from so many rows on."""
    pointers = (_pointer(builder, rows, builder.add(first, _I64(k))) for k in range(count))
    return [builder.load(builder.bitcast(each, _FLOATS.as_pointer()), align=4) for each in pointers]


def _widened(builder: Any, rows: _Rows, row: Any) -> Any:
    """A vector of bfloat16 as floats."""
    half = builder.load(builder.bitcast(_pointer(builder, rows, row), _HALVES.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(half, _WORDS), _WORDS([16] * LANES)), _FLOATS)


def _above_zero(builder: Any, where: Any, value: Any) -> Any:
    """A value where another one is above zero, else zero."""
    return builder.select(builder.fcmp_ordered(">", where, _ZEROS), value, _ZEROS)


def _store(builder: Any, value: Any, rows: _Rows, row: Any) -> None:
    builder.store(value, builder.bitcast(_pointer(builder, rows, row), value.type.as_pointer()), align=2)


def _window(builder: Any, first: _Rows, second: _Rows, third: _Rows, x: Any) -> list[Any]:
    """The places that the layer sees of three rows of the picture, the first of them at column x of the padded rows."""
    return _loads(builder, first, x, 5) + _loads(builder, second, x, 5) + _loads(builder, third, x, 3)


def _products(builder: Any, weights: list[Any], values: list[Any], start: Any) -> Any:
    """``start`` and the products, in three sums that do not wait for each other."""
    sums = [start, None, None]
    for k, (weight, value) in enumerate(zip(weights, values, strict=True)):
        product = builder.fmul(weight, value, flags=_FREE)
        sums[k % 3] = product if sums[k % 3] is None else builder.fadd(sums[k % 3], product, flags=_FREE)
    return builder.fadd(builder.fadd(sums[0], sums[1], flags=_FREE), sums[2], flags=_FREE)


def _narrowed(builder: Any, value: Any) -> Any:
    """The nearest bfloat16, an even one of two."""
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _WORDS([16] * LANES)), _WORDS([1] * LANES))
    rounded = builder.add(builder.add(bits, odd), _WORDS([0x7FFF] * LANES))
    return builder.trunc(builder.lshr(rounded, _WORDS([16] * LANES)), _HALVES)


def _vectors(code: Callable[..., None]) -> Callable[..., Any]:
    """A function of compiled loops over a tuple of arrays (rows, C) or (C / LANES, rows, LANES).

    ``code(builder, *rows)`` makes the instructions for `LANES` channels. LLVM would do as well by itself if it knew
    that the arrays are apart; there is no way to tell it.
    """

    @intrinsic
    def made(typing: Any, arrays: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, values = signature.args[0], cgutils.unpack_tuple(builder, args[0])
            given = [
                context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, values, strict=True)
            ]
            shapes = [cgutils.unpack_tuple(builder, array.shape) for array in given]
            # The first array is of blocks.
            with cgutils.for_range(builder, shapes[0][0]) as loop:
                rows = []
                for array, shape in zip(given, shapes, strict=True):
                    blocked = len(shape) == 3
                    size = builder.mul(shape[1], shape[2]) if blocked else _I64(LANES)
                    start = builder.gep(array.data, [builder.mul(loop.index, size)])
                    rows.append(_Rows(start, shape[-2], _I64(LANES) if blocked else shape[1]))
                code(builder, *rows)
            return context.get_dummy_value()

        return types.void(arrays), generate

    return made


@_vectors
def _rectify(builder: Any, out: _Rows, row: _Rows) -> None:
    """A row's inputs, or zero where they are below, from column 2 on."""
    with cgutils.for_range(builder, row.count) as loop:
        value = _widened(builder, row, loop.index)
        _store(builder, _above_zero(builder, value, value), out, builder.add(loop.index, _I64(2)))


@_vectors
def _pass(builder: Any, out: _Rows, gradient: _Rows, outputs: _Rows) -> None:
    """A row's gradient where the rectified outputs are above zero, from column 2 on."""
    with cgutils.for_range(builder, gradient.count) as loop:
        value = _widened(builder, gradient, loop.index)
        value = _above_zero(builder, _widened(builder, outputs, loop.index), value)
        _store(builder, value, out, builder.add(loop.index, _I64(2)))


@_vectors
def _forward_row(
    builder: Any, weights: _Rows, bias: _Rows, first: _Rows, second: _Rows, third: _Rows, out: _Rows
) -> None:
    """The layer's outputs in a row."""
    kept, (start,) = _loads(builder, weights, _I64(0), 13), _loads(builder, bias, _I64(0))
    with cgutils.for_range(builder, out.count) as loop:
        total = _products(builder, kept, _window(builder, first, second, third, loop.index), start)
        _store(builder, _narrowed(builder, _above_zero(builder, total, total)), out, loop.index)


@_vectors
def _backward_row(
    builder: Any, weights: _Rows, first: _Rows, second: _Rows, third: _Rows, inputs: _Rows, out: _Rows
) -> None:
    """The inputs' gradient in a row, from the outputs' in the second row below it, in the next one and in it."""
    kept = _loads(builder, weights, _I64(0), 13)
    # The window turned about: what the layer sees to the left and above, sees it to the right and below.
    order = [*kept[4::-1], *kept[9:4:-1], *kept[12:9:-1]]
    with cgutils.for_range(builder, out.count) as loop:
        right = builder.add(loop.index, _I64(2))
        values = _loads(builder, first, loop.index, 5) + _loads(builder, second, loop.index, 5)
        values += _loads(builder, third, right, 3)
        total = _products(builder, order, values, _ZEROS)
        (own,) = _loads(builder, inputs, right)
        _store(builder, _narrowed(builder, _above_zero(builder, own, total)), out, loop.index)


@_vectors
def _gain(builder: Any, sums: _Rows, gradient: _Rows, first: _Rows, second: _Rows, third: _Rows) -> None:
    """Add a row's share of the gradients by the 13 weights and, in the last row of the sums, by the bias."""
    kept = [cgutils.alloca_once_value(builder, each) for each in _loads(builder, sums, _I64(0), 14)]
    with cgutils.for_range(builder, builder.sub(gradient.count, _I64(4))) as loop:
        (own,) = _loads(builder, gradient, builder.add(loop.index, _I64(2)))
        values = _window(builder, first, second, third, loop.index)
        for place, value in zip(kept, [builder.fmul(own, each, flags=_FREE) for each in values] + [own], strict=True):
            builder.store(builder.fadd(builder.load(place), value, flags=_FREE), place)
    for k, place in enumerate(kept):
        _store(builder, builder.load(place), sums, _I64(k))


@njit(cache=True)
def _padded_rows(channels, width):
    """Room for three rows, zeros, that begins with a line of the cache, so that no vector lies in two."""
    room = np.zeros(3 * channels * (width + 4) + LANES, np.float32)
    first = (-room.ctypes.data // 4) % LANES
    return room[first : len(room) - LANES + first].reshape(3, channels // LANES, width + 4, LANES)


@njit(cache=True, parallel=True)
def _forward(inputs, weights, bias, out):
    """The layer of pictures (N, H, W, C) in the 16 bits of bfloat16; weights (C / LANES, 13, LANES)."""
    n, height, width, channels = inputs.shape
    for i in prange(n):
        rows = _padded_rows(channels, width)
        for y in range(height):
            _rectify((rows[y % 3], inputs[i, y]))
            _forward_row((weights, bias, rows[(y + 1) % 3], rows[(y + 2) % 3], rows[y % 3], out[i, y]))


@njit(cache=True, parallel=True)
def _backward(gradient, outputs, inputs, weights, inputs_gradient, sums):
    """The inputs' gradient, and those of weights and bias summed up by picture (N, C / LANES, 14, LANES)."""
    n, height, width, channels = inputs.shape
    for i in prange(n):
        rows = _padded_rows(channels, width)
        below = _padded_rows(channels, width)
        # From the bottom up: row y of the inputs completes the window of row y + 2 of the outputs.
        for y in range(height - 1, -3, -1):
            if y >= 0:
                _rectify((rows[y % 3], inputs[i, y]))
            else:
                rows[y % 3] = 0
            own = y + 2
            if own < height:
                here = below[own % 3]
                _pass((here, gradient[i, own], outputs[i, own]))
                _gain((sums[i], here, rows[y % 3], rows[(y + 1) % 3], rows[own % 3]))
                later = (below[(own + 2) % 3], below[(own + 1) % 3], here)
                _backward_row((weights, *later, rows[own % 3], inputs_gradient[i, own]))


def _bits(tensor: Tensor) -> NDArray[np.uint16]:
    """A tensor (N, C, H, W) of bfloat16 as an array (N, H, W, C) of its bits."""
    return tensor.permute(0, 2, 3, 1).contiguous().view(torch.int16).numpy().view(np.uint16)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.channels_last)


class RectifiedDepthwise(torch.autograd.Function):
    """relu(depthwise(relu(p)) + bias) over `plan.WIDE_NEIGHBOURS`, zeros outside the picture.

    Parameters
    ----------
    p : Tensor of bfloat16, shape (N, C, H, W), on a CPU; C a multiple of `LANES`
    weights : Tensor of float32, shape (C, 13)
    bias : Tensor of float32, shape (C,)

    Returns
    -------
    Tensor of bfloat16, shape (N, C, H, W), channels last.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """Every row in float32, rounded at the end."""
        out = _empty(p)
        _forward(_bits(p), _blocks(weights), _blocks(bias[:, None]), _bits(out))
        ctx.save_for_backward(p, weights, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of all three."""
        p, weights, out = ctx.saved_tensors
        n, channels = p.shape[:2]
        found, sums = _empty(p), np.zeros((n, channels // LANES, 14, LANES), np.float32)
        _backward(_bits(gradients[0]), _bits(out), _bits(p), _blocks(weights), _bits(found), sums)
        total = torch.from_numpy(sums.sum(0).swapaxes(1, 2).reshape(channels, 14))
        return found, total[:, :13], total[:, 13]


def _blocks(weights: Tensor) -> NDArray[np.float32]:
    """Weights (C, K) as (C / LANES, K, LANES)."""
    channels, places = weights.shape
    return weights.detach().view(channels // LANES, LANES, places).transpose(1, 2).contiguous().numpy()
