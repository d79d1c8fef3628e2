"""What the float networks share: weights, patches, layers over neighbourhoods, and how their inputs are observed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Called with a layer's name and its input (B, C, H, W); export measures the ranges of activations this way.
Observer = Callable[[str, Tensor], None]


def ignore(name: str, activations: Tensor) -> None:
    """The `Observer` that does nothing."""


def weight(outputs: int, inputs: int, gain: float = 2.0) -> nn.Parameter:
    """A weight matrix (outputs, inputs) with He's initialisation; gain 0 makes zeros."""
    return nn.Parameter(torch.randn(outputs, inputs) * math.sqrt(gain / max(inputs, 1)))


def to_patches(x: Tensor, side: int) -> Tensor:
    """Cut (B, C, H, W) into squares: (B, C * side * side, H / side, W / side), ordered (row, column, channel)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // side, side, width // side, side)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, side * side * channels, height // side, width // side)


def convolve(a: Tensor, matrix: Tensor, bias: Tensor | None, side: int = 1) -> Tensor:
    """A layer over the ``side`` x ``side`` neighbourhood; rows of the matrix run over (row, column, channel)."""
    kernel = matrix.view(matrix.shape[0], side, side, a.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(a, kernel, bias, padding=side // 2)


def from_patches(h: Tensor, side: int) -> Tensor:
    """The inverse of `to_patches`."""
    batch, channels, height, width = h.shape
    h = h.view(batch, side, side, channels // side**2, height, width)
    return h.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // side**2, height * side, width * side)
