"""Many binary images in one ANS message: chained bits-back, batch after batch.

Each image's z is drawn from the bits of the images that were coded before it (Townsend et al. 2019). The encoder goes
through the images from the last to the first, in batches that grow as the message does; the decoder meets the first
image first. The last few images, which pay for the first draw, have a z that is rounded to a coarse lattice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import HEAD_MIN, Message, random_message
from vlae_codec.entropy.codecs import Codec, Gaussians, Intervals, bits_back
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.models.exact.binary import BinaryNetworks
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.stages import (
    MAX_BATCH,
    MAX_EXPONENT,
    MAX_GROWTH,
    STEPS_AN_OCTAVE,
    Costs,
    Plan,
    Progress,
    Stage,
    no_progress,
    wavefront,
)

from . import latent
from .particles import gaussian_lengths, monte_carlo, pixel_lengths

#: Standard deviations by which the first draw of z may exceed its mean length before more images are coded without.
CAUTION = 4.0
#: Draws that are planned, as a share of those for which the message holds enough on average.
SHARE = 0.7
#: The last images, on which the plan is made.
PROBE = 8
#: Steps of the lattice that are tried first, in standard deviations of q(z | x), and how many exponents around that.
SPACING, AROUND = 4.0, 3


class Chained(NamedTuple):
    """What the encoder gives: the message, how the images fall into stages, and what they cost."""

    message: Message
    plan: Plan
    costs: Costs


def pixel_bits(images: NDArray[np.uint8], logits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ideal code length in bits of each image (N, S, S) under Bernoulli pixels, shape (N,)."""
    zeros = cdf.bernoulli_cdf(logits)
    freq = np.where(images == 0, zeros, (1 << cdf.PRECISION) - zeros)
    return (cdf.PRECISION - np.log2(freq)).sum((1, 2))


class BinaryCoder:
    """One model for binary images on one device.

    Parameters
    ----------
    model : IntegerModel
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``; the same bytes come out of all of them.
    """

    def __init__(self, model: IntegerModel, device: str = "cpu") -> None:
        self.model = model
        self.config = model.config
        self.networks = BinaryNetworks(model, device)
        size = self.config.image_size
        steps = list(wavefront(size, size, self.config.skew))
        #: The pixels in the order of the wavefront, as indices into a flat image.
        self.order = np.concatenate([y * size + x for y, x in steps])

    def encode(
        self, images: NDArray[np.uint8], particles: int = 1, seed: int = 0, progress: Progress = no_progress
    ) -> Chained:
        """Code images (N, S, S) of zeros and ones, N at least 1.

        Parameters
        ----------
        images : array of uint8
        particles : int
            Draws of each z, of which one is coded, see `particles`.
        seed : int
            What is left on the message once all is decoded, below 2^31.
        progress : function
        """
        plan = self._plan(images, particles)
        while True:
            message, costs = Message(1), Costs()
            message.heads[0] += np.uint64(seed)
            try:
                for stage in reversed(plan.stages(len(images))):
                    self.stage_codec(stage, costs).push(message, images[stage.first : stage.last])
                    progress(stage.count * images[0].size)
                return Chained(message, plan, costs)
            except EmptyMessage:
                # Draws were longer than all caution.
                plan = plan.slower(len(images))

    def _plan(self, images: NDArray[np.uint8], particles: int) -> Plan:
        """The lattice with which the last images are shortest, and what may be drawn after how many of them."""
        if not self.config.z_channels:
            return Plan(0)
        probe = images[-PROBE:]
        posterior = self.posterior(probe)
        typical = SPACING * float(np.exp(np.log(posterior.std()).mean()))
        middle = round(STEPS_AN_OCTAVE * math.log2(typical))
        tried = range(max(middle - AROUND, 0), min(middle + AROUND, MAX_EXPONENT) + 1)
        lengths = [self._coarse_bits(probe, posterior, exponent) for exponent in tried]
        best = int(np.argmin(lengths))
        each, draw = max(lengths[best] / len(probe), 1.0), float(latent.draw_bits(posterior).sum()) / len(probe)
        coarse = math.ceil((draw + CAUTION * math.sqrt(self.config.z_channels)) / each)
        growth = min(int(64 * SHARE * each / max(draw, 1.0)), MAX_GROWTH)
        return Plan(min(coarse, len(images)), tried[best], growth, particles)

    def _coarse_bits(self, images: NDArray[np.uint8], posterior: Gaussians, exponent: int) -> float:
        """What images cost with their z on a lattice."""
        z = latent.choose(self.space(len(images)), posterior, lattice=self._lattice(exponent))[0]
        costs = Costs()
        self._coarse(len(images), exponent, costs).push(Message(1), z)
        logits = self.networks.logits(images, self.networks.features(z[:, 0, 0]))
        return costs.z_prior + float(pixel_bits(images, logits).sum())

    def decode(self, message: Message, stages: list[Stage]) -> Iterator[NDArray[np.uint8]]:
        """Undo `encode`, stage after stage: yields the images (B, S, S) of each, the first ones first.

        Raises
        ------
        CorruptFile
            If the message runs dry, or something is left of it after the last stage, besides the ``seed``.
        """
        for stage in stages:
            try:
                yield self.stage_codec(stage, Costs()).pop(message)
            except EmptyMessage as error:
                raise CorruptFile(f"the coded images end too soon: {error}") from None
        if message.size or (message.heads >= 2 * HEAD_MIN).any():
            raise CorruptFile("bits are left over after the last image")

    # -- codecs ------------------------------------------------------------------------------------------------------

    def stage_codec(self, stage: Stage, costs: Costs) -> Codec:
        """The codec of a stage's images (B, S, S)."""
        count, exponent = stage.count, stage.exponent

        def likelihood(z: latent.Z | None) -> Codec:
            return self.likelihood(count, z, costs)

        if exponent is not None:
            return bits_back(
                self._coarse(count, exponent, costs), likelihood, lambda images: self._rounded(images, exponent)
            )
        prior = latent.prior(self.space(count), costs)
        if stage.particles > 1:
            shape = (count, stage.particles)
            return monte_carlo(shape, prior, likelihood, self.posterior, self._lengths, costs)
        return latent.stage_codec(stage.kind, prior, likelihood, self.posterior, costs)

    def _lattice(self, exponent: int) -> latent.Lattice:
        return latent.Lattice(np.full(self.config.z_channels, exponent))

    def _coarse(self, count: int, exponent: int, costs: Costs) -> Codec:
        """The codec of z on a lattice."""
        return latent.coarse(self.space(count), self._lattice(exponent), costs)

    def _rounded(self, images: NDArray[np.uint8], exponent: int) -> Codec:
        """The codec of no bits of the places on a lattice that are nearest to the posterior's means."""
        lattice = self._lattice(exponent)
        return latent.certain(latent.choose(self.space(len(images)), self.posterior(images), lattice=lattice)[0])

    def _lengths(self, images: NDArray[np.uint8], posterior: Gaussians, z: latent.Z) -> NDArray[np.int64]:
        """What each image costs by its z, less what the z returns, in the units of `particles`."""
        vectors = z[:, 0, 0]
        prior = gaussian_lengths(vectors, Gaussians(*self.networks.prior(vectors)))
        logits = self.networks.logits(images, self.networks.features(vectors))
        pixels = pixel_lengths(images, logits).sum((1, 2))
        return prior.sum(1) + pixels - gaussian_lengths(z, posterior).sum((1, 2, 3))

    def space(self, count: int) -> latent.Space:
        """Where z of so many images lies: one place for each, so that the prior has no window."""
        return latent.Space(
            (count, 1, 1, self.config.z_channels), 0, lambda z, y, x: z[:, 0, 0].astype(np.float32), self.networks.prior
        )

    def posterior(self, images: NDArray[np.uint8]) -> Gaussians:
        """q(z | x) of images (N, S, S), shape (N, 1, 1, z_channels)."""
        parts = [self.networks.posterior(part) for part in np.split(images, range(MAX_BATCH, len(images), MAX_BATCH))]
        return Gaussians(*(np.concatenate(each)[:, None, None] for each in zip(*parts, strict=True)))

    def likelihood(self, count: int, z: latent.Z | None, costs: Costs) -> Codec:
        """The codec of so many images (count, S, S), given their z."""
        features = None if z is None else self.networks.features(z[:, 0, 0])
        size = self.config.image_size

        def push(message: Message, images: NDArray[np.uint8]) -> None:
            zeros = cdf.bernoulli_cdf(self.networks.logits(images, features))
            flat, zeros = (a.reshape(count, -1).T[self.order].ravel() for a in (images, zeros))
            intervals = Intervals(
                np.where(flat == 0, 0, zeros), np.where(flat == 0, zeros, (1 << cdf.PRECISION) - zeros)
            )
            costs.pixels += intervals.bits()
            message.reserve(len(flat))
            kernels.push_intervals(message.stack, intervals)

        def pop(message: Message) -> NDArray[np.uint8]:
            images = np.zeros((count, size, size), np.uint8)
            first = 0
            for y, x, logits in self.networks.steps(images, features):
                symbols = np.empty(logits.size, np.uint8)
                zeros = cdf.bernoulli_cdf(logits).ravel()
                latent.check_enough(kernels.pop_bernoulli(message.stack, zeros, first, symbols))
                images[:, y, x] = symbols.reshape(logits.shape).T
                first += logits.size
            return images

        return Codec(push, pop)


# -- drawing from the model --------------------------------------------------------------------------------------------


def sample_images(coder: BinaryCoder, z: latent.Z | None, count: int, seed: int) -> NDArray[np.uint8]:
    """Draw images (N, S, S) of zeros and ones from p(x | z), for z (N, 1, 1, z_channels), or from a model without z."""
    parts = []
    for first in range(0, count, MAX_BATCH):
        last = min(first + MAX_BATCH, count)
        likelihood = coder.likelihood(last - first, None if z is None else z[first:last], Costs())
        # Almost always far more than enough; if not, more of the same.
        words = (last - first) * coder.config.image_size**2 // 8 + 64
        while True:
            try:
                parts.append(likelihood.pop(random_message(hash_seed(seed, first), words)))
                break
            except EmptyMessage:
                words *= 2
    return np.concatenate(parts)


def draw_images(coder: BinaryCoder, z: NDArray[np.int64], chances: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw images (N, S, S) from p(x | z) for z (N, z_channels), with chances (N or 1, S, S) uniform in 0..1.

    A pixel is one where its chance is above p(0). Images that share their chances differ only as far as their z do,
    where `sample_images` draws each anew.
    """
    size = coder.config.image_size
    images = np.zeros((len(z), size, size), np.uint8)
    for y, x, logits in coder.networks.steps(images, coder.networks.features(z)):
        zeros = cdf.bernoulli_cdf(logits).T / (1 << cdf.PRECISION)
        images[:, y, x] = chances[:, y, x] >= zeros
    return images


def hash_seed(seed: int, first: int) -> int:
    """A seed for the batch that begins with image number ``first``."""
    return (seed << 32) + first


def sample_prior(coder: BinaryCoder, count: int, seed: int) -> latent.Z:
    """Draw z (N, 1, 1, z_channels) from the prior."""
    message = random_message(hash_seed(seed, (1 << 32) - 1), count * coder.config.z_channels + 64)
    return latent.prior(coder.space(count), Costs()).pop(message)
