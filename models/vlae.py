"""The Variational Lossy Autoencoder (Chen et al. 2017): encoder, autoregressive-flow prior and local decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .binary import BinaryEncoder, BinaryFeatures
from .config import VLAEConfig
from .decoder import LocalDecoder
from .layers import Observer, ignore
from .likelihood import FLOOR, gradient_predictor, log_likelihood
from .photo import Encoder, Synthesis, Synthesised
from .prior import GaussianPrior, InverseFlow, Prior


@dataclass
class Elbo:
    """The parts of the ELBO in nats, and what z alone loses.

    ``pixels`` = -log p(x | z), (B,); ``kl`` per channel of z, (B, z_channels); ``error``, the mean squared error of the
    reconstruction from z in squared pixel values, (B,), zero without z.
    """

    pixels: Tensor
    kl: Tensor
    error: Tensor


class VLAE(nn.Module):
    """The whole model; ``z_channels = 0`` in the configuration leaves only the decoder."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = LocalDecoder(config)
        if config.z_channels:
            self.encoder = BinaryEncoder(config) if config.image_size else Encoder(config)
            self.prior = Prior(config) if config.prior == "autoregressive" else GaussianPrior()
            self.features = BinaryFeatures(config) if config.image_size else Synthesis(config)
            if config.posterior == "iaf":
                self.flow = InverseFlow(config)

    def image_elbo(
        self, x: Tensor, dropout: float = 0.0, samples: int = 1, observe: Observer = ignore
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The ELBO of binary images in its parts.

        Parameters
        ----------
        x : Tensor, shape (B, 1, S, S)
            Zeros and ones.
        dropout : float
            Share of the pixels that are kept from the decoder's window (word dropout, Bowman et al. 2016).
        samples : int
            How many times z is drawn for each image.

        Returns
        -------
        -log p(x | z), (samples * B,); the KL per channel of z, in expectation over the noise where that is known,
        (samples * B, z_channels); and log q(z | x) - log p(z) of the samples themselves, (samples * B,). In nats.
        """
        signed = 2.0 * x - 1.0
        z_channels = max(self.config.z_channels, 1)
        kl, ratio, features = x.new_zeros(len(x) * samples, z_channels), x.new_zeros(len(x) * samples), None
        if self.config.z_channels:
            mean, log_std, context = (t.float().repeat(samples, 1, 1, 1) for t in self.encoder(signed, observe))
            noise = torch.randn_like(mean)
            z = mean + torch.exp(log_std) * noise
            if self.config.posterior == "iaf":
                z = self.flow(z, context)
            with torch.autocast(x.device.type, enabled=False):
                prior_mean, prior_log_std = self.prior(z, observe)
            part = prior_log_std - log_std + 0.5 * ((z - prior_mean) * torch.exp(-prior_log_std)) ** 2
            # The noise's own part of log q is replaced by its expectation, or kept for importance weights.
            kl = (part - 0.5).sum((2, 3))
            ratio = (part - 0.5 * noise**2).sum((1, 2, 3))
            features = self.features(z, observe)
        logits = self.logits(signed, features, samples, dropout, observe)
        target = x.repeat(samples, 1, 1, 1)
        pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2, 3))
        return pixels, kl, ratio

    def logits(
        self, signed: Tensor, features: Tensor | None, samples: int = 1, dropout: float = 0.0,
        observe: Observer = ignore,
    ) -> Tensor:  # fmt: skip
        """Logits of pixels -1 and 1 (B, 1, S, S), each of which is used ``samples`` times."""
        seen = signed.repeat(samples, 1, 1, 1)
        if dropout:
            seen = seen * (torch.rand_like(seen) >= dropout)
        return self.decoder(seen, None, features, observe)

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
        logs, kl, error = self.parts(x, low, high, use_z)
        coded = torch.arange(3, device=x.device)[None, :] < channels[:, None]
        return Elbo(-(logs.sum((2, 3)) * coded).sum(1), kl, error)

    def parts(
        self, x: Tensor, low: Tensor, high: Tensor, use_z: Tensor | None = None, observe: Observer = ignore
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log likelihood of every subpixel (B, 3, H, W), KL per channel of z (B, z_channels) and `Elbo.error`."""
        features, error = None, x.new_zeros(x.shape[0])
        kl = x.new_zeros(x.shape[0], max(self.config.z_channels, 1))
        if self.config.z_channels and (use_z is None or bool(use_z.any())):
            (_, features), kl, error = self.through_z(x, observe)
            if use_z is not None:
                kl = kl * use_z[:, None]
                features = features * use_z[:, None, None, None]
        pred = gradient_predictor(x)
        params = self.decoder(x, pred, features, observe)
        return log_likelihood(params, x, pred, low, high), kl, error

    def through_z(
        self, x: Tensor, observe: Observer = ignore, spacing: Tensor | None = None
    ) -> tuple[Synthesised, Tensor, Tensor]:
        """What the synthesis makes of a draw of z, the KL per channel (B, z_channels) in nats, and `Elbo.error`.

        With a ``spacing`` (B,) z is drawn as a lossy code rounds it instead (Balle et al. 2017): uniformly from a cell
        of that many standard deviations, the same in all of a channel, and what stands for the KL is the code length of
        the cell under the prior. Without the standard deviation's 0.25 bits of bits-back, a channel only costs nothing
        if z hardly leaves the prior's mean: training on the KL does not see to that.
        """
        mean, log_std = self.encoder(x, observe)
        if spacing is None:
            z = mean + torch.exp(log_std) * torch.randn_like(mean)
        else:
            cell = spacing[:, None, None, None] * torch.exp(log_std.mean((2, 3), keepdim=True))
            z = mean + cell * (torch.rand_like(mean) - 0.5)
        with torch.autocast(x.device.type, enabled=False):
            prior_mean, prior_log_std = self.prior(z, observe)
        if spacing is None:
            # log q(z|x) - log p(z) of the sample, the noise's own part of log q replaced by its expectation.
            ratio = prior_log_std - log_std - 0.5
            kl = (ratio + 0.5 * ((z - prior_mean) * torch.exp(-prior_log_std)) ** 2).sum((2, 3))
        else:
            kl = -log_cell(z - prior_mean, prior_log_std, cell).sum((2, 3))
        synthesised = self.features(z, observe)
        return synthesised, kl, (synthesised.y - x).square().mean((1, 2, 3))


def log_cell(away: Tensor, log_std: Tensor, cell: Tensor) -> Tensor:
    """Log probability, in nats, of a cell of some width around a point that lies ``away`` from a Gaussian's mean."""
    away, inverse = away.abs(), torch.exp(-log_std)
    mass = torch.special.ndtr((0.5 * cell - away) * inverse) - torch.special.ndtr((-0.5 * cell - away) * inverse)
    return torch.log(mass + FLOOR)


def nats_to_bits(nats: float) -> float:
    """Bits in so many nats."""
    return nats / math.log(2.0)
