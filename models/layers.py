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
    x = x.permute(0, 2, 3, 1).reshape(batch, height // side, side, width // side, side, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height // side, width // side, side * side * channels)
    return x.permute(0, 3, 1, 2)


def convolve(a: Tensor, matrix: Tensor, bias: Tensor | None, side: int = 1) -> Tensor:
    """A layer over the ``side`` x ``side`` neighbourhood; rows of the matrix run over (row, column, channel)."""
    # Channels come last in memory, which is where the fast products want them.
    a = a.contiguous(memory_format=torch.channels_last)
    kernel = matrix.view(matrix.shape[0], side, side, a.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(a, kernel, bias, padding=side // 2)


def parameters(
    *shapes: tuple[int, int], gains: dict[int, float] | None = None
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Weights of layers of some shapes (outputs, inputs), and biases of zero; gains other than He's by index."""
    weights = [weight(outputs, inputs, (gains or {}).get(i, 2.0)) for i, (outputs, inputs) in enumerate(shapes)]
    return nn.ParameterList(weights), nn.ParameterList([nn.Parameter(torch.zeros(outputs)) for outputs, _ in shapes])


def from_patches(h: Tensor, side: int) -> Tensor:
    """The inverse of `to_patches`."""
    batch, channels, height, width = h.shape
    h = h.permute(0, 2, 3, 1).reshape(batch, height, width, side, side, channels // side**2)
    h = h.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * side, width * side, channels // side**2)
    return h.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """relu, 3x3 layer, relu, 3x3 layer, added to the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight1 = weight(width, 9 * width)
        self.bias1 = nn.Parameter(torch.zeros(width))
        self.weight2 = weight(width, 9 * width, gain=0.0)
        self.bias2 = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, name: str, observe: Observer = ignore) -> Tensor:
        """Map the stream (B, width, H, W) to the next."""
        a = F.relu(h)
        observe(f"{name}.0", a)
        u = F.relu(convolve(a, self.weight1, self.bias1, 3))
        observe(f"{name}.1", u)
        return h + convolve(u, self.weight2, self.bias2, 3)
