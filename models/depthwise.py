# mypy: disable-error-code="no-untyped-def"
"""The depthwise masked layer between its two rectifiers, in compiled loops: training on a CPU spends its time there.

torch has no fast gradient of a depthwise layer in bfloat16 on a CPU. Here each row of a picture is taken to float32
once, and what comes out is rounded to bfloat16 once; nothing but the layer's input and output is kept for the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

#: Times a rectified value of bfloat16 that is not zero, this is above one.
_HUGE = np.float32(1e30)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@njit(cache=True, inline="always")
def _widen(half):
    """The float32 of a bfloat16's 16 bits."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@njit(cache=True, inline="always")
def _narrow(value):
    """The 16 bits of a float32, rounded to the nearest bfloat16, to an even one of two."""
    bits = np.uint32(np.float32(value).view(np.uint32))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(cache=True, fastmath=True)
def _rectified(row, out):
    """A row's inputs (W, C) from column 2 on."""
    for x in range(row.shape[0]):
        for c in range(row.shape[1]):
            out[x + 2, c] = max(_widen(row[x, c]), _ZERO)


@njit(cache=True, fastmath=True)
def _passed(gradient, outputs, out):
    """A row's gradient (W, C) where the rectified outputs are above zero, from column 2 on."""
    for x in range(gradient.shape[0]):
        for c in range(gradient.shape[1]):
            out[x + 2, c] = _widen(gradient[x, c]) * min(_widen(outputs[x, c]) * _HUGE, _ONE)


@njit(cache=True, fastmath=True)
def _gain(sums, left, right):
    for c in range(len(sums)):
        sums[c] += left[c] * right[c]


@njit(cache=True, fastmath=True)
def _gain4(sums, left, right):
    for c in range(len(sums)):
        sums[c] += (
            left[0, c] * right[0, c] + left[1, c] * right[1, c] + left[2, c] * right[2, c] + left[3, c] * right[3, c]
        )


@njit(cache=True, fastmath=True)
def _gain_weights(sums, gradient, first, second, third):
    """Add a row's share of the weights' gradient (13, C); the inputs' rows from the highest down, padded."""
    width = gradient.shape[0] - 4
    for x in range(0, width - 3, 4):
        left = gradient[x + 2 : x + 6]
        for k in range(5):
            _gain4(sums[k], left, first[x + k : x + k + 4])
            _gain4(sums[5 + k], left, second[x + k : x + k + 4])
        for k in range(3):
            _gain4(sums[10 + k], left, third[x + k : x + k + 4])
    for x in range(width - width % 4, width):
        for k in range(5):
            _gain(sums[k], gradient[x + 2], first[x + k])
            _gain(sums[5 + k], gradient[x + 2], second[x + k])
        for k in range(3):
            _gain(sums[10 + k], gradient[x + 2], third[x + k])


@njit(cache=True, fastmath=True)
def _gain_bias(sums, gradient):
    for x in range(2, gradient.shape[0] - 2):
        for c in range(len(sums)):
            sums[c] += gradient[x, c]


@njit(cache=True, fastmath=True)
def _forward_row(weights, bias, first, second, third, out):
    for x in range(out.shape[0]):
        for c in range(out.shape[1]):
            total = (
                bias[c]
                + weights[0, c] * first[x, c] + weights[1, c] * first[x + 1, c] + weights[2, c] * first[x + 2, c]
                + weights[3, c] * first[x + 3, c] + weights[4, c] * first[x + 4, c]
                + weights[5, c] * second[x, c] + weights[6, c] * second[x + 1, c] + weights[7, c] * second[x + 2, c]
                + weights[8, c] * second[x + 3, c] + weights[9, c] * second[x + 4, c]
                + weights[10, c] * third[x, c] + weights[11, c] * third[x + 1, c] + weights[12, c] * third[x + 2, c]
            )  # fmt: skip
            out[x, c] = _narrow(max(total, _ZERO))


@njit(cache=True, fastmath=True)
def _backward_row(weights, first, second, third, inputs, out):
    """The inputs' gradient in a row, from the outputs' in it (``first``) and in the two rows below."""
    for x in range(out.shape[0]):
        for c in range(out.shape[1]):
            total = (
                weights[0, c] * third[x + 4, c] + weights[1, c] * third[x + 3, c] + weights[2, c] * third[x + 2, c]
                + weights[3, c] * third[x + 1, c] + weights[4, c] * third[x, c]
                + weights[5, c] * second[x + 4, c] + weights[6, c] * second[x + 3, c] + weights[7, c] * second[x + 2, c]
                + weights[8, c] * second[x + 1, c] + weights[9, c] * second[x, c]
                + weights[10, c] * first[x + 4, c] + weights[11, c] * first[x + 3, c] + weights[12, c] * first[x + 2, c]
            )  # fmt: skip
            out[x, c] = _narrow(total * min(inputs[x + 2, c] * _HUGE, _ONE))


@njit(cache=True, parallel=True)
def _forward(inputs, weights, bias, out):
    """The layer of pictures (N, H, W, C) in the 16 bits of bfloat16; weights (13, C)."""
    n, height, width, channels = inputs.shape
    for i in prange(n):
        rows = np.zeros((3, width + 4, channels), np.float32)
        for y in range(height):
            _rectified(inputs[i, y], rows[y % 3])
            _forward_row(weights, bias, rows[(y + 1) % 3], rows[(y + 2) % 3], rows[y % 3], out[i, y])


@njit(cache=True, parallel=True)
def _backward(gradient, outputs, inputs, weights, inputs_gradient, weights_gradient, bias_gradient):
    """Gradients from that of the outputs; those of weights and bias are summed up by picture."""
    n, height, width, channels = inputs.shape
    for i in prange(n):
        rows = np.zeros((3, width + 4, channels), np.float32)
        below = np.zeros((3, width + 4, channels), np.float32)
        # From the bottom up: row y of the inputs completes the window of row y + 2 of the outputs.
        for y in range(height - 1, -3, -1):
            if y >= 0:
                _rectified(inputs[i, y], rows[y % 3])
            else:
                rows[y % 3] = 0
            own = y + 2
            if own < height:
                here = below[own % 3]
                _passed(gradient[i, own], outputs[i, own], here)
                _gain_bias(bias_gradient[i], here)
                _gain_weights(weights_gradient[i], here, rows[y % 3], rows[(y + 1) % 3], rows[own % 3])
                _backward_row(
                    weights, here, below[(own + 1) % 3], below[(own + 2) % 3], rows[own % 3], inputs_gradient[i, own]
                )  # fmt: skip


def _bits(tensor: Tensor) -> NDArray[np.uint16]:
    """A tensor (N, C, H, W) of bfloat16 as an array (N, H, W, C) of its bits."""
    return tensor.permute(0, 2, 3, 1).contiguous().view(torch.int16).numpy().view(np.uint16)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.channels_last)


class RectifiedDepthwise(torch.autograd.Function):
    """relu(depthwise(relu(p)) + bias) over `plan.WIDE_NEIGHBOURS`, zeros outside the picture.

    Parameters
    ----------
    p : Tensor of bfloat16, shape (N, C, H, W), on a CPU
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
        _forward(_bits(p), _by_place(weights), bias.detach().numpy(), _bits(out))
        ctx.save_for_backward(p, weights, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of all three."""
        p, weights, out = ctx.saved_tensors
        n, channels = p.shape[:2]
        found = _empty(p)
        by_place, by_bias = np.zeros((n, weights.shape[1], channels), np.float32), np.zeros((n, channels), np.float32)
        _backward(_bits(gradients[0]), _bits(out), _bits(p), _by_place(weights), _bits(found), by_place, by_bias)
        return found, torch.from_numpy(by_place.sum(0).T), torch.from_numpy(by_bias.sum(0))


def _by_place(weights: Tensor) -> NDArray[np.float32]:
    return weights.detach().t().contiguous().numpy()
