"""Codecs: pairs of push and pop on an ANS message, and ways to combine them.

``pop`` undoes ``push`` exactly: it returns the symbols and leaves the message as it was before. A codec for a
vector longer than the message's lanes codes it in chunks, symbol k with lane k mod lanes, the first chunk on top.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlae_codec.errors import EmptyMessage

from . import cdf
from .ans import Message

Array = NDArray[np.int64]
#: From how many symbols lie below, for the elements of a part of the vector, to cumulative frequencies.
Cdf = Callable[[Array, slice], Array]


@dataclass(frozen=True)
class Codec:
    """A pair of functions; ``push(message, symbols)`` and ``pop(message) -> symbols`` are each other's inverse."""

    push: Callable[[Message, Any], None]
    pop: Callable[[Message], Any]


def from_cdf(cumulative: Cdf, count: int, size: int, precision: int = cdf.PRECISION) -> Codec:
    """A codec of ``size`` symbols 0..count-1 from their cumulative distribution, which is searched on pop.

    Parameters
    ----------
    cumulative : function
        From j, int64 in 0..count, of the vector's elements in a slice, to c(j): non-decreasing, 0 at 0 and
        2^precision at ``count``. Every symbol that is pushed needs c(j) < c(j + 1).
    """

    def push(message: Message, symbols: ArrayLike) -> None:
        index = np.asarray(symbols)
        if (
            index.shape != (size,)
            or index.dtype.kind not in "iu"
            or (size and not 0 <= index.min() <= index.max() < count)
        ):
            raise ValueError(
                f"symbols of shape {index.shape}, dtype {index.dtype}; expected {size} integers in 0..{count - 1}"
            )
        index = index.astype(np.int64)
        for begin in reversed(range(0, size, message.lanes)):
            part = slice(begin, min(begin + message.lanes, size))
            starts = cumulative(index[part], part)
            message.push(starts, cumulative(index[part] + 1, part) - starts, precision)

    def pop(message: Message) -> Array:
        symbols = np.empty(size, np.int64)
        for begin in range(0, size, message.lanes):
            part = slice(begin, min(begin + message.lanes, size))
            cf, commit = message.pop(precision, part.stop - begin)
            low, high = np.zeros(cf.size, np.int64), np.full(cf.size, count, np.int64)
            while (high - low > 1).any():
                middle = (low + high) >> 1
                below = cumulative(middle, part) <= cf.astype(np.int64)
                low, high = np.where(below, middle, low), np.where(below, high, middle)
            starts = cumulative(low, part)
            commit(starts, cumulative(low + 1, part) - starts)
            symbols[part] = low
        return symbols

    return Codec(push, pop)


def uniform(count: int, size: int) -> Codec:
    """``size`` symbols, each of 0..count-1 equally likely; ``count`` up to 2^24."""
    if not 1 <= count <= 1 << cdf.PRECISION:
        raise ValueError(f"count {count}, expected 1..2^{cdf.PRECISION}")
    return from_cdf(lambda j, part: (j << cdf.PRECISION) // count, count, size)


def categorical(freqs: ArrayLike, size: int) -> Codec:
    """``size`` symbols with the given integer frequencies, which sum to 2^24."""
    table = np.concatenate([[0], np.cumsum(np.asarray(freqs, np.int64))])
    if table[-1] != 1 << cdf.PRECISION or (np.diff(table) < 0).any():
        raise ValueError(f"frequencies sum to {table[-1]}, expected 2^{cdf.PRECISION} and none negative")
    return from_cdf(lambda j, part: table[j], len(table) - 1, size)


def bernoulli(ones: ArrayLike) -> Codec:
    """Bits with the given frequencies of one, shape (size,), each in 1..2^24-1."""
    one = np.asarray(ones, np.int64)
    total = 1 << cdf.PRECISION
    if ((one < 1) | (one >= total)).any():
        raise ValueError(f"frequencies in {one.min()}..{one.max()}, expected 1..{total - 1}")
    return from_cdf(lambda j, part: np.where(j == 0, 0, np.where(j == 1, total - one[part], total)), 2, one.size)


def logistic_mixture(values: Array, logits: Array, means: Array, scales: Array) -> Codec:
    """Indices into the values that occur, under mixtures of discretized logistics; see `cdf.logistic_mixture_cdf`."""
    count = len(values)
    return from_cdf(
        lambda j, part: cdf.logistic_mixture_cdf(j, count, values, logits[part], means[part], scales[part]),
        count,
        len(logits),
    )


def gaussian_bins(mean: Array, scale: Array) -> Codec:
    """Indices on the grid of z, counted from its lowest, under Gaussians; see `cdf.gaussian_cdf`."""
    return from_cdf(lambda j, part: cdf.gaussian_cdf(j, mean[part], scale[part]), cdf.Z_COUNT, mean.size)


def serial(codecs: Sequence[Codec]) -> Codec:
    """One codec after the other; symbols are a sequence with one entry for each. The first is popped first."""

    def push(message: Message, symbols: Sequence[Any]) -> None:
        for codec, symbol in reversed(list(zip(codecs, symbols, strict=True))):
            codec.push(message, symbol)

    def pop(message: Message) -> list[Any]:
        return [codec.pop(message) for codec in codecs]

    return Codec(push, pop)


def substack(codec: Codec, lanes: slice) -> Codec:
    """The codec on some of the message's lanes; the words are shared."""

    def on_part(message: Message, action: Callable[[Message], Any]) -> Any:
        part = Message(len(message.heads[lanes]))
        part.heads, part.words, part.size = message.heads[lanes].copy(), message.words, message.size
        result = action(part)
        message.heads[lanes] = part.heads
        message.words, message.size = part.words, part.size
        return result

    def push(message: Message, symbols: Any) -> None:
        on_part(message, lambda part: codec.push(part, symbols))

    def pop(message: Message) -> Any:
        return on_part(message, codec.pop)

    return Codec(push, pop)


def bits_back(prior: Codec, likelihood: Callable[[Any], Codec], posterior: Callable[[Any], Codec]) -> Codec:
    """Bits-back coding (Townsend et al. 2019): x costs what the ELBO says, as z is drawn from bits already there.

    Parameters
    ----------
    prior : Codec
        Of z.
    likelihood : function
        From z to the codec of x.
    posterior : function
        From x to the codec of z. It must pop something, so the message must hold enough: `EmptyMessage` otherwise.
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


def from_craystack(codec: Any) -> Codec:
    """One of craystack's codecs (version 0.2) on our message.

    craystack's message is a pair of heads and a nested tail of arrays, its push returns a tuple that begins with the
    message, and its pop the message and the symbol. Where it would warn and make up random bits, this raises
    `EmptyMessage`.
    """

    def unpacked(message: Message) -> tuple[Any, Any]:
        tail = (message.words[: message.size][::-1].copy(), ()) if message.size else ()
        return message.heads.reshape(message.shape).copy(), tail

    def repack(message: Message, theirs: tuple[Any, Any]) -> None:
        heads, tail = theirs
        chunks = []
        while tail:
            chunk, tail = tail
            chunks.append(chunk)
        words = np.concatenate(chunks).astype(np.uint32) if chunks else np.empty(0, np.uint32)
        message.heads = np.asarray(heads, np.uint64).ravel()
        message.words, message.size = words[::-1].copy(), len(words)

    def push(message: Message, symbols: Any) -> None:
        repack(message, codec.push(unpacked(message), symbols)[0])

    def pop(message: Message) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Popping from empty message")
            try:
                theirs, symbols = codec.pop(unpacked(message))
            except UserWarning:
                raise EmptyMessage(f"a codec popped more than the {message.size} words of the message") from None
        repack(message, theirs)
        return symbols

    return Codec(push, pop)
