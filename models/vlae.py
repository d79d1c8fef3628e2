"""The Variational Lossy Autoencoder (Chen et al. 2017): encoder, autoregressive-flow prior and local decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .decoder import LocalDecoder, Observer, ignore, weight
from .encoder import Encoder
from .likelihood import gradient_predictor, log_likelihood
from .prior import Prior


@dataclass
class Elbo:
    """The parts of the ELBO in nats: ``pixels`` = -log p(x | z), (B,), and ``kl`` per channel of z, (B, z_channels)."""

    pixels: Tensor
    kl: Tensor


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


class VLAE(nn.Module):
    """The whole model; ``z_channels = 0`` in the configuration leaves only the decoder."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = LocalDecoder(config)
        if config.z_channels:
            self.encoder = Encoder(config)
            self.prior = Prior(config)
            self.features = Features(config)

    def pixel_features(self, z: Tensor, observe: Observer = ignore) -> Tensor:
        """Features of every pixel, (B, channels, H, W)."""
        side = VLAEConfig.FEATURE_PATCH
        return self.features(z, observe).repeat_interleave(side, 2).repeat_interleave(side, 3)

    def forward(self, x: Tensor, low: Tensor, high: Tensor, channels: Tensor, use_z: Tensor | None = None) -> Elbo:
        """The ELBO of pictures under one sample of z each.

        Parameters
        ----------
        x : Tensor, shape (B, 3, H, W), float
            Pixel values; H and W multiples of `VLAEConfig.Z_PATCH` where the model has a z.
        low, high : Tensor, shape (B, 3, H, W)
            Edges of the bins, see `likelihood.log_likelihood`.
        channels : Tensor, shape (B,)
            How many of the channels are coded.
        use_z : Tensor of bool, shape (B,), optional
            False: this picture is coded without z. Default: with z wherever the model has one.
        """
        logs, kl = self.log_likelihood_and_kl(x, low, high, use_z)
        coded = torch.arange(3, device=x.device)[None, :] < channels[:, None]
        return Elbo(-(logs.sum((2, 3)) * coded).sum(1), kl)

    def log_likelihood_and_kl(
        self, x: Tensor, low: Tensor, high: Tensor, use_z: Tensor | None = None, observe: Observer = ignore
    ) -> tuple[Tensor, Tensor]:
        """Log likelihood of every subpixel (B, 3, H, W) and the KL per channel of z (B, z_channels), in nats."""
        pred = gradient_predictor(x)
        features = None
        kl = x.new_zeros(x.shape[0], max(self.config.z_channels, 1))
        if self.config.z_channels and (use_z is None or bool(use_z.any())):
            with torch.autocast(x.device.type, enabled=False):
                mean, log_std = self.encoder(x, observe)
                z = mean + torch.exp(log_std) * torch.randn_like(mean)
                prior_mean, prior_log_std = self.prior(z, observe)
                # log q(z|x) - log p(z) of the sample, the noise's own part of log q replaced by its expectation.
                ratio = prior_log_std - log_std - 0.5
                kl = (ratio + 0.5 * ((z - prior_mean) * torch.exp(-prior_log_std)) ** 2).sum((2, 3))
                features = self.pixel_features(z, observe)
            if use_z is not None:
                kl = kl * use_z[:, None]
                features = features * use_z[:, None, None, None]
        params = self.decoder(x, pred, features, observe)
        return log_likelihood(params, x, pred, low, high), kl


def nats_to_bits(nats: float) -> float:
    """Bits in so many nats."""
    return nats / math.log(2.0)
