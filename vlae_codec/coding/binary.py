"""Many binary images in one ANS message: chained bits-back, batch after batch.

Each image's z is drawn from the bits of the images that were coded before it (Townsend et al. 2019). The encoder goes
through the images from the last to the first, in batches that grow as the message does; the decoder meets the first
image first. Only the last image, or the few that pay for the first draw, has a z that is coded at its full price.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message, random_message
from vlae_codec.entropy.codecs import Codec, Gaussians, Intervals
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.models.exact.binary import BinaryNetworks
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.stages import MAX_BATCH, Coded, Costs, Progress, Stage, StageKind, no_progress, wavefront

from . import latent

#: Lanes of a chain's message: each costs about four bytes, and the compiled loops gain little from more.
LANES = 4
#: Standard deviations by which a draw of z may exceed its mean length before a batch is planned smaller.
CAUTION = 4.0


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

    def encode(self, images: NDArray[np.uint8], progress: Progress = no_progress) -> Coded:
        """Code images (N, S, S) of zeros and ones, N at least 1.

        Returns
        -------
        The message, the stages from the first image on, and what they cost.
        """
        stages: list[Stage] = []
        message, costs = Message(LANES), Costs()
        end = len(images)
        wanted = np.empty(0)
        if self.config.z_channels:
            wanted = latent.draw_bits(self.posterior(images)).sum((1, 2, 3))
        while end:
            stage = self._plan(wanted[:end], end, 32.0 * message.size)
            try:
                self.stage_codec(stage, costs).push(message, images[stage.first : end])
            except EmptyMessage:
                # The draw was longer than all caution: one image with its z at full price adds to the stock.
                stage = Stage(end - 1, end, StageKind.PLAIN_Z)
                self.stage_codec(stage, costs).push(message, images[stage.first : end])
            stages.insert(0, stage)
            end = stage.first
            progress(stage.count * images[0].size)
        return Coded(message, stages, costs)

    def _plan(self, wanted: NDArray[np.float64], end: int, stock: float) -> Stage:
        """The images before ``end`` that may draw their z from so many bits; one at full price if none may."""
        if not self.config.z_channels:
            return Stage(max(0, end - MAX_BATCH), end, StageKind.WITHOUT_Z)
        last = wanted[::-1][:MAX_BATCH]
        counts = np.arange(1, len(last) + 1)
        needed = np.cumsum(last) + CAUTION * np.sqrt(counts * self.config.z_channels)
        count = int((needed <= stock).sum())
        return Stage(end - max(count, 1), end, StageKind.BITS_BACK if count else StageKind.PLAIN_Z)

    def decode(self, message: Message, stages: list[Stage]) -> Iterator[NDArray[np.uint8]]:
        """Undo `encode`, stage after stage: yields the images (B, S, S) of each, the first ones first.

        Raises
        ------
        CorruptFile
            If the message runs dry, or something is left of it after the last stage.
        """
        for stage in stages:
            try:
                yield self.stage_codec(stage, Costs()).pop(message)
            except EmptyMessage as error:
                raise CorruptFile(f"the coded images end too soon: {error}") from None
        if not message.empty:
            raise CorruptFile("bits are left over after the last image")

    # -- codecs ------------------------------------------------------------------------------------------------------

    def stage_codec(self, stage: Stage, costs: Costs) -> Codec:
        """The codec of a stage's images (B, S, S)."""
        return latent.stage_codec(
            stage.kind,
            latent.prior(self.space(stage.count), costs),
            lambda z: self.likelihood(stage.count, z, costs),
            self.posterior,
            costs,
        )

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
