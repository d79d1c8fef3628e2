"""The networks between photographs and their z: an encoder q(z | x), a diagonal Gaussian for every patch, and features.

Each position of z looks at its own square of `VLAEConfig.Z_PATCH` pixels and at nothing else. So a stage of bits-back
can be encoded, and replayed by the decoder, from its own rows alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .layers import Observer, ignore, to_patches, weight
from .plan import LOG_STD_MAX, LOG_STD_MIN, MEAN_MAX, PIXEL_CENTRE, PIXEL_UNIT


class Encoder(nn.Module):
    """Four layers: 4x4 pixels to one vector, 4x4 of those to one, two of 1x1."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        width, narrow = config.z_hidden, max(config.z_hidden // 2, 1)
        self.config = config
        self.weights = nn.ParameterList(
            [
                weight(narrow, 48),
                weight(width, 16 * narrow),
                weight(width, width),
                weight(2 * config.z_channels, width, 0.1),
            ]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(w.shape[0])) for w in self.weights])

    def forward(self, x: Tensor, observe: Observer = ignore) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of z.

        Parameters
        ----------
        x : Tensor, shape (B, 3, H, W), float
            Pixel values 0..255; H and W are multiples of `VLAEConfig.Z_PATCH`.

        Returns
        -------
        Two tensors, shape (B, z_channels, H / Z_PATCH, W / Z_PATCH), within the limits above.
        """
        side = VLAEConfig.FEATURE_PATCH
        h = to_patches((x - PIXEL_CENTRE) / PIXEL_UNIT, side)
        h = F.relu(F.conv2d(h, self.weights[0][:, :, None, None], self.biases[0]))
        h = to_patches(h, VLAEConfig.Z_PATCH // side)
        for i, (w, b) in enumerate(zip(self.weights[1:3], self.biases[1:3], strict=True), 1):
            observe(f"encoder.{i}", h)
            h = F.relu(F.conv2d(h, w[:, :, None, None], b))
        observe("encoder.3", h)
        out = F.conv2d(h, self.weights[3][:, :, None, None], self.biases[3])
        mean, log_std = out.chunk(2, dim=1)
        return mean.clamp(-MEAN_MAX, MEAN_MAX), (log_std - 1.0).clamp(LOG_STD_MIN, LOG_STD_MAX)


class Features(nn.Module):
    """From z to the decoder's features: one vector for every square of `VLAEConfig.FEATURE_PATCH` pixels."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        self.squares = VLAEConfig.Z_PATCH // VLAEConfig.FEATURE_PATCH
        self.weight1 = weight(config.z_hidden, config.z_channels)
        self.bias1 = nn.Parameter(torch.zeros(config.z_hidden))
        # Begins at zero, so that z joins a trained decoder without disturbing it; no bias: that is the decoder's own.
        self.weight2 = weight(config.channels * self.squares**2, config.z_hidden, gain=0.0)

    def forward(self, z: Tensor, observe: Observer = ignore) -> Tensor:
        """Map z (B, z_channels, h, w) to features (B, channels, h * squares, w * squares)."""
        batch, _, height, width = z.shape
        n = self.squares
        h = F.relu(F.conv2d(z, self.weight1[:, :, None, None], self.bias1))
        observe("features.1", h)
        h = F.conv2d(h, self.weight2[:, :, None, None]).view(batch, n, n, -1, height, width)
        return h.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * n, width * n)
