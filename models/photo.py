"""The encoder q(z | x): a diagonal Gaussian for every patch of pixels.

Each position of z looks at its own square of `VLAEConfig.Z_PATCH` pixels and at nothing else. So a stage of bits-back
can be encoded, and replayed by the decoder, from its own rows alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .decoder import PIXEL_CENTRE, PIXEL_UNIT, Observer, ignore, weight

#: Limits of the posterior's mean and of the natural logarithm of its standard deviation.
MEAN_MAX, LOG_STD_MIN, LOG_STD_MAX = 7.0, -2.5, 1.0


def to_patches(x: Tensor, side: int) -> Tensor:
    """Cut (B, C, H, W) into squares: (B, C * side * side, H / side, W / side), ordered (row, column, channel)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // side, side, width // side, side)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, side * side * channels, height // side, width // side)


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
