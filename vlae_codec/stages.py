"""What is coded when: the wavefront over pixels and over z, and the stages of bits-back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vlae_codec.entropy.ans import Message, Messages

#: Most images in a stage of a chain. They go through the networks together, step by step when decoding.
MAX_BATCH = 256
#: Most draws of z of which one is coded, see `vlae_codec.coding.particles`.
MAX_PARTICLES = 64
#: Most draws that a plan allows after 64 images.
MAX_GROWTH = 127
#: Exponents of a lattice's step in an octave, and the largest: a bin then is as wide as the grid of z.
STEPS_AN_OCTAVE, MAX_EXPONENT = 4, 32


class StageKind(IntEnum):
    """How a stage codes z."""

    #: No z: the decoder works from the window alone.
    WITHOUT_Z = 0
    #: z drawn from the message under q, and returned when decoding.
    BITS_BACK = 1
    #: z is the mean of q, coded under the prior at its full price: for pictures too small to pay for bits-back.
    PLAIN_Z = 2


@dataclass(frozen=True)
class Stage:
    """What is coded together, from ``first`` on, before ``last``: rows of a photograph, or images of a chain."""

    first: int
    last: int
    kind: StageKind
    #: Draws of each z, of which one is coded; more than one for bits-back of chains alone.
    particles: int = 1
    #: Of plain z that lies on a lattice, the exponent of its step.
    exponent: int | None = None

    @property
    def count(self) -> int:
        """Of rows, or of images."""
        return self.last - self.first


@dataclass(frozen=True)
class Plan:
    """How the images of a chain fall into stages, so that few bytes say it.

    The encoder goes from the last image to the first. Its first images have a plain z on a lattice; what they leave on
    the message pays for the draws of the next ones, and so on.

    Attributes
    ----------
    coarse : int
        Images with a plain z, the last ones; 0 for a model without z.
    exponent : int
        Of the step of their lattice, the same for all channels of z.
    growth : int
        After n images the message holds enough for ``n * growth / 64`` draws of z.
    particles : int
        Draws of each z, of which one is coded, as soon as the message holds enough for that.
    """

    coarse: int
    exponent: int = 0
    growth: int = 0
    particles: int = 1

    def stages(self, count: int) -> list[Stage]:
        """The stages of so many images, in the order in which they decode."""
        stages: list[Stage] = []
        while (end := stages[-1].first if stages else count) > 0:
            done = count - end
            draws, particles = done * self.growth >> 6, 1
            if not self.coarse:
                kind, images = StageKind.WITHOUT_Z, MAX_BATCH
            elif done < self.coarse:
                kind, images = StageKind.PLAIN_Z, self.coarse - done
            else:
                kind, particles = StageKind.BITS_BACK, self.particles if draws >= self.particles else 1
                images = max(draws // particles, 1)
            exponent = self.exponent if kind is StageKind.PLAIN_Z else None
            stages.append(Stage(max(end - min(images, MAX_BATCH), 0), end, kind, particles, exponent))
        return stages[::-1]

    def slower(self, count: int) -> Plan:
        """A plan with which the message holds more before each draw, for so many images."""
        coarse = min(self.coarse + 1 + self.coarse // 2, count)
        return replace(self, coarse=coarse, growth=self.growth * 3 // 4)


def wavefront(rows: int, width: int, skew: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places that can be decoded together, step after step: all with equal ``x + skew * y``, from the top down.

    Yields
    ------
    Two arrays of int64: the rows and the columns of the step's places.

    Examples
    --------
    >>> [list(zip(y.tolist(), x.tolist())) for y, x in wavefront(2, 3, 2)]
    [[(0, 0)], [(0, 1)], [(0, 2), (1, 0)], [(1, 1)], [(1, 2)]]
    """
    for t in range(width + skew * (rows - 1)):
        y = np.arange(max((t - width) // skew + 1, 0), min(t // skew + 1, rows))
        yield y, t - skew * y


def affordable_rows(stock: float, wanted: NDArray[np.float64]) -> int:
    """How many patch rows, counted from the last, may draw their z from a stock of bits.

    Parameters
    ----------
    stock : float
        Bits on the message that may be drawn.
    wanted : array of float64
        Bits that the z of each patch row draws, from the top.
    """
    return int((np.cumsum(wanted[::-1]) <= stock).sum())


#: Called with the pixels done since the last call.
Progress = Callable[[int], object]


def no_progress(pixels: int) -> None:
    """The `Progress` that does nothing."""


def expect(progress: Progress, pixels: int) -> None:
    """Tell a progress how many more pixels it will be called with in all, if it has a method ``expect`` for that."""
    getattr(progress, "expect", no_progress)(pixels)


class Passes:
    """Makes several passes over an image count each of its pixels once in all.

    Parameters
    ----------
    progress : Progress
    pixels : int
        Of the image.
    """

    def __init__(self, progress: Progress, pixels: int) -> None:
        self.progress = progress
        self.pixels = pixels
        self.told, self.end = 0, 0.0
        expect(progress, pixels)

    def take(self, share: float) -> Progress:
        """The progress of a pass that takes such a share of the time that is left; those before it have ended."""
        begin = self.end
        self.end += share * (self.pixels - begin)
        self._reach(begin)
        length, counted = self.end - begin, 0

        def count(pixels: int) -> None:
            nonlocal counted
            counted = min(counted + pixels, self.pixels)
            self._reach(begin + length * counted / self.pixels)

        return count

    def finish(self) -> None:
        """Nothing is left to do."""
        self._reach(self.pixels)

    def _reach(self, place: float) -> None:
        pixels = round(place) - self.told
        if pixels > 0:
            self.told += pixels
            self.progress(pixels)


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


class Timer:
    """Adds the time since the last call to a part of `Costs.seconds`."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        """Count it as one part's."""
        now = time.perf_counter()
        self.costs.seconds[part] += now - self.last
        self.last = now


class Coded(NamedTuple):
    """What an encoder gives: the message, the stages in the order in which they decode, and what they cost."""

    message: Message | Messages
    stages: list[Stage]
    costs: Costs
