"""z as codecs: its posterior, its prior over vectors and grids, and a coarse lattice for lossy codes.

Photographs, chains of binary images and lossy files share all of it. z always has the shape (N, h, w, channels): one
grid for a photograph, one place for each binary image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message
from vlae_codec.entropy.codecs import Codec, Gaussians, Intervals, bits_back
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.stages import MAX_EXPONENT, STEPS_AN_OCTAVE, Costs, StageKind, Timer, wavefront

#: Images whose prior is computed together, so that a number that is only claimed takes no memory before the message
#: runs dry.
PART = 4096

Z = NDArray[np.int64]


class Space(NamedTuple):
    """Where z lies, and the network that gives its prior."""

    #: N, h, w, channels.
    shape: tuple[int, int, int, int]
    #: How far the prior looks up, left and right.
    reach: int
    #: From z (N, h + reach, w + 2 * reach, channels), zero at the borders and where it is not known yet, and rows and
    #: columns of some places, to the network's inputs for them, float32 (N * places, inputs); the last ``channels`` of
    #: each are z at the place itself.
    inputs: Callable[[Z, Z, Z], NDArray[Any]]
    #: From inputs to means and scales (N * places, channels); those of channel c depend on the groups before its own.
    prior: Callable[[NDArray[Any]], tuple[Z, Z]]
    #: How many channels the prior gives at once: those of a group depend on none of each other.
    group: int = 1

    def groups(self) -> list[slice]:
        """The channels, group by group."""
        return [slice(first, first + self.group) for first in range(0, self.shape[3], self.group)]

    def parts(self) -> list[slice]:
        """The images in parts of `PART`."""
        count = self.shape[0]
        return [slice(first, min(first + PART, count)) for first in range(0, count, PART)]


class Place(NamedTuple):
    """Which elements of z a vector holds."""

    images: slice
    y: Z
    x: Z
    channels: slice

    def of(self, array: Z) -> Z:
        """The vector's elements of an array (N, h, w, channels), the channels of a place side by side."""
        return array[self.images, self.y, self.x, self.channels].ravel()


# -- distributions -----------------------------------------------------------------------------------------------------


def draw_bits(posterior: Gaussians) -> NDArray[np.float64]:
    """What drawing each element of z takes from a message on average, in bits: the entropy of a Gaussian in bins."""
    return np.log2(np.maximum(posterior.std() * np.sqrt(2 * np.pi * np.e), 1.0))


def gaussian_bits(z: Z, mean: Z, scale: Z) -> NDArray[np.float64]:
    """Ideal code length in bits of each element of z, indices on its grid, under Gaussians in bins."""
    bins = z - cdf.Z_MIN
    freq = cdf.gaussian_cdf(bins + 1, mean, scale) - cdf.gaussian_cdf(bins, mean, scale)
    return cdf.PRECISION - np.log2(freq)


def draw_posterior(posterior: Gaussians, rng: np.random.Generator) -> Z:
    """Z on its grid, of the posterior's shape, drawn by pseudorandom numbers."""
    noise = rng.standard_normal(posterior.mean.shape)
    z = np.rint(posterior.mean / cdf.Z_MEAN_STEPS + posterior.std() * noise).astype(np.int64)
    return z.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)


def expected_kl(space: Space, posterior: Gaussians, seed: int = 0) -> float:
    """KL(q || p) in bits, from one draw of z."""
    z = draw_posterior(posterior, np.random.default_rng(seed))
    prior = sum(float(gaussian_bits(values, *given).sum()) for values, given, _ in backwards(space, z))
    return prior - float(gaussian_bits(z, *posterior).sum())


# -- codecs ------------------------------------------------------------------------------------------------------------


def stage_codec(
    kind: StageKind,
    prior: Codec,
    likelihood: Callable[[Z | None], Codec],
    posterior: Callable[[Any], Gaussians],
    costs: Costs,
) -> Codec:
    """The codec of a stage, whatever it codes.

    Parameters
    ----------
    kind : StageKind
    prior : Codec
        Of z.
    likelihood : function
        From z, or None for a stage without, to the codec of x.
    posterior : function
        From x to the Gaussians of z.
    costs : Costs
        Gains what z takes from the message when it is drawn.
    """
    if kind is StageKind.WITHOUT_Z:
        return likelihood(None)

    def codec_of_z(x: Any) -> Codec:
        given = posterior(x)
        return certain(given.nearest()) if kind is StageKind.PLAIN_Z else gaussians(given, costs)

    return bits_back(prior, likelihood, codec_of_z)


def certain(value: Z) -> Codec:
    """A codec of no bits: pop gives the value, and push takes no other."""

    def push(message: Message, z: Z) -> None:
        if not np.array_equal(z, value):
            raise CorruptFile("z is not what the pixels say")

    def pop(message: Message) -> Z:
        return value

    return Codec(push, pop)


def gaussians(given: Gaussians, costs: Costs) -> Codec:
    """Z of any shape as one vector; a pop that finds too little leaves the message as it is: `EmptyMessage`."""
    flat = Gaussians(given.mean.ravel(), given.scale.ravel())

    def push(message: Message, z: Z) -> None:
        timer, bits = Timer(costs), np.zeros(1)
        message.reserve(z.size)
        kernels.push_gaussians(message.stack, z.ravel() - cdf.Z_MIN, flat, bits)
        costs.z_posterior += float(bits[0])
        timer("z")

    def pop(message: Message) -> Z:
        timer, bits = Timer(costs), np.zeros(1)
        symbols, heads = np.empty(flat.mean.size, np.int64), message.heads.copy()
        if not kernels.pop_gaussians(message.stack, symbols, flat, bits):
            message.heads[:] = heads
            raise EmptyMessage("the message ran dry while drawing z")
        costs.z_posterior += float(bits[0])
        timer("z")
        return (symbols + cdf.Z_MIN).reshape(given.mean.shape)

    return Codec(push, pop)


def prior(space: Space, costs: Costs) -> Codec:
    """Z under its prior, place by place and channel by channel."""

    def push(message: Message, z: Z) -> None:
        timer, bits = Timer(costs), np.zeros(1)
        message.reserve(z.size)
        for values, given, _ in backwards(space, z):
            kernels.push_gaussians(message.stack, values - cdf.Z_MIN, given, bits)
        costs.z_prior += float(bits[0])
        timer("z")

    def pop(message: Message) -> Z:
        timer, bits = Timer(costs), np.zeros(1)

        def visit(given: Gaussians, place: Place) -> Z:
            symbols = np.empty(len(given.mean), np.int64)
            check_enough(kernels.pop_gaussians(message.stack, symbols, given, bits))
            return symbols + cdf.Z_MIN

        z = walk(space, visit)
        costs.z_prior += float(bits[0])
        timer("z")
        return z

    return Codec(push, pop)


def check_enough(enough: bool) -> None:
    """`EmptyMessage` if a compiled loop says that the stack ran dry."""
    if not enough:
        raise EmptyMessage("no more words")


# -- the prior's order -------------------------------------------------------------------------------------------------


def walk(space: Space, visit: Callable[[Gaussians, Place], Z], *, parts: list[slice] | None = None) -> Z:
    """Fill z vector after vector, in the order in which the prior unfolds.

    Parameters
    ----------
    space : Space
    visit : function
        From a vector's prior and its place to its values.
    parts : list of slice, optional
        Images that are visited together; by default those of `Space.parts`.
    """
    count, h, w, channels = space.shape
    reach, parts = space.reach, space.parts() if parts is None else parts
    padded = np.zeros((count, h + reach, w + 2 * reach, channels), np.int64)
    for y, x in wavefront(h, w, reach + 1):
        rows = np.empty((0, 0), np.float32)
        for group in space.groups():
            for images in parts:
                # Kept from group to group if there is one part; more would be memory that is only claimed.
                if group.start == 0 or len(parts) > 1:
                    rows = space.inputs(padded[images], y, x)
                values = visit(_columns(*space.prior(rows), group), Place(images, y, x, group))
                values = values.reshape(images.stop - images.start, len(y), space.group)
                first = rows.shape[1] - channels
                rows[:, first + group.start : first + group.stop] = values.reshape(len(rows), space.group)
                padded[images, y + reach, x + reach, group] = values
    return padded[:, reach:, reach : reach + w]


def backwards(space: Space, z: Z) -> Iterator[tuple[Z, Gaussians, Place]]:
    """The vectors of `walk` from the last to the first, for z that is known: values, prior and place."""
    _, h, w, _ = space.shape
    reach = space.reach
    padded = np.pad(z, ((0, 0), (reach, 0), (reach, reach), (0, 0)))
    for y, x in reversed(list(wavefront(h, w, reach + 1))):
        mean, scale = space.prior(space.inputs(padded, y, x))
        for group in reversed(space.groups()):
            for images in reversed(space.parts()):
                rows = slice(images.start * len(y), images.stop * len(y))
                place = Place(images, y, x, group)
                yield place.of(z), _columns(mean[rows], scale[rows], group), place


def _columns(mean: Z, scale: Z, group: slice) -> Gaussians:
    """A group of channels as one vector, those of a place side by side."""
    return Gaussians(mean[:, group].ravel(), scale[:, group].ravel())


# -- lossy codes -------------------------------------------------------------------------------------------------------


class Lattice:
    """Places for z around the prior's mean, in each channel with a step of its own.

    Parameters
    ----------
    exponents : array of int64, shape (channels,)
        Steps are 2^(exponent / 4) bins of the grid, rounded to whole ones.
    """

    def __init__(self, exponents: Z) -> None:
        self.exponents = np.array(exponents, np.int64)

    @classmethod
    def spaced(cls, posterior: Gaussians, spacing: float) -> Lattice:
        """The lattice whose steps are so many times the posterior's standard deviation in each channel.

        All channels then lose as much of what q(z | x) says, which is the best use of the bits.
        """
        typical = np.exp(np.log(posterior.std()).mean((0, 1, 2)))
        exponents = np.rint(STEPS_AN_OCTAVE * np.log2(spacing * typical)).astype(np.int64)
        return cls(exponents.clip(0, MAX_EXPONENT))

    @property
    def steps(self) -> Z:
        """In bins of the grid, int64 (channels,)."""
        return np.floor(2.0 ** (self.exponents / STEPS_AN_OCTAVE) + 0.5).astype(np.int64)

    def spread(self, channels: slice, count: int) -> Z:
        """The step of each of a vector's elements, the channels of a place side by side."""
        steps = self.steps[channels]
        return np.tile(steps, count // len(steps))

    def values(self, symbols: Z, prior: Gaussians, channels: slice) -> Z:
        """Z (N,) for symbols of the lattice."""
        away = symbols * self.spread(channels, len(symbols))
        return (prior.nearest() + away).clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def symbols(self, values: Z, prior: Gaussians, channels: slice) -> Z:
        """The inverse of `values`: the bins in which they lie, also where a bin's middle is outside the grid."""
        steps = self.spread(channels, len(values))
        return (values - prior.nearest() + steps // 2) // steps

    def intervals(self, symbols: Z, prior: Gaussians, channels: slice) -> Intervals:
        """Of symbols (N,) under their prior."""
        intervals = Intervals(np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64))
        steps = self.spread(channels, len(symbols))
        kernels.coarse_intervals(symbols, prior, prior.nearest(), steps, intervals)
        return intervals

    def choose(
        self, prior: Gaussians, posterior: Gaussians, channels: slice, fidelity: float
    ) -> tuple[Z, NDArray[np.float64]]:
        """The symbol with the least bits and loss of log q for each value, int64 (N,), and those losses."""
        centre, steps = prior.nearest(), self.spread(channels, len(prior.mean))
        mean, std = posterior.mean / cdf.Z_MEAN_STEPS, posterior.std()
        nearest = np.rint((mean - centre) / steps).astype(np.int64)
        best, least = np.zeros_like(nearest), np.full(len(nearest), np.inf)
        for candidate in (np.zeros_like(nearest), nearest, nearest - np.sign(nearest)):
            freqs = self.intervals(candidate, prior, channels).freqs
            bits = cdf.PRECISION - np.log2(np.maximum(freqs, 1e-9))
            away = (self.values(candidate, prior, channels) - mean) / std
            loss = bits + fidelity * 0.5 * away**2 / np.log(2.0)
            best = np.where(loss < least, candidate, best)
            least = np.minimum(loss, least)
        return best, least

    def fit(self, prior: Gaussians, posterior: Gaussians, channels: slice, fidelity: float) -> None:
        """Take the step for some channels, a power of two, with which `choose` loses least."""
        losses, exponents = [], range(0, MAX_EXPONENT + 1, STEPS_AN_OCTAVE)
        for exponent in exponents:
            self.exponents[channels] = exponent
            each = self.choose(prior, posterior, channels, fidelity)[1]
            losses.append(each.reshape(-1, channels.stop - channels.start).sum(0))
        self.exponents[channels] = np.array(exponents)[np.argmin(losses, 0)]


def coarse(space: Space, lattice: Lattice, costs: Costs) -> Codec:
    """Z on a lattice, under its prior; ``costs`` gains what a push takes."""

    def push(message: Message, z: Z) -> None:
        message.reserve(z.size)
        for values, given, place in backwards(space, z):
            intervals = lattice.intervals(lattice.symbols(values, given, place.channels), given, place.channels)
            kernels.push_intervals(message.stack, intervals)
            costs.z_prior += intervals.bits()

    def pop(message: Message) -> Z:
        def visit(given: Gaussians, place: Place) -> Z:
            symbols = np.empty(len(given.mean), np.int64)
            steps = lattice.spread(place.channels, len(symbols))
            check_enough(kernels.pop_coarse(message.stack, symbols, given, given.nearest(), steps))
            return lattice.values(symbols, given, place.channels)

        return walk(space, visit)

    return Codec(push, pop)


def choose(
    space: Space, posterior: Gaussians, *, closeness: float | None = None, lattice: Lattice | None = None,
    fidelity: float = 0.0,
) -> tuple[Z, Lattice]:  # fmt: skip
    """Z on a lattice, and the lattice itself, for what q(z | x) says of each element.

    Parameters
    ----------
    space : Space
    posterior : Gaussians
        Of the space's shape.
    closeness : float, optional
        How much a nat of log q counts against a nat of code length when a place on the lattice is chosen; by default
        the place nearest to the posterior's mean is taken, whatever it costs.
    lattice : Lattice, optional
        By default its steps are fitted, channel by channel, to all images; each has one place of z then.
    fidelity : float
        As ``closeness``, when steps are fitted.
    """
    chosen = Lattice(np.zeros(space.shape[3], np.int64)) if lattice is None else lattice

    def visit(given: Gaussians, place: Place) -> Z:
        mine, c = Gaussians(*(place.of(part) for part in posterior)), place.channels
        if lattice is None:
            chosen.fit(given, mine, c, fidelity)
        if closeness is None:
            return chosen.values(chosen.symbols(mine.nearest(), given, c), given, c)
        return chosen.values(chosen.choose(given, mine, c, closeness)[0], given, c)

    return walk(space, visit, parts=[slice(0, space.shape[0])]), chosen
