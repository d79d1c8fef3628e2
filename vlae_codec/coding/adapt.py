# mypy: disable-error-code="no-untyped-def, call-overload"
"""The decoder's last two layers learn from the pixels that are coded: nothing is sent, as both sides know them.

After every step of the wavefront the gradient of its pixels' code length is known to the decoder too. Once enough
pixels are together, both layers take a step of Adam (Kingma and Ba 2015), which the next step of the wavefront is coded
with. One step later would be too late: the layers then swing about what smooth pictures want.

Everything is exact. Weights lie on a grid of 2^-`FINE` of the model's integers, and gradients are rounded to integers
before they are multiplied with activations, so that every sum is of whole numbers below 2^53, which float64 holds
whatever the order; `parts` has the products. All else is single operations of IEEE 754 in a fixed order, without fused
ones (fastmath is off): add, multiply, divide, square root, round. FORMAT.md is the specification.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from vlae_codec.compiled import inner
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.exact.loops import CHUNK
from vlae_codec.models.exact.products import rounded_up
from vlae_codec.models.exact.steps import rows_of_step, trunk_rows
from vlae_codec.models.plan import ACTIVATION_MAX, output_limits, output_units

from .gradient import pixel_gradient
from .parts import add_outer, back_rows, forward_rows, forward_sum, put_together, split_rows, split_weights, transpose
from .wavefront import own_share, pop_messages, pop_rest, share_of

#: As `wavefront._TAKEN_FROM`, of coding/gradient.py, coding/parts.py and coding/wavefront.py too.
_TAKEN_FROM = "ae0bec0a5a854c13"

#: Bits of a weight's grid below one of the model's integers.
FINE = 10
#: Activations of this size count as one; the last input of either layer is this, and its weights are the biases.
ONE = 256.0
#: Pixels from whose mean gradient a step is taken, at least.
GROUP = 128
#: Adam's: rate, decay of the mean gradient and of the mean square, and what is added to the latter's root. Gradients
#: are of nats a pixel, by weights of activations in units of `ONE`.
RATE, DECAY, SQUARE_DECAY, EPSILON = 5e-4, 0.9, 0.999, 3e-4
#: Bits of the gradients by the outputs, by what lies between the layers, and of those that go back from one to the
#: other, and the largest size of each once they are integers.
OUTPUT_BITS, HIDDEN_BITS, BACK_BITS, LARGEST = 14, 16, 13, float(1 << 20)
#: Largest weights on the grid, and biases. 192 outputs, gradients and weights so large sum up to less than 2^53.
WEIGHT_MAX, BIAS_MAX = float(1 << 25), float(1 << 30)
#: Pixels below which a picture's heads stay as they are: they would hardly learn.
FEWEST = 1 << 14

_DECAY, _GAIN = np.float32(DECAY), np.float32(1.0 - DECAY)
_SQUARE_DECAY, _SQUARE_GAIN = np.float32(SQUARE_DECAY), np.float32(1.0 - SQUARE_DECAY)
_EPSILON, _TINY, _ZERO = np.float32(EPSILON), np.float32(2.0**-100), np.float32(0.0)
_OUTPUT, _HIDDEN = float(1 << OUTPUT_BITS), float(1 << HIDDEN_BITS)

Doubles = NDArray[np.float64]
Halves = NDArray[np.int16]


class Heads(NamedTuple):
    """The two layers as they are now, C channels to C and to the O outputs, and what they learn from.

    All in one, as numba takes no record within a record into a parallel loop.
    """

    #: On the grid, (C + 1, C) and (C + 1, O); the last row holds the biases.
    first: Doubles
    second: Doubles
    #: Means of the gradient and of its square, (2, C + 1, C) and (2, C + 1, O).
    first_means: NDArray[np.float32]
    second_means: NDArray[np.float32]
    #: Outputs for a unit of the sums, (C,) and (O,).
    first_scale: Doubles
    second_scale: Doubles
    #: Steps of the grid in a weight of one, where activations are in units of `ONE` and outputs as the likelihood takes
    #: them, (C,) and (O,).
    first_steps: Doubles
    second_steps: Doubles
    #: What the gradients by the outputs are multiplied with on their way back, (O,).
    back: Doubles
    #: Lowest and highest outputs, (2, O).
    limits: Doubles
    #: What the sums of the gradients that come back are multiplied with; `DECAY` and `SQUARE_DECAY` to the power of the
    #: steps taken: (3,).
    state: Doubles
    #: Pixels since the last step, (1,).
    pixels: NDArray[np.int64]
    #: The weights but for the biases, and of the second layer transposed, see `parts.split_weights`.
    first_parts: Halves
    second_parts: Halves
    second_back: Halves
    #: Inputs of the first layer by the step's parity, as one step's are made while the one before is learned from,
    #: (2, R, C rounded up), and of the second, (R, C rounded up).
    inputs: Halves
    hidden: Halves
    #: Outputs, and gradients by them, as they are and on their way back: (R, O) and (2, R, O).
    params: Halves
    gradient: NDArray[np.int32]
    #: Room for a thread's products: parts of gradients (threads, 2, CHUNK, widest), gradients by what is hidden
    #: (threads, CHUNK, C) before and after rounding, columns of inputs (threads, C, CHUNK), pairs of rows and sums.
    parts: Halves
    returned: Doubles
    hidden_gradient: NDArray[np.int32]
    columns: Halves
    words: NDArray[np.int32]
    sums: NDArray[np.int32]
    #: Sums of the gradients by the weights, (threads, C + 1, C) and (threads, C + 1, O).
    first_sums: Doubles
    second_sums: Doubles

    @classmethod
    def of(cls, model: IntegerModel, rows: int, width: int, threads: int) -> Heads:
        """Those of a model that has not learned yet, for a stage of so many rows and columns."""
        head1, head2 = model.layers["decoder.head1"], model.layers["decoder.head2"]
        grid, mixtures = float(1 << FINE), model.config.mixtures
        scales = [layer.scale.astype(np.float64) for layer in (head1, head2)]
        # In the order of rows, which the loops go along.
        first, second = (
            np.ascontiguousarray(np.vstack([layer.weight.T.astype(np.float64), layer.bias[None] / ONE]) * grid)
            for layer in (head1, head2)
        )
        natural = scales[1] / output_units(mixtures)
        # A power of two that brings them all below one.
        power = math.ldexp(1.0, math.frexp(float(natural.max()))[1])
        back = natural / power * float(1 << BACK_BITS)
        returned = ONE * power * _HIDDEN / float(1 << BACK_BITS) / grid
        room, channels, outputs = min(rows, width // model.config.skew + 1), model.config.channels, len(natural)
        wide, widest = rounded_up(channels), rounded_up(max(channels, outputs))
        even = channels + channels % 2
        heads = cls(
            first, second, np.zeros((2, *first.shape), np.float32), np.zeros((2, *second.shape), np.float32),
            scales[0] / grid, scales[1] / grid, grid / scales[0], grid / (natural * ONE), back,
            np.array(output_limits(mixtures), np.float64), np.array([returned, 1.0, 1.0]), np.zeros(1, np.int64),
            np.zeros((2, even // 2, wide, 2), np.int16),
            np.zeros((2, even // 2, rounded_up(outputs), 2), np.int16), np.zeros((2, outputs // 2, wide, 2), np.int16),
            np.zeros((2, room, wide), np.int16), np.zeros((room, wide), np.int16),
            np.zeros((room, outputs), np.int16), np.zeros((2, room, outputs), np.int32),
            np.zeros((threads, 2, CHUNK, widest), np.int16),
            np.zeros((threads, CHUNK, channels)), np.zeros((threads, CHUNK, channels), np.int32),
            np.zeros((threads, channels, CHUNK), np.int16), np.zeros((threads, CHUNK // 2, widest), np.int32),
            np.zeros((threads, 4, max(CHUNK, channels), widest), np.int32),
            np.zeros((threads, *first.shape)), np.zeros((threads, *second.shape)),
        )  # fmt: skip
        _split(heads)
        return heads


@njit(cache=True)
def _split(heads):
    """Give the weights' parts to the products."""
    split_weights(heads.first[:-1], heads.first_parts)
    split_weights(heads.second[:-1], heads.second_parts)
    split_weights(heads.second[:-1].T, heads.second_back)


@inner
def _finish_hidden(upper, lower, bias, scale, hidden):
    for j in range(len(scale)):
        value = np.floor((forward_sum(upper, lower, j) + bias[j] * ONE) * scale[j])
        hidden[j] = np.int16(min(max(value, 0.0), float(ACTIVATION_MAX)))


@inner
def _finish_outputs(sums, bias, scale, low, high, params):
    for j in range(len(scale)):
        sums[j] = min(max(np.floor((sums[j] + bias[j] * ONE) * scale[j]), low[j]), high[j])
    for j in range(len(scale)):
        params[j] = np.int16(sums[j])


@inner
def _head_rows(heads, thread, parity, begin, end):
    """Both layers on pixels begin..end-1 of a step, no more than CHUNK."""
    hidden, params = heads.hidden[begin:end], heads.params[begin:end]
    n, sums = end - begin, heads.sums[thread]
    forward_rows(heads.inputs[parity][begin:end], heads.first_parts, sums, n)
    for i in range(n):
        _finish_hidden(sums[0, i], sums[1, i], heads.first[-1], heads.first_scale, hidden[i])
    forward_rows(hidden, heads.second_parts, sums, n)
    low, high, whole = heads.limits[0], heads.limits[1], np.empty(params.shape[1])
    for i in range(n):
        for j in range(len(whole)):
            whole[j] = forward_sum(sums[0, i], sums[1, i], j)
        _finish_outputs(whole, heads.second[-1], heads.second_scale, low, high, params[i])


@njit(cache=True, inline="always")
def _whole(value):
    """The nearest integer, an even one of two, at most `LARGEST` either way."""
    return min(max(np.rint(value), -LARGEST), LARGEST)


@inner
def _round_outputs(params, limits, unit, found, gradient, back):
    """A pixel's gradient by its outputs in integers, and what of it goes back; both as sums and products want them."""
    low, high = limits[0], limits[1]
    for o in range(len(found)):
        # What would only push an output further beyond its limit is none.
        each, param = found[o], np.float64(params[o])
        if ((param >= high[o]) & (each < 0.0)) | ((param <= low[o]) & (each > 0.0)):
            each = 0.0
        gradient[o] = np.int32(_whole(each * _OUTPUT))
        back[o] = np.int32(_whole(each * unit[o]))


@njit(cache=True, inline="always")
def _share(heads, area, thread, t):
    """First and last-plus-one of a thread's share of step t's rows, and the step's first; no rows where none is."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    low, high = share_of(thread, heads.first_sums.shape[0], last - first)
    return first + low, first + high, first


@inner
def _teach_share(heads, area, alphabet, intervals, thread, t):
    """Keep the gradients of a thread's share of step t, and their intervals, unless there is no room for those."""
    low, high, first = _share(heads, area, thread, t)
    scratch = np.empty((7, heads.second.shape[1] // 12), np.int64)
    found, own = np.empty(heads.second.shape[1]), np.empty((2, 3), np.uint32)
    gradient, back = heads.gradient[0], heads.gradient[1]
    for y in range(low, high):
        x = t - area.skew * y
        interval = intervals[:, y, x] if intervals.shape[1] else own
        params, r = heads.params[y - first], y - first
        pixel_gradient(params, area.image, area.top + y, x, alphabet, scratch, found, interval)
        _round_outputs(params, heads.limits, heads.back, found, gradient[r], back[r])


@inner
def _head_share(heads, thread, t, begin, end):
    """Both layers on the pixels begin..end-1 of step t."""
    while begin < end:
        stop = min(begin + CHUNK, end)
        _head_rows(heads, thread, t & 1, begin, stop)
        begin = stop


@inner
def _learn_share(heads, area, thread, t):
    """Add what a thread's share of step t teaches to the thread's sums."""
    low, high, first = _share(heads, area, thread, t)
    begin, end = low - first, high - first
    while begin < end:
        stop = min(begin + CHUNK, end)
        _learn_rows(heads, thread, t & 1, begin, stop)
        begin = stop


@inner
def _learn_rows(heads, thread, parity, begin, end):
    """`_learn_share` of the rows begin..end-1, no more than CHUNK."""
    n, parts, sums = end - begin, heads.parts[thread], heads.sums[thread]
    hidden, returned, by_hidden = heads.hidden[begin:end], heads.returned[thread], heads.hidden_gradient[thread]
    unit = heads.state[0]
    split_rows(heads.gradient[1, begin:end], parts)
    back_rows(parts, heads.second_back, sums, n)
    put_together(sums, n, returned)
    for r in range(n):
        _round_hidden(hidden[r], returned[r], unit, by_hidden[r])
    _add(heads, thread, hidden, heads.gradient[0, begin:end], heads.second_sums[thread])
    _add(heads, thread, heads.inputs[parity][begin:end], by_hidden[:n], heads.first_sums[thread])


@inner
def _round_hidden(hidden, returned, unit, gradient):
    """A pixel's gradient by what lies between the layers, in integers; none where that is at its limits."""
    for c in range(len(gradient)):
        each = np.int32(_whole(returned[c] * unit))
        gradient[c] = each if (hidden[c] > 0) & (hidden[c] < ACTIVATION_MAX) else np.int32(0)


@inner
def _add_biases(gradient, biases):
    for o in range(len(gradient)):
        biases[o] += np.float64(gradient[o]) * ONE


@inner
def _add(heads, thread, inputs, gradient, into):
    """Add the sums over pixels of a layer's inputs times the gradients by its outputs; in the last row, the biases'."""
    n, columns = len(gradient), heads.columns[thread]
    transpose(inputs, n, columns)
    split_rows(gradient, heads.parts[thread])
    add_outer(columns, heads.parts[thread], n, heads.words[thread], heads.sums[thread], into)
    for r in range(n):
        _add_biases(gradient[r], into[-1])


@inner
def _adam(weights, means, squares, sums, unit, steps, rates, most):
    """A step on a row of weights; ``unit`` makes the sums the mean gradient. Nothing is ever subnormal.

    ``rates`` are the rate and what the mean square is multiplied with, in float32.
    """
    for j in range(len(weights)):
        gradient = np.float32(sums[j] * unit)
        mean = _DECAY * means[j] + _GAIN * gradient
        square = _SQUARE_DECAY * squares[j] + _SQUARE_GAIN * (gradient * gradient)
        mean = mean if abs(mean) >= _TINY else _ZERO
        square = square if square >= _TINY else _ZERO
        means[j], squares[j] = mean, square
        away = rates[0] * mean / (np.sqrt(square * rates[1]) + _EPSILON)
        weights[j] = min(max(weights[j] - np.rint(np.float64(away) * steps[j]), -most), most)


@inner
def _adam_layer(weights, means, sums, unit, steps, rates):
    last = len(weights) - 1
    for i in range(len(weights)):
        most = BIAS_MAX if i == last else WEIGHT_MAX
        _adam(weights[i], means[0, i], means[1, i], sums[i], unit, steps, rates, most)


@inner
def _gather(sums):
    """Add the threads' sums to the first's."""
    for thread in range(1, sums.shape[0]):
        for i in range(sums.shape[1]):
            for j in range(sums.shape[2]):
                sums[0, i, j] += sums[thread, i, j]


@inner
def _update(heads, area, t):
    """Count the pixels of step t, which was learned from, and take a step if they are enough."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    heads.pixels[0] += max(last - first, 0)
    count = heads.pixels[0]
    if count < GROUP:
        return
    state = heads.state
    state[1] *= DECAY
    state[2] *= SQUARE_DECAY
    rates = np.float32(RATE / (1.0 - state[1])), np.float32(1.0 / (1.0 - state[2]))
    for sums in (heads.first_sums, heads.second_sums):
        _gather(sums)
    unit = 1.0 / (ONE * count)
    _adam_layer(heads.first, heads.first_means, heads.first_sums[0], unit / _HIDDEN, heads.first_steps, rates)
    _adam_layer(heads.second, heads.second_means, heads.second_sums[0], unit / _OUTPUT, heads.second_steps, rates)
    _split(heads)
    heads.first_sums[:] = 0.0
    heads.second_sums[:] = 0.0
    heads.pixels[0] = 0


@inner
def _take_share(heads, active, area, thread, t):
    """A thread's share of step t's inputs. Within the parallel loop numba would take it for one without effect."""
    low, high, first = _share(heads, area, thread, t)
    inputs = heads.inputs[t & 1]
    for y in range(low, high):
        for c in range(active.shape[2]):
            inputs[y - first, c] = active[y, t - area.skew * y, c]


@inner
def _learn_and_take(heads, active, area, thread, t):
    """What a thread's share of step t - 1 teaches, and of step t's inputs."""
    _learn_share(heads, area, thread, t - 1)
    _take_share(heads, active, area, thread, t)


@inner
def _encode_share(heads, area, alphabet, intervals, thread, t):
    """The intervals of a thread's share of step t."""
    low, high, first = _share(heads, area, thread, t)
    _head_share(heads, thread, t, low - first, high - first)
    _teach_share(heads, area, alphabet, intervals, thread, t)


@njit(cache=True, parallel=True)
def adapting_intervals(heads, active, area, alphabet, intervals, begin, end):
    """Intervals of the pixels of the steps ``begin`` to ``end - 1`` of a stage, the heads learning from all of them.

    Parameters
    ----------
    heads : Heads
    active : array of int16, shape (rows, W, C)
        What the stage's pixels give the heads.
    area : models.exact.steps.Area
    alphabet : Alphabet
    intervals : array of uint32, shape (2, rows, W, channels)
        Receives starts and frequencies.
    begin, end : int
    """
    threads = heads.first_sums.shape[0]
    for t in range(begin, end):
        for thread in prange(threads):
            _learn_and_take(heads, active, area, np.int64(thread), t)
        _update(heads, area, t - 1)
        for thread in prange(threads):
            _encode_share(heads, area, alphabet, intervals, np.int64(thread), t)


@inner
def _learn_and_run(net, area, features, caches, heads, alphabet, thread, t):
    """What a thread's share of step t - 1 teaches, and of step t's inputs from the network before the heads."""
    none, parity = np.empty((2, 0, 0, 0), np.uint32), t & 1
    _teach_share(heads, area, alphabet, none, thread, t - 1)
    _learn_share(heads, area, thread, t - 1)
    low, high, first = _share(heads, area, thread, t)
    while low < high:
        stop = min(low + CHUNK, high)
        trunk_rows(net, area, features, caches, thread, t, low, stop)
        active = caches.active[thread]
        inputs = heads.inputs[parity][low - first : stop - first]
        for r in range(stop - low):
            for c in range(active.shape[1]):
                inputs[r, c] = active[r, c]
        low = stop


@inner
def _decode_share(stacks, heads, area, alphabet, thread, t):
    """What the heads say of a thread's share of step t, and the pops of the messages that it has to itself, if any."""
    first, last = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    begin, end, low, high = own_share(thread, heads.first_sums.shape[0], len(stacks.sizes), last - first)
    _head_share(heads, thread, t, low, high)
    pop_messages(stacks, area, heads.params, t, alphabet, begin, end)


@njit(cache=True, parallel=True)
def pop_adapting(net, stacks, area, features, caches, heads, alphabet, steps):
    """`wavefront.pop_wavefront` with heads that learn; ``steps`` are the first and the last-plus-one."""
    threads = heads.first_sums.shape[0]
    for t in range(steps[0], steps[1]):
        for thread in prange(threads):
            _learn_and_run(net, area, features, caches, heads, alphabet, np.int64(thread), t)
        _update(heads, area, t - 1)
        for thread in prange(threads):
            _decode_share(stacks, heads, area, alphabet, np.int64(thread), t)
        if not pop_rest(stacks, area, heads.params, t, alphabet, threads):
            return False
    return True
