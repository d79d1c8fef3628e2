"""What tests of codecs share: the one check, and codecs by numpy that the compiled loops are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import Message
from vlae_codec.entropy.codecs import Codec


def filled(lanes: int, words: int = 200, seed: int = 0) -> Message:
    """A message with bits to spare."""
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, 1 << 32, 2 * lanes + words, np.uint32)
    flat[:lanes] = rng.integers(1, 1 << 31, lanes)
    return Message.unflatten(flat, lanes)


def check_codec(codec: Codec, symbols: Any, lanes: int = 4) -> Message:
    """Assert that pop returns what was pushed and restores the message, word for word; returns the pushed one."""
    message = filled(lanes)
    before = message.flatten()
    codec.push(message, symbols)
    pushed = message.copy()
    assert np.array_equal(codec.pop(message), symbols)
    assert np.array_equal(message.flatten(), before)
    return pushed


def from_cdf(cumulative: Callable[[np.ndarray, slice], np.ndarray], count: int, size: int) -> Codec:
    """A codec of ``size`` symbols 0..count-1 by `Message.push` and `Message.pop`, which craystack's words pin.

    ``cumulative`` gives c(j) of the vector's elements in a slice. Symbol k lies in lane k mod lanes, the first on top.
    """

    def push(message: Message, symbols: np.ndarray) -> None:
        for begin in reversed(range(0, size, message.lanes)):
            part = slice(begin, min(begin + message.lanes, size))
            starts = cumulative(symbols[part], part)
            message.push(starts, cumulative(symbols[part] + 1, part) - starts, cdf.PRECISION)

    def pop(message: Message) -> np.ndarray:
        symbols = np.empty(size, np.int64)
        for begin in range(0, size, message.lanes):
            part = slice(begin, min(begin + message.lanes, size))
            cf, commit = message.pop(cdf.PRECISION, part.stop - begin)
            table = np.stack([cumulative(np.full(cf.size, j), part) for j in range(count + 1)])
            symbols[part] = (table <= cf.astype(np.int64)).sum(0) - 1
            commit(starts := cumulative(symbols[part], part), cumulative(symbols[part] + 1, part) - starts)
        return symbols

    return Codec(push, pop)


def bernoulli(ones: np.ndarray) -> Codec:
    """Bits with the given frequencies of one."""
    total = 1 << cdf.PRECISION
    return from_cdf(lambda j, part: np.where(j == 0, 0, np.where(j == 1, total - ones[part], total)), 2, ones.size)


def categorical(freqs: np.ndarray, size: int = 1) -> Codec:
    """Symbols with the given frequencies."""
    table = np.concatenate([[0], np.cumsum(freqs)])
    return from_cdf(lambda j, part: table[j], len(freqs), size)
