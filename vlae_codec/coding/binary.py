"""Many binary images in one ANS message: chained bits-back, batch after batch.

Each image's z is drawn from the bits of the images that were coded before it (Townsend et al. 2019). The encoder goes
through the images from the last to the first, in batches that grow as the message does; the decoder meets the first
image first. Only the last image, or the few that pay for the first draw, has a z that is coded at its full price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.models.exact.binary import BinaryNetworks
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.stages import StageKind, wavefront

from .photo import Costs, Progress, no_progress

#: Lanes of a chain's message: each costs about four bytes, and the compiled loops gain little from more.
LANES = 4
#: Most images in a batch. They go through the networks together, step by step when decoding.
MAX_BATCH = 256
#: Standard deviations by which a draw of z may exceed its mean length before a batch is planned smaller.
CAUTION = 4.0


@dataclass(frozen=True)
class Batch:
    """``count`` images that are coded together, and how their z is."""

    count: int
    kind: StageKind


def draw_bits(scale: NDArray[np.int64]) -> NDArray[np.float64]:
    """What drawing z takes from a message on average, in bits per image, from scale indices (N, z_channels)."""
    std = np.exp(cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
    return np.log2(np.maximum(std * np.sqrt(2 * np.pi * np.e), 1.0)).sum(1)


def gaussian_bits(z: NDArray[np.int64], mean: NDArray[np.int64], scale: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ideal code length in bits of each element of z, indices on its grid, under Gaussians in bins."""
    bins = z - cdf.Z_MIN
    freq = cdf.gaussian_cdf(bins + 1, mean, scale) - cdf.gaussian_cdf(bins, mean, scale)
    return cdf.PRECISION - np.log2(freq)


def pixel_bits(images: NDArray[np.uint8], logits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ideal code length in bits of each image (N, S, S) under Bernoulli pixels, shape (N,)."""
    zeros = cdf.bernoulli_cdf(logits)
    freq = np.where(images == 0, zeros, (1 << cdf.PRECISION) - zeros)
    return (cdf.PRECISION - np.log2(freq)).sum((1, 2))


class ImageCoder:
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

    # -- encoding ----------------------------------------------------------------------------------------------------

    def encode(self, images: NDArray[np.uint8], progress: Progress = no_progress) -> tuple[Message, list[Batch], Costs]:
        """Code images (N, S, S) of zeros and ones, N at least 1.

        Returns
        -------
        The message, the batches from the first image on, and what they cost.
        """
        batches: list[Batch] = []
        message, costs = Message(LANES), Costs()
        end = len(images)
        wanted = np.empty(0)
        if self.config.z_channels:
            wanted = np.concatenate(
                [draw_bits(self.networks.posterior(part)[1]) for part in np.split(images, range(256, end, 256))]
            )
        while end:
            kind, count = StageKind.WITHOUT_Z, min(end, MAX_BATCH)
            if self.config.z_channels:
                kind, count = self._plan(wanted[:end], 32.0 * message.size)
            try:
                self._push(message, images[end - count : end], kind, costs)
            except EmptyMessage:
                # The draw was longer than all caution: one image with its z at full price adds to the stock.
                kind, count = StageKind.PLAIN_Z, 1
                self._push(message, images[end - 1 : end], kind, costs)
            batches.insert(0, Batch(count, kind))
            end -= count
            progress(count * images[0].size)
        return message, batches, costs

    def _plan(self, wanted: NDArray[np.float64], stock: float) -> tuple[StageKind, int]:
        """How many of the last images may draw their z from so many bits; one at full price if none may."""
        last = wanted[::-1][:MAX_BATCH]
        counts = np.arange(1, len(last) + 1)
        needed = np.cumsum(last) + CAUTION * np.sqrt(counts * self.config.z_channels)
        count = int((needed <= stock).sum())
        return (StageKind.BITS_BACK, count) if count else (StageKind.PLAIN_Z, 1)

    def _push(self, message: Message, images: NDArray[np.uint8], kind: StageKind, costs: Costs) -> None:
        """One batch; the message is as before if it raises `EmptyMessage`."""
        z = features = None
        if kind is not StageKind.WITHOUT_Z:
            z = self._draw(message, images, kind, costs)
            features = self.networks.features(z)
        zeros = cdf.bernoulli_cdf(self.networks.logits(images, features))
        flat, zeros = (a.reshape(len(images), -1).T[self.order].ravel() for a in (images, zeros))
        starts = np.where(flat == 0, 0, zeros)
        freqs = np.where(flat == 0, zeros, (1 << cdf.PRECISION) - zeros)
        costs.pixels += float((cdf.PRECISION - np.log2(freqs)).sum())
        message.reserve(len(freqs))
        message.size = kernels.push_intervals(message.heads, message.words, message.size, starts, freqs)
        if z is not None:
            mean, scale = self.networks.prior(z)
            message.reserve(z.size)
            bits = np.zeros(1)
            for c in reversed(range(z.shape[1])):
                message.size = kernels.push_gaussians(
                    message.heads, message.words, message.size, z[:, c] - cdf.Z_MIN, mean[:, c], scale[:, c], bits
                )
            costs.z_prior += float(bits[0])

    def _draw(self, message: Message, images: NDArray[np.uint8], kind: StageKind, costs: Costs) -> NDArray[np.int64]:
        """Z of a batch, (B, z_channels): popped under q, or q's mean."""
        mean, scale = self.networks.posterior(images)
        if kind is StageKind.PLAIN_Z:
            nearest = (mean + cdf.Z_MEAN_STEPS // 2) // cdf.Z_MEAN_STEPS
            return nearest.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
        bits, symbols, heads = np.zeros(1), np.empty(mean.size, np.int64), message.heads.copy()
        size = kernels.pop_gaussians(
            message.heads, message.words, message.size, symbols, mean.ravel(), scale.ravel(), bits
        )
        if size < 0:
            message.heads[:] = heads
            raise EmptyMessage("the message ran dry while drawing z")
        message.size = size
        costs.z_posterior += float(bits[0])
        return (symbols + cdf.Z_MIN).reshape(mean.shape)

    # -- decoding, each step the mirror of the one above --------------------------------------------------------------

    def decode(self, message: Message, batches: list[Batch]) -> Iterator[NDArray[np.uint8]]:
        """Undo `encode`, batch after batch: yields the images (B, S, S) of each, the first ones first.

        Raises
        ------
        CorruptFile
            If the message runs dry, or something is left of it after the last batch.
        """
        for batch in batches:
            try:
                yield self._pop(message, batch)
            except EmptyMessage as error:
                raise CorruptFile(f"the coded images end too soon: {error}") from None
        if not message.empty:
            raise CorruptFile("bits are left over after the last image")

    def _pop(self, message: Message, batch: Batch) -> NDArray[np.uint8]:
        z = features = None
        if batch.kind is not StageKind.WITHOUT_Z:
            z = self._pop_prior(message, batch.count)
            features = self.networks.features(z)
        size = self.config.image_size
        images = np.zeros((batch.count, size, size), np.uint8)
        self.pop_pixels(message, images, features)
        if z is not None:
            self._return(message, images, batch.kind, z)
        return images

    def pop_pixels(self, message: Message, images: NDArray[np.uint8], features: object) -> None:
        """Pop the pixels of images (B, S, S), given the decoder's features."""
        first = 0
        for y, x, logits in self.networks.steps(images, features):  # type: ignore[arg-type]
            symbols = np.empty(logits.size, np.uint8)
            message.size = self._enough(
                kernels.pop_bernoulli(
                    message.heads, message.words, message.size, cdf.bernoulli_cdf(logits).ravel(), first, symbols
                )
            )
            images[:, y, x] = symbols.reshape(logits.shape).T
            first += logits.size

    def _pop_prior(self, message: Message, count: int) -> NDArray[np.int64]:
        z = np.zeros((count, self.config.z_channels), np.int64)
        symbols, bits = np.empty(count, np.int64), np.zeros(1)
        for c in range(z.shape[1]):
            mean, scale = self.networks.prior(z)
            message.size = self._enough(
                kernels.pop_gaussians(
                    message.heads, message.words, message.size, symbols, mean[:, c], scale[:, c], bits
                )
            )
            z[:, c] = symbols + cdf.Z_MIN
        return z

    def _return(self, message: Message, images: NDArray[np.uint8], kind: StageKind, z: NDArray[np.int64]) -> None:
        """Push z back under q, the mirror of `_draw`; plain z must be what q's mean says."""
        if kind is StageKind.PLAIN_Z:
            if not np.array_equal(z, self._draw(message, images, kind, Costs())):
                raise CorruptFile("z is not what the pixels say")
            return
        mean, scale = self.networks.posterior(images)
        message.reserve(z.size)
        message.size = kernels.push_gaussians(
            message.heads, message.words, message.size, z.ravel() - cdf.Z_MIN, mean.ravel(), scale.ravel(), np.zeros(1)
        )

    @staticmethod
    def _enough(size: int) -> int:
        if size < 0:
            raise EmptyMessage("no more words")
        return size
