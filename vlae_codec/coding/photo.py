"""Pixels to ANS messages and back: stages of bits-back over a wavefront of pixels."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import Message, Messages
from vlae_codec.entropy.codecs import Codec, Gaussians, Intervals
from vlae_codec.entropy.lengths import code_lengths
from vlae_codec.errors import CorruptFile, EmptyMessage, UnsafeModel
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.bands import ParallelPass
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.exact.loops import network_arrays
from vlae_codec.models.exact.networks import PriorPass
from vlae_codec.models.exact.steps import Area, Caches
from vlae_codec.models.exact.synthesis import SynthesisPass
from vlae_codec.stages import Coded, Costs, Progress, Stage, StageKind, Timer, affordable_rows, no_progress

from . import adapt, latent, wavefront
from .wavefront import Alphabet

if TYPE_CHECKING:
    from .device import DeviceSteps

#: Most pixels in a stage: what the whole stage needs in memory at once is about 25 bytes each, and with z two more for
#: every channel of the decoder.
STAGE_PIXELS = 1 << 21
#: Messages of all but small images, unless z is drawn from one: as many threads may pop at once.
MESSAGES = 8


def lanes_for(subpixels: int) -> int:
    """Number of lanes for an image: each costs about six bytes, and more keep the processor busier.

    A CPU is content with 16. A GPU takes as many symbols at once as there are lanes, so large images have more: at one
    megapixel 45, for 0.02 % of a photograph's bytes.
    """
    return max(1, min(16, subpixels // 8192), min(256, subpixels >> 16))


def message_for(subpixels: int, kind: StageKind) -> Message | Messages:
    """Empty messages for an image: several cost about three bytes each beside their lanes."""
    lanes = lanes_for(subpixels)
    if lanes < 2 * MESSAGES or kind is not StageKind.WITHOUT_Z:
        return Message(lanes)
    return Messages(MESSAGES, lanes // MESSAGES)


class Canvas(NamedTuple):
    """An image that stages are coded of or decoded into, and what goes with all of them."""

    #: uint8 (H, W, 3).
    image: NDArray[np.uint8]
    alphabet: Alphabet
    costs: Costs
    progress: Progress
    #: Whether the decoder's heads learn from the pixels, in each stage anew.
    adapts: bool = False

    def rows(self, stage: Stage) -> NDArray[np.uint8]:
        """A view of a stage's rows."""
        return self.image[stage.first : stage.last]


class PhotoCoder:
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
        self.device = device
        self.arrays = network_arrays(model)
        self.prior = PriorPass(model) if config.z_channels else None

    @cached_property
    def parallel(self) -> ParallelPass:
        """The local decoder that encodes."""
        if self.device == "cpu":
            return ParallelPass(self.model)
        # Here, as torch is slow to load and a CPU needs none of it.
        from vlae_codec.models.exact.photo import PhotoNetworks

        return PhotoNetworks(self.model, self.device)

    @cached_property
    def on_device(self) -> DeviceSteps | None:
        """What goes step by step on the device; None where that is left to the CPU's loops, which give the same."""
        if self.device == "cpu" or importlib.util.find_spec("triton") is None:
            return None
        from .device import find_steps

        steps = find_steps(self.model, self.device)
        if steps is not None and not self.agrees(steps):
            raise UnsafeModel(f"device {self.device} decodes other pixels than the CPU; use --device cpu")
        return steps

    def agrees(self, steps: DeviceSteps, shape: tuple[int, int] = (24, 32)) -> bool:
        """Whether a device gives back noise that the CPU has coded, heads learning, and uses up its message."""
        rng = np.random.Generator(np.random.PCG64(0))
        noise = rng.integers(0, 256, (*shape, 3), np.uint8)
        alphabet = Alphabet.of(noise, 3)
        coded = PhotoCoder(self.model).encode(noise, alphabet, StageKind.WITHOUT_Z, adapts=True)
        area, _ = self._area(np.zeros_like(noise), coded.stages[0])
        enough = steps.pop(coded.message.stacks, area, self._no_features(), alphabet, True)
        return enough and coded.message.empty and np.array_equal(area.image, noise)

    def encode(
        self, image: NDArray[np.uint8], alphabet: Alphabet, kind: StageKind, progress: Progress = no_progress,
        adapts: bool = False,
    ) -> Coded:  # fmt: skip
        """Code an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3)
            Grey images (one channel coded) have three equal channels.
        alphabet : Alphabet
        kind : StageKind
            ``WITHOUT_Z`` or ``PLAIN_Z`` for stages as large as memory allows, ``BITS_BACK`` for stages that grow as
            the message does.
        adapts : bool
            Whether the decoder's heads learn from the pixels, see `adapt`.

        Returns
        -------
        The message, the stages from the top of the image down, and what they cost.
        """
        height, width = image.shape[:2]
        # A copy of a read-only one, as the loops that decoding shares would be compiled once more for it.
        image = np.require(image, requirements=["C", "W"])
        canvas = Canvas(image, alphabet, Costs(), progress, adapts)
        patch = VLAEConfig.Z_PATCH
        most = max(1, STAGE_PIXELS // (patch * width))
        if patch * width > STAGE_PIXELS:
            kind = StageKind.WITHOUT_Z
        message = message_for(height * width * alphabet.channels, kind)
        if kind is StageKind.BITS_BACK:
            assert isinstance(message, Message)
            return Coded(message, self._encode_in_turn(message, canvas, most), canvas.costs)
        stages = [Stage(top, min(top + most * patch, height), kind) for top in range(0, height, most * patch)]
        for stage in reversed(stages):
            self.stage_codec(canvas, stage).push(message, canvas.rows(stage))
        return Coded(message, stages, canvas.costs)

    def _encode_in_turn(self, message: Message, canvas: Canvas, most: int) -> list[Stage]:
        """From the bottom up, stages without z until they pay for the z of the next, of at most so many patch rows."""
        patch, height, costs = VLAEConfig.Z_PATCH, len(canvas.image), canvas.costs
        if canvas.alphabet.certain:
            # Pixels that are known never pay for a draw.
            wanted, margin = np.full(-(-height // patch), np.inf), 0.0
        else:
            posterior = self.posterior(canvas.image)
            wanted = latent.draw_bits(posterior).sum((0, 2, 3))
            # What lies in the heads cannot be drawn, and a draw may take more than the entropy; leave room for both.
            margin = 64.0 * message.lanes + 6.0 * np.sqrt(posterior.mean.size)
        stages: list[Stage] = []
        end = len(wanted)
        # Rows without z that are not pushed yet: they become one stage when the next one's z can be drawn.
        waiting: list[tuple[Intervals, float]] = []

        def push_waiting() -> None:
            if waiting:
                starts, freqs = (np.concatenate([part[i] for part, _ in reversed(waiting)]) for i in (0, 1))
                intervals, bits = Intervals(starts, freqs), sum(bits for _, bits in waiting)
                waiting.clear()
                last = stages[0].first if stages else height
                stage = Stage(end * patch, last, StageKind.WITHOUT_Z)
                if canvas.adapts:
                    # The heads learn over the stage as a whole, whose extent is known only now.
                    costs.pixels -= bits
                    before = costs.pixels
                    intervals = self._intervals(canvas._replace(progress=no_progress), stage, None)
                    bits = costs.pixels - before
                self._push_intervals(message, intervals, bits, costs)
                stages.insert(0, stage)

        stock = -margin
        while end > 0:
            rows = min(affordable_rows(stock, wanted[:end]), most)
            if rows == 0:
                if len(waiting) == most:
                    push_waiting()
                before = costs.pixels
                stage = Stage((end - 1) * patch, min(end * patch, height), StageKind.WITHOUT_Z)
                intervals = self._intervals(canvas._replace(adapts=False), stage, None)
                waiting.append((intervals, costs.pixels - before))
                stock += costs.pixels - before
                end -= 1
                continue
            push_waiting()
            stage = Stage((end - rows) * patch, min(end * patch, height), StageKind.BITS_BACK)
            self.stage_codec(canvas, stage).push(message, canvas.rows(stage))
            stages.insert(0, stage)
            end -= rows
            stock = 32.0 * message.size - margin
        push_waiting()
        return stages

    def decode(
        self, message: Message | Messages, shape: tuple[int, int], alphabet: Alphabet, stages: list[Stage],
        progress: Progress = no_progress, adapts: bool = False,
    ) -> tuple[NDArray[np.uint8], Costs]:  # fmt: skip
        """Undo `encode`. The message is used up; `CorruptFile` if something is left of it or it runs dry.

        Returns
        -------
        The image, uint8 (H, W, 3), and what its parts cost.
        """
        for stage in stages:
            if stage.kind is not StageKind.WITHOUT_Z and (pixels := stage.count * shape[1]) > STAGE_PIXELS:
                raise CorruptFile(f"a stage with z has {pixels} pixels, expected at most {STAGE_PIXELS}")
        canvas = Canvas(np.zeros((*shape, 3), np.uint8), alphabet, Costs(), progress, adapts)
        try:
            for stage in stages:
                self.stage_codec(canvas, stage).pop(message)
        except EmptyMessage as error:
            raise CorruptFile(f"the coded pixels end too soon: {error}") from None
        if not message.empty:
            raise CorruptFile("bits are left over after the last pixel")
        return canvas.image, canvas.costs

    @cached_property
    def synthesis(self) -> SynthesisPass:
        """The networks between pictures and z. A model without z has none, and no stage that asks it."""
        if self.device == "cpu":
            return SynthesisPass(self.model)
        from vlae_codec.models.exact.torch_synthesis import TorchSynthesis

        return TorchSynthesis(self.model, self.device)

    def code_length(self, image: NDArray[np.uint8], alphabet: Alphabet) -> int:
        """What an image (H, W, 3) takes without z and learning, in the units of `lengths`."""
        canvas = Canvas(image, alphabet, Costs(), no_progress)
        return int(code_lengths(self._intervals(canvas, Stage(0, len(image), StageKind.WITHOUT_Z), None).freqs).sum())

    # -- codecs ------------------------------------------------------------------------------------------------------

    def stage_codec(self, canvas: Canvas, stage: Stage) -> Codec:
        """The codec of a stage's rows, which lie in the canvas: a pop writes them there."""
        return latent.stage_codec(
            stage.kind,
            latent.prior(self.space((stage.count, canvas.image.shape[1])), canvas.costs),
            lambda z: self._likelihood(canvas, stage, z),
            lambda rows: self._posterior(canvas, rows),
            canvas.costs,
        )

    def space(self, shape: tuple[int, int]) -> latent.Space:
        """Where z of an image (H, W) lies."""
        # A model without z has no network for it, and no stage that asks it.
        network, patch = cast(PriorPass, self.prior), VLAEConfig.Z_PATCH
        h, w = (-(-side // patch) for side in shape)
        return latent.Space(
            (1, h, w, self.config.z_channels), VLAEConfig.Z_WINDOW,
            lambda padded, y, x: network.inputs(padded[0], y, x), network,
            self.config.z_group,
        )  # fmt: skip

    def posterior(self, rows: NDArray[np.uint8]) -> Gaussians:
        """q(z | x) of an image, or of a stage's rows, shape (1, h, w, z_channels)."""
        return Gaussians(*(part[None] for part in self.synthesis.posterior(rows)))

    def _posterior(self, canvas: Canvas, rows: NDArray[np.uint8]) -> Gaussians:
        timer = Timer(canvas.costs)
        posterior = self.posterior(rows)
        timer("z")
        return posterior

    def _likelihood(self, canvas: Canvas, stage: Stage, z: latent.Z | None) -> Codec:
        """The codec of a stage's rows, given its z. If all of them are known it needs no network and takes no bits."""
        alphabet, costs = canvas.alphabet, canvas.costs
        features = None
        if z is not None and not alphabet.certain:
            timer = Timer(costs)
            features = self.synthesis.features(z[0], stage.count, canvas.image.shape[1])
            timer("z")

        def push(message: Message | Messages, rows: NDArray[np.uint8]) -> None:
            before = costs.pixels
            intervals = self._intervals(canvas, stage, features)
            self._push_intervals(message, intervals, costs.pixels - before, costs)

        def pop(message: Message | Messages) -> NDArray[np.uint8]:
            if alphabet.certain:
                values = alphabet.values[: alphabet.channels, 0]
                canvas.rows(stage)[:] = values
                canvas.progress(stage.count * canvas.image.shape[1])
            else:
                self._pop_pixels(message, canvas, stage, features)
            return canvas.rows(stage)

        return Codec(push, pop)

    def _intervals(self, canvas: Canvas, stage: Stage, features: NDArray[np.int16] | None) -> Intervals:
        """Intervals of a stage's subpixels, uint32 (rows, W, channels)."""
        image, alphabet, costs, progress, _ = canvas
        timer, width = Timer(costs), image.shape[1]
        found = np.empty((2, stage.count, width, alphabet.channels), np.uint32)
        starts, freqs = found
        if alphabet.certain:
            starts[:], freqs[:] = 0, 1 << cdf.PRECISION
            progress(stage.count * width)
            return Intervals(starts, freqs)
        if canvas.adapts:
            self._learn(canvas, stage, features, found)
            return Intervals(starts, freqs)
        for y, params in self.parallel.bands(image, stage.first, stage.last, features):
            timer("network")
            band = slice(y - stage.first, y - stage.first + len(params))
            intervals = Intervals(starts[band], freqs[band])
            wavefront.pixel_intervals(params, image, y, alphabet, *intervals)
            costs.pixels += intervals.bits()
            timer("cdf")
            progress(len(params) * width)
        timer("network")
        return Intervals(starts, freqs)

    def _learn(
        self, canvas: Canvas, stage: Stage, features: NDArray[np.int16] | None, intervals: NDArray[np.uint32]
    ) -> None:
        """Fill in starts and frequencies, (2, rows, W, channels), by heads that learn, in the wavefront's order."""
        image, alphabet, costs, progress, _ = canvas
        timer, width = Timer(costs), image.shape[1]
        active = np.empty((stage.count, width, self.config.channels), np.int16)
        half = width * np.arange(stage.count + 1) // 2
        for y, rows in self.parallel.bands(image, stage.first, stage.last, features, heads=False):
            top = y - stage.first
            active[top : top + len(rows)] = rows
            progress(int(half[top + len(rows)] - half[top]))
        timer("network")
        area, steps = self._area(image, stage)
        left, done = stage.count * width - int(half[-1]), 0
        if self.on_device is not None:
            intervals[:] = self.on_device.learn(area, active, alphabet, left, progress)
            costs.pixels += Intervals(*intervals).bits()
            timer("cdf")
            return
        heads = adapt.Heads.of(self.model, stage.count, width, get_num_threads())
        for begin, end in strides(steps):
            adapt.adapting_intervals(heads, active, area, alphabet, intervals, begin, end)
            now = left * end // steps
            progress(now - done)
            done = now
        costs.pixels += Intervals(*intervals).bits()
        timer("cdf")

    def _push_intervals(self, message: Message | Messages, intervals: Intervals, bits: float, costs: Costs) -> None:
        """Push a stage's subpixels, which take so many bits."""
        timer = Timer(costs)
        # A head grows by a symbol's bits and by what rounding adds, which is less than 2^-7 of it as a head is at least
        # 2^7 times a frequency: under 0.012 bits a symbol.
        beside = 0.012 * intervals.starts.size + 64.0 * message.lanes
        if isinstance(message, Messages):
            each = np.empty(len(message.lengths))
            wavefront.message_bits(intervals.freqs, self.config.skew, each)
            message.reserve(np.ceil((each + beside) / 32).astype(np.int64))
        else:
            message.reserve(math.ceil((bits + beside) / 32))
        wavefront.push_wavefront(message.stacks, intervals, self.config.skew)
        timer("ans")

    def _pop_pixels(
        self, message: Message | Messages, canvas: Canvas, stage: Stage, features: NDArray[np.int16] | None
    ) -> None:
        image, alphabet, costs, progress, _ = canvas
        timer, width = Timer(costs), image.shape[1]
        area, steps = self._area(image, stage)
        if features is None:
            features = self._no_features()
        if self.on_device is not None:
            latent.check_enough(
                self.on_device.pop(message.stacks, area, features, alphabet, canvas.adapts, progress)
            )  # fmt: skip
            timer("wavefront")
            return
        caches = self._caches(area)
        if canvas.adapts:
            heads = adapt.Heads.of(self.model, stage.count, width, get_num_threads())
        done = 0
        for begin, end in strides(steps):
            if canvas.adapts:
                enough = adapt.pop_adapting(
                    self.arrays, message.stacks, area, features, caches, heads, alphabet, (begin, end)
                )
            else:
                enough = wavefront.pop_wavefront(
                    self.arrays, message.stacks, area, features, caches, alphabet, begin, end
                )
            latent.check_enough(enough)
            now = stage.count * width * end // steps
            progress(now - done)
            done = now
        timer("wavefront")

    def network_seconds(self, image: NDArray[np.uint8]) -> float:
        """How long the step-by-step network alone takes for an image, nothing popped; for benchmarks."""
        begun = time.perf_counter()
        area, steps = self._area(image, Stage(0, image.shape[0], StageKind.WITHOUT_Z))
        caches = self._caches(area)
        for begin, end in strides(steps):
            wavefront.run_network(self.arrays, area, self._no_features(), caches, begin, end)
        return time.perf_counter() - begun

    def _area(self, image: NDArray[np.uint8], stage: Stage) -> tuple[Area, int]:
        """A stage's rows as the step-by-step pass takes them, and how many steps those are."""
        skew = self.config.skew
        return Area(image, stage.first, stage.last, skew), image.shape[1] + skew * (stage.count - 1)

    def _caches(self, area: Area) -> Caches:
        """What the step-by-step pass keeps of an area, made of the rows above it."""
        caches = Caches.of(self.model, area, get_num_threads())
        halo = min(self.model.halo, area.top)
        if halo:
            # Of the rows above it nothing is needed, so nothing lies above the halo.
            above = Area(area.image, area.top - halo, area.top, area.skew)
            wavefront.fill_boundary(
                self.arrays, above, self._no_features(), Caches.of(self.model, above, get_num_threads()),
                caches.boundary,
            )  # fmt: skip
        return caches

    def _no_features(self) -> NDArray[np.int16]:
        return np.zeros((0, 0, self.config.channels), np.int16)


def strides(steps: int) -> Iterator[tuple[int, int]]:
    """First and last-plus-one of the steps taken together: often enough for a progress bar, seldom enough for speed."""
    stride = max(64, steps // 200)
    for begin in range(0, steps, stride):
        yield begin, min(begin + stride, steps)
