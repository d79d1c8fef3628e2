"""The autoregressive-flow prior p(z): Gaussian conditionals whose parameters a masked network gives.

An affine autoregressive flow from unit noise is the same distribution as a product of Gaussian conditionals (VLAE,
Chen et al. 2017, section 3.2). Channel c of a position sees the positions of a window above and to the left, and the
channels before c of its own position (MADE, Germain et al. 2015).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .decoder import Observer, ignore, weight

#: Limits of the prior's mean and of the natural logarithm of its standard deviation.
PRIOR_MEAN_MAX, PRIOR_LOG_STD_MIN, PRIOR_LOG_STD_MAX = 7.0, -3.0, 2.0


def prior_offsets(config: VLAEConfig) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the prior's window on the grid of z, in raster order; none where z is one vector."""
    if config.image_size:
        return []
    reach = VLAEConfig.Z_WINDOW
    above = [(dy, dx) for dy in range(-reach, 0) for dx in range(-reach, reach + 1)]
    return above + [(0, dx) for dx in range(-reach, 0)]


def prior_masks(config: VLAEConfig) -> list[Tensor]:
    """Ones where the prior's three layers may have weights: a channel sees the context and the channels before it."""
    z, width = config.z_channels, config.z_hidden
    group = torch.arange(width) // (width // z)
    channel = torch.arange(z)
    context = torch.ones(width, z * len(prior_offsets(config)))
    return [
        torch.cat([context, (channel[None, :] < group[:, None]).float()], 1),
        (group[None, :] <= group[:, None]).float(),
        (group[None, :] <= channel[:, None]).float().repeat(2, 1),
    ]


class Prior(nn.Module):
    """Three masked layers over the window and the position itself."""

    masks: list[Tensor]

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        z, width = config.z_channels, config.z_hidden
        context = z * len(prior_offsets(config))
        self.config = config
        for i, mask in enumerate(prior_masks(config), 1):
            self.register_buffer(f"mask{i}", mask, persistent=False)
        self.weights = nn.ParameterList([weight(width, context + z), weight(width, width), weight(2 * z, width, 0.02)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(w.shape[0])) for w in self.weights])

    def masked_weights(self) -> list[Tensor]:
        """The three weight matrices with every forbidden entry zero."""
        masks = (self.mask1, self.mask2, self.mask3)
        return [w * mask for w, mask in zip(self.weights, masks, strict=True)]

    def forward(self, z: Tensor, observe: Observer = ignore) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of every conditional.

        Parameters
        ----------
        z : Tensor, shape (B, z_channels, h, w)

        Returns
        -------
        Two tensors of the same shape, within the limits above.
        """
        reach = VLAEConfig.Z_WINDOW
        height, width = z.shape[2:]
        padded = F.pad(z, (reach, reach, reach, 0))
        taps = [
            padded[:, :, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            for dy, dx in prior_offsets(self.config)
        ]
        h = torch.cat([*taps, z], 1)
        weights = self.masked_weights()
        for i, (w, b) in enumerate(zip(weights[:2], self.biases[:2], strict=True), 1):
            h = F.relu(F.conv2d(h, w[:, :, None, None], b))
            observe(f"prior.{i}", h)
        mean, log_std = F.conv2d(h, weights[2][:, :, None, None], self.biases[2]).chunk(2, dim=1)
        return (
            mean.clamp(-PRIOR_MEAN_MAX, PRIOR_MEAN_MAX),
            log_std.clamp(PRIOR_LOG_STD_MIN, PRIOR_LOG_STD_MAX),
        )
