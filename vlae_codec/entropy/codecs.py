"""Codecs: pairs of push and pop on an ANS message, and bits-back coding, which makes one out of three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import cdf
from .ans import Message


@dataclass(frozen=True)
class Codec:
    """A pair of functions; ``push(message, symbols)`` and ``pop(message) -> symbols`` are each other's inverse.

    ``pop`` returns what was pushed and leaves the message as it was before, word for word. The message is a `Message`,
    or `Messages` for a codec that takes those.
    """

    push: Callable[[Any, Any], None]
    pop: Callable[[Any], Any]


def bits_back(prior: Codec, likelihood: Callable[[Any], Codec], posterior: Callable[[Any], Codec]) -> Codec:
    """Bits-back coding (Townsend et al. 2019): x costs what the ELBO says, as z is drawn from bits already there.

    Parameters
    ----------
    prior : Codec
        Of z.
    likelihood : function
        From z to the codec of x.
    posterior : function
        From x to the codec of z. A push pops from it, so the message must hold enough: `EmptyMessage` otherwise.
    """

    def push(message: Message, x: Any) -> None:
        z = posterior(x).pop(message)
        likelihood(z).push(message, x)
        prior.push(message, z)

    def pop(message: Message) -> Any:
        z = prior.pop(message)
        x = likelihood(z).pop(message)
        posterior(x).push(message, z)
        return x

    return Codec(push, pop)


def categorical(edges: NDArray[np.int64]) -> Codec:
    """Symbols (N,), each below K, number k with lane k mod lanes; the first ends on top.

    Parameters
    ----------
    edges : array of int64, shape (N, K + 1)
        Cumulative frequencies below each symbol of each place, from 0 to 2^24.
    """
    places = np.arange(len(edges))

    def parts(message: Message) -> list[NDArray[np.int64]]:
        return np.split(places, range(message.lanes, len(places), message.lanes))

    def push(message: Message, symbols: NDArray[np.int64]) -> None:
        for part in reversed(parts(message)):
            starts, stops = edges[part, symbols[part]], edges[part, symbols[part] + 1]
            message.push(starts, stops - starts, cdf.PRECISION)

    def pop(message: Message) -> NDArray[np.int64]:
        symbols = np.empty(len(edges), np.int64)
        for part in parts(message):
            found, commit = message.pop(cdf.PRECISION, len(part))
            symbols[part] = (edges[part] <= found[:, None].astype(np.int64)).sum(1) - 1
            starts, stops = edges[part, symbols[part]], edges[part, symbols[part] + 1]
            commit(starts, stops - starts)
        return symbols

    return Codec(push, pop)


class Gaussians(NamedTuple):
    """Gaussians in bins of z's grid, in the units of `cdf.gaussian_cdf`: int64 arrays of one shape."""

    mean: NDArray[np.int64]
    #: Index of the standard deviation.
    scale: NDArray[np.int64]

    def nearest(self) -> NDArray[np.int64]:
        """The grid's values nearest to the means."""
        nearest = (self.mean + cdf.Z_MEAN_STEPS // 2) // cdf.Z_MEAN_STEPS
        return nearest.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def std(self) -> NDArray[np.float64]:
        """Standard deviations in steps of the grid."""
        return np.exp(cdf.Z_SCALE_LOWEST + self.scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS


class Intervals(NamedTuple):
    """Intervals [start, start + freq) of [0, 2^24), one for each symbol: integer arrays of one shape."""

    starts: NDArray[Any]
    freqs: NDArray[Any]

    def bits(self) -> float:
        """Ideal code length of all of them."""
        return float(cdf.PRECISION * self.freqs.size - np.log2(self.freqs, dtype=np.float64).sum())
