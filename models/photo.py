"""The networks between photographs and their z: an encoder q(z | x), and its mirror image, the synthesis.

z lies on a grid of one position for every square of `VLAEConfig.Z_PATCH` pixels. Both networks are residual ones that
work at a quarter, an eighth and a sixteenth of the picture's side, the synthesis at a half too. The synthesis gives a
reconstruction y of every pixel, which is what z alone tells of the picture, and from it and its own last layer the
features of every pixel that the local decoder sees beside its window: those know what lies to the right and below.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .layers import Observer, ResidualBlock, convolve, from_patches, ignore, parameters, to_patches
from .plan import LOG_STD_MAX, LOG_STD_MIN, MEAN_MAX, PIXEL_CENTRE, PIXEL_UNIT, SEEN_SIDE, SYNTHESIS_BLOCKS, z_widths


class Encoder(nn.Module):
    """Squares of 4x4 pixels, then twice a pair of blocks and squares of 2x2, then a pair of blocks."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        low, middle, high, _ = z_widths(config)
        self.config = config
        self.weights, self.biases = parameters(
            (high, 48), (middle, 4 * high), (low, 4 * middle), (2 * config.z_channels, low), gains={3: 0.9}
        )
        # Means begin as large as the prior is wide, and known well: else z's first lesson is that it is noise.
        with torch.no_grad():
            self.weights[3][config.z_channels :] /= 3.0
            self.biases[3][config.z_channels :] = -1.0
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in (high, high, middle, middle, low, low))

    def forward(self, x: Tensor, observe: Observer = ignore) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of z.

        Parameters
        ----------
        x : Tensor, shape (B, 3, H, W), float
            Pixel values 0..255; H and W are multiples of `VLAEConfig.Z_PATCH`.

        Returns
        -------
        Two tensors, shape (B, z_channels, H / Z_PATCH, W / Z_PATCH), within the limits of `plan`.
        """
        h = convolve(to_patches((x - PIXEL_CENTRE) / PIXEL_UNIT, 4), self.weights[0], self.biases[0])
        for i in range(3):
            for j in (2 * i, 2 * i + 1):
                h = self.blocks[j](h, f"encoder.block{j}", observe)
            h = F.relu(h)
            if i < 2:
                h = to_patches(h, 2)
            observe(f"encoder.{i + 1}", h)
            h = convolve(h, self.weights[i + 1], self.biases[i + 1])
        mean, log_std = h.float().chunk(2, dim=1)
        return mean.clamp(-MEAN_MAX, MEAN_MAX), (log_std - 1.0).clamp(LOG_STD_MIN, LOG_STD_MAX)


class Synthesised(NamedTuple):
    """What the synthesis makes of z: ``y`` (B, 3, H, W) in pixel values, ``features`` (B, channels, H, W)."""

    y: Tensor
    features: Tensor


class Synthesis(nn.Module):
    """From z to a reconstruction of the picture and the local decoder's features."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        low, middle, high, half = z_widths(config)
        self.config = config
        # The last two begin at zero, so that z joins a decoder without disturbing it.
        self.weights, self.biases = parameters(
            (low, 9 * config.z_channels), (4 * middle, low), (4 * high, middle), (4 * half, high), (12, 9 * half),
            (4 * config.channels, half), (config.channels, 3 * SEEN_SIDE**2), gains={4: 0.1, 5: 0.0, 6: 0.0},
        )  # fmt: skip
        widths = (low, middle, high, half)
        self.blocks = nn.ModuleList(
            ResidualBlock(width) for width, n in zip(widths, SYNTHESIS_BLOCKS, strict=True) for _ in range(n)
        )

    def forward(self, z: Tensor, observe: Observer = ignore) -> Synthesised:
        """Map z (B, z_channels, h, w) to pictures of `VLAEConfig.Z_PATCH` times its sides."""
        w, b = self.weights, self.biases
        h = convolve(z, w[0], b[0], 3)
        block = 0
        for i, count in enumerate(SYNTHESIS_BLOCKS):
            for _ in range(count):
                h = self.blocks[block](h, f"features.block{block}", observe)
                block += 1
            h = F.relu(h)
            if i < 3:
                observe(f"features.{i + 1}", h)
                h = from_patches(convolve(h, w[i + 1], b[i + 1]), 2)
        observe("features.4", h)
        observe("features.5", h)
        features = from_patches(convolve(h, w[5], b[5]), 2)
        with torch.autocast(z.device.type, enabled=False):
            y = from_patches(convolve(h.float(), w[4], b[4], 3), 2)
            features = features.float() + convolve(y, w[6], b[6], SEEN_SIDE)
        return Synthesised(y * PIXEL_UNIT + PIXEL_CENTRE, features)
