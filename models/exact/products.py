"""Sums of products of int16 as vector instructions, which numba does not make of a loop by itself.

LLVM is given what it makes pmaddwd of, or VNNI's vpdpwssd, which multiplies and adds up twice as many int16 at once as
others do float32. It is said in terms that mean the same on every processor, and int32 holds every sum, so the integers
are the same everywhere. `pack` and `pack_depthwise` bring weights into the order that the instructions want.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config as numba_config
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

#: What widths are rounded up to: outputs of products, and channels of depthwise layers.
LANES = 32

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_HALF = LANES // 2
_NARROW, _WIDE = ir.VectorType(_I16, LANES), ir.VectorType(_I32, LANES)
_SUMS, _FLOATS = ir.VectorType(_I32, _HALF), ir.VectorType(_F32, _HALF)


def _has(feature: str) -> bool:
    """Whether loops are compiled for processors with a feature."""
    given = numba_config.CPU_FEATURES  # type: ignore[attr-defined]
    return feature in given if given is not None else bool(llvmlite.binding.get_host_cpu_features().get(feature))


#: Whether the processor has the fused instruction, and LLVM knows the processor named below.
_FUSED = (
    _has("avx512vnni") and platform.machine() in ("x86_64", "AMD64") and llvmlite.binding.llvm_version_info[0] >= 16
)
#: Rows of inputs and halves of `LANES` outputs whose sums are kept in registers.
_ROWS, _HALVES = (6, 4) if _has("avx512bw") else (3, 2)


def rounded_up(width: int) -> int:
    """A width with the channels of zeros that fill it up to `LANES`."""
    return -(-width // LANES) * LANES


def pack(weight: NDArray[np.int16]) -> NDArray[np.int16]:
    """A layer's weights (outputs, inputs), as `product_rows` wants them: (ceil(inputs / 2), rounded outputs, 2)."""
    outputs, inputs = weight.shape
    packed = np.zeros((-(-inputs // 2), rounded_up(outputs), 2), np.int16)
    packed[:, :outputs, 0] = weight.T[::2]
    packed[: inputs // 2, :outputs, 1] = weight.T[1::2]
    return packed


def _unpack(packed: NDArray[np.int16]) -> NDArray[np.int64]:
    pairs, outputs, _ = packed.shape
    return packed.transpose(0, 2, 1).reshape(2 * pairs, outputs).astype(np.int64)


def product_rows(inputs: NDArray[np.int16], weights: NDArray[np.int16], sums: NDArray[np.int32], count: int) -> None:
    """Sums over the inputs, each times its weights; to be called within compiled loops.

    Indices are not checked. This is what plain Python runs where numba is off.

    Parameters
    ----------
    inputs : array of int16, shape (rows, at least 2 * pairs)
    weights : array of int16, shape (pairs, outputs, 2)
        See `pack`.
    sums : array of int32, shape (rows, at least outputs)
        The first ``count`` rows receive the sums.
    count : int
    """
    weight = _unpack(weights)
    sums[:count, : weight.shape[1]] = inputs[:count, : len(weight)].astype(np.int64) @ weight


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one value."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _places([0] * kind.count))


def _places(values: Any) -> Any:
    values = list(values)
    return ir.Constant(ir.VectorType(_I32, len(values)), [_I32(each) for each in values])


def _vector(builder: Any, pointer: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=2)


def _add_products(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """``total``, and to each of its lanes the products of a pair of neighbours: one instruction of VNNI."""
    wide = builder.mul(builder.sext(a, _WIDE), builder.sext(b, _WIDE))
    none = ir.Constant(_WIDE, ir.Undefined)
    even, odd = (builder.shuffle_vector(wide, none, _places(range(first, LANES, 2))) for first in (0, 1))
    return builder.add(total, builder.add(even, odd))


def _whole(*arrays: Any) -> bool:
    """Whether arrays lie in memory as their shapes say, which is what addresses are made from."""
    return all(isinstance(each, types.Array) and each.layout == "C" for each in arrays)


class _Array(NamedTuple):
    """What is taken of one of numba's arrays."""

    data: Any
    shape: tuple[Any, ...]


def _arrays(context: Any, builder: Any, signature: Any, args: Any, *which: int) -> list[_Array]:
    made = [context.make_array(signature.args[i])(context, builder, args[i]) for i in which]
    return [_Array(each.data, cgutils.unpack_tuple(builder, each.shape)) for each in made]


def _tile(rows: int, halves: int) -> Callable[..., None]:
    """Sums of so many rows and halves of `LANES` outputs, from a row and an output on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inputs, weights, sums = _arrays(context, builder, signature, args, 0, 2, 4)
        first, output = args[1], args[3]
        if _FUSED:
            # Else LLVM, which knows no better of Intel's, parts the instruction again: two thirds of the rate. To
            # choose for one processor rather than another changes no result. The attribute is not one that llvmlite
            # lists, and would be lost if the function were part of another.
            with contextlib.suppress(TypeError):
                set.add(builder.function.attributes, '"tune-cpu"="znver4"')
            builder.function.attributes.add("noinline")
        pairs, outputs, _ = weights.shape
        numbers = [builder.add(first, _I64(row)) for row in range(rows)]
        words = _I32.as_pointer()
        taken = [
            builder.bitcast(builder.gep(inputs.data, [builder.mul(number, inputs.shape[1])]), words)
            for number in numbers
        ]
        weight = builder.bitcast(weights.data, words)
        kept = [[cgutils.alloca_once(builder, _SUMS) for _ in range(halves)] for _ in range(rows)]
        for of_row in kept:
            for each in of_row:
                builder.store(ir.Constant(_SUMS, None), each)
        with cgutils.for_range(builder, pairs) as loop:
            at = builder.add(builder.mul(loop.index, outputs), output)
            columns = [
                _vector(builder, builder.gep(weight, [builder.add(at, _I64(_HALF * half))]), _NARROW)
                for half in range(halves)
            ]
            for row in range(rows):
                pair = builder.load(builder.gep(taken[row], [loop.index]), align=2)
                both = builder.bitcast(_splat(builder, pair, _SUMS), _NARROW)
                for half in range(halves):
                    total = _add_products(builder, builder.load(kept[row][half]), both, columns[half])
                    builder.store(total, kept[row][half])
        for row in range(rows):
            at = builder.add(builder.mul(numbers[row], sums.shape[1]), output)
            for half in range(halves):
                place = builder.gep(sums.data, [builder.add(at, _I64(_HALF * half))])
                builder.store(builder.load(kept[row][half]), builder.bitcast(place, _SUMS.as_pointer()), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typing: Any, inputs: Any, first: Any, weights: Any, output: Any, sums: Any) -> Any:
        if not _whole(inputs, weights, sums):
            return None
        return types.void(inputs, types.int64, weights, types.int64, sums), code

    return tile


_many_wide, _many_narrow = _tile(_ROWS, _HALVES), _tile(_ROWS, 2)
_one_wide, _one_narrow = _tile(1, _HALVES), _tile(1, 2)


@overload(product_rows)
def _product_rows(inputs: Any, weights: Any, sums: Any, count: Any) -> Any:
    wide = _HALVES * _HALF

    def compiled(inputs: Any, weights: Any, sums: Any, count: Any) -> None:
        outputs = weights.shape[1]
        row = 0
        while row < count:
            many, output = row + _ROWS <= count, 0
            while output < outputs:
                if output + wide <= outputs:
                    if many:
                        _many_wide(inputs, row, weights, output, sums)
                    else:
                        _one_wide(inputs, row, weights, output, sums)
                    output += wide
                else:
                    if many:
                        _many_narrow(inputs, row, weights, output, sums)
                    else:
                        _one_narrow(inputs, row, weights, output, sums)
                    output += LANES
            row += _ROWS if many else 1

    return compiled


# -- depthwise ---------------------------------------------------------------------------------------------------------

#: Neighbours that a depthwise layer sees, `plan.WIDE_NEIGHBOURS`, and pairs of them; the last one has no other.
_SEEN, _PAIRS = 13, 7
#: Channels in the order in which two vectors' lanes are paired: four of eight in the one half, four in the other.
_LOWER = [8 * group + each for group in range(4) for each in range(4)]
_ORDER = _LOWER + [4 + each for each in _LOWER]


def _order(inner: int) -> NDArray[np.int64]:
    return (np.arange(0, inner, LANES)[:, None] + np.array(_ORDER)).ravel()


def pack_depthwise(weight: NDArray[np.int16], affine: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[Any]]:
    """Weights (neighbours, channels) as (pairs, channels, 2), and biases and scales, (2, channels), in that order.

    There are `rounded_up` channels.
    """
    inner = weight.shape[1]
    pairs = np.zeros((2 * _PAIRS, inner), np.int16)
    pairs[:_SEEN] = weight
    order = _order(inner)
    packed = pairs.reshape(_PAIRS, 2, inner)[:, :, order].transpose(0, 2, 1)
    return np.ascontiguousarray(packed), np.ascontiguousarray(affine[:, order])


def depthwise_row(
    kept: NDArray[np.int16], rows: tuple[Any, ...], columns: tuple[Any, ...],
    weights: NDArray[np.int16], affine: NDArray[np.float32], high: np.float32, seen: NDArray[np.int16],
) -> None:  # fmt: skip
    """A depthwise layer of one pixel, as the next layer takes it; to be called within compiled loops.

    Indices are not checked. This is what plain Python runs where numba is off.

    Parameters
    ----------
    kept : array of int16, shape (rows, columns, inner)
    rows, columns : tuples of integers
        Where in ``kept`` the farthest row above the pixel is, the one above it and its own; and the farthest column to
        the left, the one to the left, its own, the one to the right and the farthest.
    weights, affine : arrays
        See `pack_depthwise`.
    high : float32
        The highest that the next layer takes.
    seen : array of int16, shape (inner,)
        Receives the layer's outputs.
    """
    order = _order(kept.shape[2])
    flat = _unpack(weights)[:_SEEN]
    neighbours = np.stack([kept[rows[i // 5], columns[i % 5]][order] for i in range(_SEEN)]).astype(np.int64)
    total = (neighbours * flat).sum(0).astype(np.float32)
    seen[order] = np.clip(np.floor((total + affine[0]) * affine[1]), np.float32(0.0), high).astype(np.int16)


def _depthwise(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """`depthwise_row` of `LANES` channels."""
    kept, weights, affine, seen = _arrays(context, builder, signature, args, 0, 3, 4, 6)
    places = cgutils.unpack_tuple(builder, args[1])
    channel, high = args[2], _splat(builder, args[5], _FLOATS)
    _, width, inner = kept.shape

    def neighbour(i: int) -> Any:
        place = builder.mul(builder.add(builder.mul(places[i // 5], width), places[3 + i % 5]), inner)
        return _vector(builder, builder.gep(kept.data, [builder.add(place, channel)]), _NARROW)

    def of_pair(pair: int, half: int) -> Any:
        place = builder.mul(builder.add(builder.mul(_I64(pair), inner), channel), _I64(2))
        return _vector(builder, builder.gep(weights.data, [builder.add(place, _I64(LANES * half))]), _NARROW)

    def of_affine(which: int, half: int) -> Any:
        place = builder.add(builder.add(builder.mul(_I64(which), inner), channel), _I64(_HALF * half))
        return _vector(builder, builder.gep(affine.data, [place]), _FLOATS)

    lower = [place + LANES * which for place in _LOWER for which in (0, 1)]
    totals = [ir.Constant(_SUMS, None)] * 2
    for pair in range(_PAIRS):
        one = neighbour(2 * pair)
        other = neighbour(2 * pair + 1) if 2 * pair + 1 < _SEEN else one
        for half in (0, 1):
            both = builder.shuffle_vector(one, other, _places(4 * half + place for place in lower))
            totals[half] = _add_products(builder, totals[half], both, of_pair(pair, half))
    floor = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.floor.v{_HALF}f32"
    )
    zero, outputs = ir.Constant(_FLOATS, None), []
    for half, total in enumerate(totals):
        value = builder.fadd(builder.sitofp(total, _FLOATS), of_affine(0, half))
        value = builder.call(floor, [builder.fmul(value, of_affine(1, half))])
        value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
        value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
        outputs.append(builder.trunc(builder.fptosi(value, _SUMS), ir.VectorType(_I16, _HALF)))
    back = [4 * group + each + _HALF * half for group in range(4) for half in (0, 1) for each in range(4)]
    whole = builder.shuffle_vector(*outputs, _places(back))
    place = builder.bitcast(builder.gep(seen.data, [channel]), _NARROW.as_pointer())
    builder.store(whole, place, align=2)
    return context.get_dummy_value()


@intrinsic
def _some_depthwise(
    typing: Any, kept: Any, places: Any, channel: Any, weights: Any, affine: Any, high: Any, seen: Any
) -> Any:
    if not _whole(kept, weights, affine, seen):
        return None
    return types.void(kept, places, types.int64, weights, affine, types.float32, seen), _depthwise


@overload(depthwise_row)
def _depthwise_row(kept: Any, rows: Any, columns: Any, weights: Any, affine: Any, high: Any, seen: Any) -> Any:
    def compiled(kept: Any, rows: Any, columns: Any, weights: Any, affine: Any, high: Any, seen: Any) -> None:
        for channel in range(0, kept.shape[2], LANES):
            _some_depthwise(kept, rows + columns, channel, weights, affine, high, seen)  # type: ignore[call-arg]

    return compiled
