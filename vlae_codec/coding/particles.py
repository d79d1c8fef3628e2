"""Monte Carlo bits-back (Ruan et al. 2021): of several draws of z one is coded, so that x costs less than the ELBO.

z_1 .. z_K are drawn from the message under q(z | x), then the number j of one of them, in proportion to the importance
weights p(z) p(x | z) / q(z | x). The others go back at once, and z_j is coded as z always is; j costs log2 K bits. On
average x takes what the importance-weighted bound of K draws says (Burda et al. 2016). The weights are made of integers
alone, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import Message
from vlae_codec.entropy.codecs import Codec, Gaussians, bits_back, categorical
from vlae_codec.entropy.lengths import LENGTH_BITS, TABLE_BITS, code_lengths
from vlae_codec.stages import Costs

from . import latent

#: EXP2[i] = round(2^24 2^(-i / 2^12)).
EXP2 = np.rint(np.exp2(24 - np.arange(1 << TABLE_BITS) / (1 << TABLE_BITS))).astype(np.int64)


class Drawn(NamedTuple):
    """Which of the draws of each image is coded, (N,), and that draw."""

    number: NDArray[np.int64]
    z: latent.Z


def gaussian_lengths(z: latent.Z, given: Gaussians) -> NDArray[np.int64]:
    """`code_lengths` of z, indices on its grid, under Gaussians in bins."""
    bins = z - cdf.Z_MIN
    return code_lengths(cdf.gaussian_cdf(bins + 1, *given) - cdf.gaussian_cdf(bins, *given))


def pixel_lengths(images: NDArray[np.uint8], logits: NDArray[np.int64]) -> NDArray[np.int64]:
    """`code_lengths` of binary pixels."""
    zeros = cdf.bernoulli_cdf(logits)
    return code_lengths(np.where(images == 0, zeros, (1 << cdf.PRECISION) - zeros))


def edges_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative frequencies (N, K + 1) in proportion to 2^-length, of lengths (N, K); none is zero."""
    away = lengths - lengths.min(1, keepdims=True)
    fraction = (away & ((1 << LENGTH_BITS) - 1)) >> (LENGTH_BITS - TABLE_BITS)
    raw = EXP2[fraction] >> np.minimum(away >> LENGTH_BITS, 31)
    freqs = raw * ((1 << cdf.PRECISION) - lengths.shape[1]) // raw.sum(1, keepdims=True) + 1
    freqs[np.arange(len(freqs)), lengths.argmin(1)] += (1 << cdf.PRECISION) - freqs.sum(1)
    return np.pad(np.cumsum(freqs, 1), ((0, 0), (1, 0)))


def monte_carlo(
    shape: tuple[int, int],
    prior: Codec,
    likelihood: Callable[[latent.Z], Codec],
    posterior: Callable[[Any], Gaussians],
    lengths: Callable[[Any, Gaussians, latent.Z], NDArray[np.int64]],
    costs: Costs,
) -> Codec:
    """Bits-back whose latent is one of several draws of z, and its number.

    Parameters
    ----------
    shape : tuple of int
        N and K: how many images, and how many draws of each.
    prior, likelihood, posterior
        As of `latent.stage_codec`.
    lengths : function
        Of x, q(z | x) and z: what each x costs by its z, less what the z returns, (N,), in units of 2^-16 bits.
    costs : Costs
        Gains what z and the numbers cost, and what they take from the message, less what goes back at once.
    """

    def resampled(x: Any) -> Codec:
        given = posterior(x)
        return _resampled(shape, given, lambda z: lengths(x, given, z), costs)

    return bits_back(_numbered(shape, prior, costs), lambda drawn: likelihood(drawn.z), resampled)


def _numbered(shape: tuple[int, int], prior: Codec, costs: Costs) -> Codec:
    """`Drawn`: z under its prior, and a number, of which each is as likely."""
    count, particles = shape
    edges = (np.arange(particles + 1, dtype=np.int64) << cdf.PRECISION) // particles
    numbers = categorical(np.broadcast_to(edges, (count, particles + 1)))

    def push(message: Message, drawn: Drawn) -> None:
        prior.push(message, drawn.z)
        numbers.push(message, drawn.number)
        costs.z_prior += count * float(np.log2(particles))

    def pop(message: Message) -> Drawn:
        number = numbers.pop(message)
        return Drawn(number, prior.pop(message))

    return Codec(push, pop)


def _resampled(
    shape: tuple[int, int], given: Gaussians, lengths: Callable[[latent.Z], NDArray[np.int64]], costs: Costs
) -> Codec:
    """`Drawn` under q(z | x): all draws taken from the message, one of them chosen, the others returned."""
    count, particles = shape
    rows = np.arange(count)
    taken, returned = Costs(), Costs()

    def draws(number: int, costs: Costs) -> Codec:
        return latent.gaussians(Gaussians(*(np.repeat(part[:, None], number, 1) for part in given)), costs)

    all_draws, others = draws(particles, taken), draws(particles - 1, returned)

    def edges(z: latent.Z) -> NDArray[np.int64]:
        return edges_of(np.stack([lengths(z[:, k]) for k in range(particles)], 1))

    def are_others(number: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.arange(particles) != number[:, None]

    def push(message: Message, drawn: Drawn) -> None:
        z = np.empty((count, particles, *drawn.z.shape[1:]), np.int64)
        z[are_others(drawn.number)] = others.pop(message).reshape(-1, *drawn.z.shape[1:])
        z[rows, drawn.number] = drawn.z
        categorical(edges(z)).push(message, drawn.number)
        all_draws.push(message, z)

    def pop(message: Message) -> Drawn:
        z = all_draws.pop(message)
        chances = edges(z)
        number = categorical(chances).pop(message)
        others.push(message, z[are_others(number)].reshape(count, particles - 1, *z.shape[2:]))
        freqs = chances[rows, number + 1] - chances[rows, number]
        costs.z_posterior += float((cdf.PRECISION - np.log2(freqs)).sum()) + taken.z_posterior - returned.z_posterior
        return Drawn(number, z[rows, number])

    return Codec(push, pop)
