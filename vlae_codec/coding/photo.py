"""Pixels to an ANS message and back: stages of bits-back over a wavefront of pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numba import config as numba_config
from numba import get_num_threads, set_num_threads
from numpy.typing import NDArray

from vlae_codec.blas import single_threaded_products
from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.exact.loops import RING, scratch_arrays
from vlae_codec.models.exact.networks import PriorPass
from vlae_codec.models.exact.photo import PhotoNetworks
from vlae_codec.stages import Stage, StageKind, affordable_rows, wavefront

#: Starts and freqs of subpixels, and their ideal length in bits.
Intervals = tuple[NDArray[np.uint32], NDArray[np.uint32], float]
#: Called with the pixels done since the last call.
Progress = Callable[[int], None]
#: Most pixels in a stage: what the whole stage needs in memory at once is about 25 bytes each.
STAGE_PIXELS = 1 << 23
#: Rows that are counted at once.
ROWS_AT_ONCE = 256
#: Subpixels below which every way of coding z is tried, and the smallest kept.
SMALL = 3 * 192 * 192


def no_progress(pixels: int) -> None:
    """The `Progress` that does nothing."""


def lanes_for(subpixels: int) -> int:
    """Number of lanes for an image: each costs about four bytes, and more keep the processor busier."""
    return max(1, min(16, subpixels // 8192))


@dataclass
class Costs:
    """Ideal code lengths in bits, and seconds by what they were spent on.

    Decoding does network, CDF and ANS of each step in one kernel, which is counted as ``wavefront``.
    """

    z_prior: float = 0.0
    z_posterior: float = 0.0
    pixels: float = 0.0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("network", "cdf", "ans", "z", "wavefront"), 0.0)
    )

    @property
    def elbo(self) -> float:
        """The negative ELBO in bits."""
        return self.z_prior - self.z_posterior + self.pixels


class Alphabet:
    """The values that occur in each channel, and the tables that the kernels want.

    Parameters
    ----------
    occurring : array of bool, shape (channels, 256)
    """

    def __init__(self, occurring: NDArray[np.bool_]) -> None:
        self.occurring = occurring
        self.channels = len(occurring)
        self.counts = occurring.sum(1).astype(np.int64)
        self.values = np.zeros((3, 256), np.uint8)
        self.ranks = np.zeros((3, 256), np.int32)
        self.middles = np.zeros((3, 257), np.int32)
        for c, row in enumerate(occurring):
            values = np.flatnonzero(row)
            self.values[c, : len(values)] = values
            self.ranks[c, values] = np.arange(len(values))
            self.middles[c, 1 : len(values)] = values[1:] + values[:-1]

    @classmethod
    def of(cls, image: NDArray[np.uint8], channels: int) -> Alphabet:
        """The values in an image (H, W, 3)."""
        occurring = np.zeros((channels, 256), np.bool_)
        for top in range(0, len(image), ROWS_AT_ONCE):
            rows = image[top : top + ROWS_AT_ONCE]
            for c in range(channels):
                occurring[c] |= np.bincount(rows[..., c].ravel(), minlength=256) > 0
        return cls(occurring)


class _Timer:
    """Adds the time since the last call to a part of `Costs.seconds`."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self.costs.seconds[part] += now - self.last
        self.last = now


class Coder:
    """One model on one device, ready to code many images.

    Parameters
    ----------
    model : IntegerModel
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``; the same bytes come out of all of them.
    """

    def __init__(self, model: IntegerModel, device: str = "cpu") -> None:
        self.model = model
        self.config = config = model.config
        self.parallel = PhotoNetworks(model, device)
        self.prior = PriorPass(model) if config.z_channels else None

    # -- encoding ----------------------------------------------------------------------------------------------------

    def encode(
        self, image: NDArray[np.uint8], alphabet: Alphabet, with_z: StageKind, progress: Progress = no_progress
    ) -> tuple[Message, list[Stage], Costs]:
        """Code an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3)
            Grey images (one channel coded) have three equal channels.
        alphabet : Alphabet
        with_z : StageKind
            ``WITHOUT_Z`` or ``PLAIN_Z`` for the whole image as one stage, ``BITS_BACK`` for stages.

        Returns
        -------
        The message, the stages from the top of the image down, and what they cost.
        """
        costs = Costs()
        message = Message(lanes_for(image.shape[0] * image.shape[1] * alphabet.channels))
        height = image.shape[0]
        patch = VLAEConfig.Z_PATCH
        most = max(1, STAGE_PIXELS // (patch * image.shape[1]))
        stages: list[Stage] = []
        if with_z is not StageKind.BITS_BACK:
            for top in reversed(range(0, height, most * patch)):
                stage = Stage(top, min(top + most * patch, height), with_z)
                stages.insert(0, stage)
                if with_z is StageKind.WITHOUT_Z:
                    self._push_pixels(message, *self._intervals(image, alphabet, stage, None, costs, progress), costs)
                else:
                    self._push_with_z(message, image, alphabet, stage, costs, progress)
            return message, stages, costs
        assert self.prior is not None
        mean, scale = self.parallel.posterior(image)
        # Entropy of a Gaussian in bins: what drawing it takes from the message.
        std = np.exp(cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
        wanted = np.log2(np.maximum(std * np.sqrt(2 * np.pi * np.e), 1.0)).sum((1, 2))
        # What lies in the heads cannot be drawn, and a draw may take more than the entropy; leave room for both.
        margin = 64.0 * message.lanes + 6.0 * np.sqrt(mean.size)
        end = len(wanted)
        bottom = height
        # Rows without z that are not pushed yet: they become one stage when the next one's z can be drawn.
        waiting: list[Intervals] = []

        def push_waiting() -> None:
            if waiting:
                starts, freqs = (np.concatenate([part[i] for part in reversed(waiting)]) for i in (0, 1))
                bits = sum(part[2] for part in waiting)
                waiting.clear()
                self._push_pixels(message, starts, freqs, bits, costs)
                stages.insert(0, Stage(end * patch, bottom, StageKind.WITHOUT_Z))

        stock = -margin
        while end > 0:
            rows = min(affordable_rows(stock, wanted[:end]), most)
            if rows == 0:
                if len(waiting) == most:
                    push_waiting()
                    bottom = end * patch
                before = costs.pixels
                stage = Stage((end - 1) * patch, min(end * patch, height), StageKind.WITHOUT_Z)
                waiting.append(self._intervals(image, alphabet, stage, None, costs, progress))
                stock += costs.pixels - before
                end -= 1
                continue
            push_waiting()
            stage = Stage((end - rows) * patch, min(end * patch, height), StageKind.BITS_BACK)
            self._push_with_z(message, image, alphabet, stage, costs, progress)
            stages.insert(0, stage)
            end -= rows
            bottom = stage.top
            stock = 32.0 * message.size - margin
        push_waiting()
        return message, stages, costs

    def _intervals(
        self, image: NDArray[np.uint8], alphabet: Alphabet, stage: Stage, features: NDArray[np.int16] | None,
        costs: Costs, progress: Progress,
    ) -> Intervals:  # fmt: skip
        """Starts and freqs of a stage's subpixels, shape (rows, W, channels), and their ideal length in bits."""
        timer, before = _Timer(costs), costs.pixels
        rows, width = stage.bottom - stage.top, image.shape[1]
        starts = np.empty((rows, width, alphabet.channels), np.uint32)
        freqs = np.empty_like(starts)
        for y, params in self.parallel.bands(image, stage.top, stage.bottom, features):
            timer("network")
            band = slice(y - stage.top, y - stage.top + len(params))
            kernels.pixel_intervals(
                params, image, y, alphabet.channels, alphabet.ranks, alphabet.middles, alphabet.counts,
                starts[band], freqs[band],
            )  # fmt: skip
            costs.pixels += float(cdf.PRECISION * freqs[band].size - np.log2(freqs[band], dtype=np.float64).sum())
            timer("cdf")
            progress(len(params) * width)
        timer("network")
        return starts, freqs, costs.pixels - before

    def _push_pixels(
        self, message: Message, starts: NDArray[np.uint32], freqs: NDArray[np.uint32], bits: float, costs: Costs
    ) -> None:
        timer = _Timer(costs)
        # A head grows by a symbol's bits and by what rounding adds, which is less than 2^-7 of it as a head is at least
        # 2^7 times a frequency: under 0.012 bits a symbol.
        message.reserve(math.ceil((bits + 0.012 * starts.size) / 32) + 2 * message.lanes)
        message.size = kernels.push_wavefront(
            message.heads, message.words, message.size, starts, freqs, self.config.skew
        )
        timer("ans")

    def _push_with_z(
        self, message: Message, image: NDArray[np.uint8], alphabet: Alphabet, stage: Stage, costs: Costs,
        progress: Progress,
    ) -> None:  # fmt: skip
        """A stage that codes z: draw it, push the pixels given it, push it under the prior."""
        timer = _Timer(costs)
        posterior = self.parallel.posterior(image[stage.top : stage.bottom])
        z = self._draw(message, stage.kind, posterior, costs)
        features = self.parallel.features(z)
        timer("z")
        self._push_pixels(message, *self._intervals(image, alphabet, stage, features, costs, progress), costs)
        timer = _Timer(costs)
        self._push_prior(message, z, costs)
        timer("z")

    def _draw(
        self, message: Message, kind: StageKind, posterior: tuple[NDArray[np.int64], NDArray[np.int64]], costs: Costs
    ) -> NDArray[np.int64]:
        """Z of a stage, shape (h, w, z_channels): popped under q, or q's mean."""
        mean, scale = posterior
        if kind is StageKind.PLAIN_Z:
            nearest = (mean + cdf.Z_MEAN_STEPS // 2) // cdf.Z_MEAN_STEPS
            return nearest.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
        bits = np.zeros(1)
        symbols = np.empty(mean.size, np.int64)
        size = kernels.pop_gaussians(
            message.heads, message.words, message.size, symbols, mean.ravel(), scale.ravel(), bits
        )
        if size < 0:
            raise EmptyMessage("the message ran dry while drawing z")
        message.size = size
        costs.z_posterior += float(bits[0])
        return (symbols + cdf.Z_MIN).reshape(mean.shape)

    def _push_prior(self, message: Message, z: NDArray[np.int64], costs: Costs) -> None:
        assert self.prior is not None
        reach = VLAEConfig.Z_WINDOW
        padded = np.pad(z, ((reach, 0), (reach, reach), (0, 0)))
        bits = np.zeros(1)
        message.reserve(z.size)
        for y, x in reversed(list(wavefront(z.shape[0], z.shape[1], reach + 1))):
            mean, scale = self.prior(self.prior.inputs(padded, y, x))
            symbols = z[y, x] - cdf.Z_MIN
            for c in reversed(range(z.shape[2])):
                message.size = kernels.push_gaussians(
                    message.heads, message.words, message.size, symbols[:, c], mean[:, c], scale[:, c], bits
                )
        costs.z_prior += float(bits[0])

    # -- decoding, each step the mirror of the one above --------------------------------------------------------------

    def decode(
        self, message: Message, shape: tuple[int, int], alphabet: Alphabet, stages: list[Stage],
        progress: Progress = no_progress,
    ) -> tuple[NDArray[np.uint8], Costs]:  # fmt: skip
        """Undo `encode`. The message is used up; `CorruptFile` if something is left of it or it runs dry.

        Returns
        -------
        The image, uint8 (H, W, 3), and what its parts cost.
        """
        height, width = shape
        image = np.zeros((height, width, 3), np.uint8)
        costs = Costs()
        try:
            for stage in stages:
                self._pop_stage(message, image, alphabet, stage, costs, progress)
        except EmptyMessage as error:
            raise CorruptFile(f"the coded pixels end too soon: {error}") from None
        if not message.empty:
            raise CorruptFile("bits are left over after the last pixel")
        return image, costs

    def sample(
        self, z: NDArray[np.int64], shape: tuple[int, int], alphabet: Alphabet, message: Message,
        progress: Progress = no_progress,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Draw an image (H, W, 3) from p(x | z), for z (h, w, z_channels), by popping it from a random message."""
        image = np.zeros((*shape, 3), np.uint8)
        stage = Stage(0, shape[0], StageKind.PLAIN_Z)
        self._pop_pixels(message, image, alphabet, stage, self.parallel.features(z), Costs(), progress)
        return image

    def _pop_stage(
        self, message: Message, image: NDArray[np.uint8], alphabet: Alphabet, stage: Stage, costs: Costs,
        progress: Progress,
    ) -> None:  # fmt: skip
        timer = _Timer(costs)
        features = z = None
        if stage.kind is not StageKind.WITHOUT_Z:
            z = self._pop_prior(message, stage, image.shape[1], costs)
            features = self.parallel.features(z)
            timer("z")
        self._pop_pixels(message, image, alphabet, stage, features, costs, progress)
        timer = _Timer(costs)
        if z is not None:
            posterior = self.parallel.posterior(image[stage.top : stage.bottom])
            self._return(message, stage.kind, posterior, z, costs)
            timer("z")

    def _pop_prior(self, message: Message, stage: Stage, width: int, costs: Costs) -> NDArray[np.int64]:
        assert self.prior is not None
        patch, reach, channels = VLAEConfig.Z_PATCH, VLAEConfig.Z_WINDOW, self.config.z_channels
        h, w = -((stage.top - stage.bottom) // patch), -(-width // patch)
        padded = np.zeros((h + reach, w + 2 * reach, channels), np.int64)
        bits = np.zeros(1)
        for y, x in wavefront(h, w, reach + 1):
            symbols = np.empty(len(y), np.int64)
            rows = self.prior.inputs(padded, y, x)
            for c in range(channels):
                mean, scale = self.prior(rows)
                size = kernels.pop_gaussians(
                    message.heads, message.words, message.size, symbols, mean[:, c], scale[:, c], bits
                )
                if size < 0:
                    raise EmptyMessage("no more words for z")
                message.size = size
                padded[y + reach, x + reach, c] = symbols + cdf.Z_MIN
                rows[:, c - channels] = symbols + cdf.Z_MIN
        costs.z_prior += float(bits[0])
        return padded[reach:, reach : reach + w]

    def _return(
        self, message: Message, kind: StageKind, posterior: tuple[NDArray[np.int64], NDArray[np.int64]],
        z: NDArray[np.int64], costs: Costs,
    ) -> None:  # fmt: skip
        """Push z back under q, the mirror of `_draw`; plain z must be what q's mean says."""
        mean, scale = posterior
        if kind is StageKind.PLAIN_Z:
            if not np.array_equal(z, self._draw(message, kind, posterior, costs)):
                raise CorruptFile("z is not what the pixels say")
            return
        bits = np.zeros(1)
        message.reserve(z.size)
        message.size = kernels.push_gaussians(
            message.heads, message.words, message.size, z.ravel() - cdf.Z_MIN, mean.ravel(), scale.ravel(), bits
        )
        costs.z_posterior += float(bits[0])

    def _pop_pixels(
        self, message: Message, image: NDArray[np.uint8], alphabet: Alphabet, stage: Stage,
        features: NDArray[np.int16] | None, costs: Costs, progress: Progress,
    ) -> None:  # fmt: skip
        timer = _Timer(costs)
        rows, width = stage.bottom - stage.top, image.shape[1]
        steps = width + self.config.skew * (rows - 1)
        done = 0
        for end, size in self._wavefront(message, image, stage, features, alphabet, alphabet.channels):
            if size < 0:
                raise EmptyMessage("no more words for pixels")
            message.size = size
            now = rows * width * end // steps
            progress(now - done)
            done = now
        timer("wavefront")

    def _wavefront(
        self, message: Message, image: NDArray[np.uint8], stage: Stage, features: NDArray[np.int16] | None,
        alphabet: Alphabet, channels: int,
    ) -> Iterator[tuple[int, int]]:  # fmt: skip
        """The step-by-step pass of a stage in strides; yields the steps done and the stack's size (-1: ran dry)."""
        config, width = self.config, image.shape[1]
        rows = stage.bottom - stage.top
        # Nothing lies above the image, so that a width that is only claimed takes no memory.
        boundary = np.zeros((config.blocks, width + 2 if stage.top else 0, config.channels), np.float32)
        if stage.top:
            for _ in self.parallel.bands(image, stage.top, stage.top, None, boundary):
                pass
        kept = min(rows, width // self.config.skew + 2) if config.spatial else 1
        ring = np.zeros((config.blocks, kept, RING, config.channels), np.float32)
        threads = get_num_threads()
        scratch = scratch_arrays(self.model, threads)
        params = np.empty((min(rows, width // self.config.skew + 1), config.outputs), np.int16)
        if features is None:
            features = np.zeros((0, 0, config.channels), np.int16)
        steps = width + self.config.skew * (rows - 1)
        # Often enough for a progress bar, seldom enough not to cost.
        stride = max(64, steps // 200)
        for begin in range(0, steps, stride):
            end = min(begin + stride, steps)
            with single_threaded_products():
                size = kernels.pop_wavefront(
                    self.parallel.arrays, message.heads, message.words, message.size, image, stage.top, stage.bottom,
                    features, ring, boundary, scratch, params, begin, end, self.config.skew, threads, channels,
                    alphabet.ranks, alphabet.middles, alphabet.counts, alphabet.values,
                )  # fmt: skip
            yield end, size

    def network_seconds(self, image: NDArray[np.uint8]) -> float:
        """How long the step-by-step network alone takes for an image, nothing popped; for benchmarks."""
        begun = time.perf_counter()
        stage = Stage(0, image.shape[0], StageKind.WITHOUT_Z)
        for _ in self._wavefront(Message(1), image, stage, None, Alphabet.of(image, 3), 0):
            pass
        return time.perf_counter() - begun


def set_threads(count: int) -> None:
    """Use so many CPU threads; more than the machine's cores are cut to those."""
    torch.set_num_threads(count)
    most = int(numba_config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    set_num_threads(min(count, most))
