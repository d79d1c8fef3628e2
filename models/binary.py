"""The networks between whole binary images and their vector z: a residual encoder, and its mirror image to features.

Both work at a half and at a quarter of the image's side. Every layer is a linear map of vectors (a 1x1 layer, a 3x3
neighbourhood, a square of pixels or a whole small image), so all of them become integer layers in the same way.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .layers import Observer, ResidualBlock, convolve, from_patches, ignore, parameters, to_patches
from .plan import LOG_STD_MAX, LOG_STD_MIN, MEAN_MAX, NARROW


class BinaryEncoder(nn.Module):
    """The posterior q(z | x) of whole images."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, quarter = config.image_width, config.z_hidden, (config.image_size // 4) ** 2
        self.weights, self.biases = parameters(
            (width, 16), (2 * width, 4 * width), (NARROW, 2 * width), (hidden, NARROW * quarter),
            (2 * config.z_channels, hidden), gains={4: 0.1},
        )  # fmt: skip
        self.blocks = nn.ModuleList([ResidualBlock(width), ResidualBlock(2 * width)])

    def forward(self, x: Tensor, observe: Observer = ignore) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log standard deviation of z, (B, z_channels, 1, 1), and the last hidden layer.

        x is (B, 1, S, S), -1 and 1.
        """
        w, b = self.weights, self.biases
        # 4x4 pixels every two: squares of 2x2 pixels from an image shifted by one, over a 2x2 neighbourhood.
        h = F.conv2d(x, w[0].view(-1, 1, 4, 4), b[0], stride=2, padding=1)
        h = self.blocks[0](h, "encoder.block0", observe)
        h = to_patches(F.relu(h), 2)
        observe("encoder.1", h)
        h = convolve(h, w[1], b[1])
        h = self.blocks[1](h, "encoder.block1", observe)
        a = F.relu(h)
        observe("encoder.2", a)
        a = to_patches(F.relu(convolve(a, w[2], b[2])), self.config.image_size // 4)
        observe("encoder.3", a)
        a = F.relu(convolve(a, w[3], b[3]))
        observe("encoder.4", a)
        mean, log_std = convolve(a, w[4], b[4]).chunk(2, dim=1)
        return mean.clamp(-MEAN_MAX, MEAN_MAX), (log_std - 1.0).clamp(LOG_STD_MIN, LOG_STD_MAX), a


class BinaryFeatures(nn.Module):
    """From z to features for every pixel."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, quarter = config.image_width, config.z_hidden, (config.image_size // 4) ** 2
        self.weights, self.biases = parameters(
            (hidden, config.z_channels), (NARROW * quarter, hidden), (2 * width, NARROW), (4 * width, 2 * width),
            (4 * config.channels, width), gains={4: 0.5},
        )  # fmt: skip
        self.blocks = nn.ModuleList([ResidualBlock(2 * width), ResidualBlock(width)])

    def forward(self, z: Tensor, observe: Observer = ignore) -> Tensor:
        """Map z (B, z_channels, 1, 1) to features (B, channels, S, S)."""
        w, b = self.weights, self.biases
        h = F.relu(convolve(z, w[0], b[0]))
        observe("features.1", h)
        h = from_patches(F.relu(convolve(h, w[1], b[1])), self.config.image_size // 4)
        observe("features.2", h)
        h = self.blocks[0](convolve(h, w[2], b[2]), "features.block0", observe)
        a = F.relu(h)
        observe("features.3", a)
        h = self.blocks[1](from_patches(convolve(a, w[3], b[3]), 2), "features.block1", observe)
        a = F.relu(h)
        observe("features.4", a)
        return from_patches(convolve(a, w[4], b[4]), 2)
