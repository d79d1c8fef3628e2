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
from .layers import Observer, convolve, ignore, weight
from .plan import PRIOR_LOG_STD_MAX, PRIOR_LOG_STD_MIN, PRIOR_MEAN_MAX, prior_masks, prior_offsets


class Prior(nn.Module):
    """Three masked layers over the window and the position itself."""

    masks: list[Tensor]

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        z, width = config.z_channels, config.z_hidden
        context = z * len(prior_offsets(config))
        self.config = config
        for i, mask in enumerate(prior_masks(config), 1):
            self.register_buffer(f"mask{i}", torch.from_numpy(mask), persistent=False)
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


class GaussianPrior(nn.Module):
    """The standard normal with the interface of `Prior`: no parameters."""

    def forward(self, z: Tensor, observe: Observer = ignore) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of every conditional: zeros shaped like z."""
        return torch.zeros_like(z), torch.zeros_like(z)


class InverseFlow(nn.Module):
    """One mean-only step of an inverse autoregressive flow, z + m(z, context) (Kingma et al. 2016).

    Its Jacobian is one, so the density of its result is that of the sample it began with.
    """

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.masked = Prior(config)
        self.context = weight(config.z_channels, config.z_hidden, 0.1)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """Map z (B, z_channels, 1, 1), given the encoder's last hidden layer, to the flow's result."""
        # In reversed order, so that every channel comes to depend on all others through this and the prior.
        mean, _ = self.masked((z + convolve(context, self.context, None)).flip(1))
        return z + mean.flip(1)
