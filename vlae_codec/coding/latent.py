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
from vlae_codec.stages import MAX_EXPONENT, Costs, StageKind, Timer, wavefront

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
    #: From inputs to means and scales (N * places, channels); those of channel c depend on the channels before it.
    prior: Callable[[NDArray[Any]], tuple[Z, Z]]

    def parts(self) -> list[slice]:
        """The images in parts of `PART`."""
        count = self.shape[0]
        return [slice(first, min(first + PART, count)) for first in range(0, count, PART)]


class Place(NamedTuple):
    """Which elements of z a vector holds."""

    images: slice
    y: Z
    x: Z
    channel: int

    def of(self, array: Z) -> Z:
        """The vector's elements of an array (N, h, w, channels)."""
        return array[self.images, self.y, self.x, self.channel].ravel()


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
        for c in range(channels):
            for images in parts:
                # Kept from channel to channel if there is one part; more would be memory that is only claimed.
                if c == 0 or len(parts) > 1:
                    rows = space.inputs(padded[images], y, x)
                mean, scale = space.prior(rows)
                values = visit(_column(mean, scale, c), Place(images, y, x, c))
                rows[:, c - channels] = values
                padded[images, y + reach, x + reach, c] = values.reshape(images.stop - images.start, len(y))
    return padded[:, reach:, reach : reach + w]


def backwards(space: Space, z: Z) -> Iterator[tuple[Z, Gaussians, Place]]:
    """The vectors of `walk` from the last to the first, for z that is known: values, prior and place."""
    _, h, w, channels = space.shape
    reach = space.reach
    padded = np.pad(z, ((0, 0), (reach, 0), (reach, reach), (0, 0)))
    for y, x in reversed(list(wavefront(h, w, reach + 1))):
        mean, scale = space.prior(space.inputs(padded, y, x))
        for c in reversed(range(channels)):
            for images in reversed(space.parts()):
                rows = slice(images.start * len(y), images.stop * len(y))
                place = Place(images, y, x, c)
                yield place.of(z), _column(mean[rows], scale[rows], c), place


def _column(mean: Z, scale: Z, channel: int) -> Gaussians:
    """One channel; contiguous, as numba would compile its loops once more for a stride."""
    return Gaussians(np.ascontiguousarray(mean[:, channel]), np.ascontiguousarray(scale[:, channel]))


# -- lossy codes -------------------------------------------------------------------------------------------------------


class Lattice:
    """Places for z around the prior's mean, in each channel with a step of its own.

    Parameters
    ----------
    exponents : array of int64, shape (channels,)
        Steps are 2^exponent bins of the grid.
    """

    def __init__(self, exponents: Z) -> None:
        self.steps = 1 << exponents

    @property
    def exponents(self) -> Z:
        """Exponents of the steps."""
        return np.rint(np.log2(self.steps)).astype(np.int64)

    def values(self, symbols: Z, prior: Gaussians, channel: int) -> Z:
        """Z (N,) for symbols of the lattice."""
        return (prior.nearest() + symbols * self.steps[channel]).clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def symbols(self, values: Z, prior: Gaussians, channel: int) -> Z:
        """The inverse of `values`: the bins in which they lie, also where a bin's middle is outside the grid."""
        step = self.steps[channel]
        return (values - prior.nearest() + step // 2) // step

    def intervals(self, symbols: Z, prior: Gaussians, channel: int) -> Intervals:
        """Of symbols (N,) under their prior."""
        intervals = Intervals(np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64))
        kernels.coarse_intervals(symbols, prior, prior.nearest(), int(self.steps[channel]), intervals)
        return intervals

    def choose(self, prior: Gaussians, posterior: Gaussians, channel: int, fidelity: float) -> tuple[Z, float]:
        """The symbol with the least bits and loss of log q for each value, int64 (N,), and the sum of those losses."""
        centre, step = prior.nearest(), int(self.steps[channel])
        mean, std = posterior.mean / cdf.Z_MEAN_STEPS, posterior.std()
        nearest = np.rint((mean - centre) / step).astype(np.int64)
        best, least = np.zeros_like(nearest), np.full(len(nearest), np.inf)
        for candidate in (np.zeros_like(nearest), nearest, nearest - np.sign(nearest)):
            freqs = self.intervals(candidate, prior, channel).freqs
            bits = cdf.PRECISION - np.log2(np.maximum(freqs, 1e-9))
            away = (self.values(candidate, prior, channel) - mean) / std
            loss = bits + fidelity * 0.5 * away**2 / np.log(2.0)
            best = np.where(loss < least, candidate, best)
            least = np.minimum(loss, least)
        return best, float(least.sum())

    def fit(self, prior: Gaussians, posterior: Gaussians, channel: int, fidelity: float) -> None:
        """Take the step for a channel with which `choose` loses least."""
        losses = []
        for exponent in range(MAX_EXPONENT + 1):
            self.steps[channel] = 1 << exponent
            losses.append(self.choose(prior, posterior, channel, fidelity)[1])
        self.steps[channel] = 1 << int(np.argmin(losses))


def coarse(space: Space, lattice: Lattice, costs: Costs) -> Codec:
    """Z on a lattice, under its prior; ``costs`` gains what a push takes."""

    def push(message: Message, z: Z) -> None:
        message.reserve(z.size)
        for values, given, place in backwards(space, z):
            intervals = lattice.intervals(lattice.symbols(values, given, place.channel), given, place.channel)
            kernels.push_intervals(message.stack, intervals)
            costs.z_prior += intervals.bits()

    def pop(message: Message) -> Z:
        def visit(given: Gaussians, place: Place) -> Z:
            symbols, step = np.empty(len(given.mean), np.int64), int(lattice.steps[place.channel])
            check_enough(kernels.pop_coarse(message.stack, symbols, given, given.nearest(), step))
            return lattice.values(symbols, given, place.channel)

        return walk(space, visit)

    return Codec(push, pop)


def choose(space: Space, posterior: Gaussians, fidelity: float, closeness: float) -> tuple[Z, Lattice]:
    """Z on a lattice, and the lattice itself, for what q(z | x) says of each element.

    Parameters
    ----------
    space : Space
    posterior : Gaussians
        Of the space's shape.
    fidelity : float
        How much a nat of log q counts against a nat of code length when the lattice's steps are chosen.
    closeness : float
        The same when a place on the lattice is chosen.
    """
    count, h, w, channels = space.shape
    lattice = Lattice(np.zeros(channels, np.int64))
    alone = h * w == 1
    if not alone:
        # Steps that suit the prior as it is where nothing is known, as the real ones come to light only on the way.
        nothing = np.zeros((count, h + space.reach, w + 2 * space.reach, channels), np.int64)
        start = space.prior(space.inputs(nothing, *np.divmod(np.arange(h * w), w)))
        mean, scale = (part.reshape(-1, channels) for part in posterior)
        for c in range(channels):
            lattice.fit(_column(*start, c), _column(mean, scale, c), c, fidelity)

    def visit(given: Gaussians, place: Place) -> Z:
        mine, c = Gaussians(*(place.of(part) for part in posterior)), place.channel
        if alone:
            lattice.fit(given, mine, c, fidelity)
        symbols, _ = lattice.choose(given, mine, c, closeness)
        return lattice.values(symbols, given, c)

    return walk(space, visit, parts=[slice(0, count)]), lattice
