"""The ANS message: lanes (heads) and a stack of words, word for word that of craystack; and several side by side.

Range asymmetric numeral systems (Duda 2013), vectorised over lanes (Giesen 2014). Each head is an integer in
[2^31, 2^63). A push that would make a head too large first moves its low 32 bits onto the stack; a pop that leaves a
head below 2^31 takes 32 bits back. Within one vector the first lane's word is on top, so pushing lanes one by one in
reverse order, and popping them in order, gives the same words as the vector does: `kernels` relies on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlae_codec.errors import CorruptFile, EmptyMessage

#: Smallest value of a head.
HEAD_MIN = 1 << 31
#: Largest supported precision: a head of 2^31 must still tell all its symbols apart.
MAX_PRECISION = 31

Words = NDArray[np.uint32]
Integers = NDArray[np.uint64]


class Stack(NamedTuple):
    """A message's arrays as compiled loops take them, and change them in place: heads, words, and the size, (1,)."""

    heads: Integers
    words: Words
    size: NDArray[np.int64]


class Stacks(NamedTuple):
    """The same of M messages: heads (M, L), all words, where each message's words begin, and how many it has, (M,)."""

    heads: Integers
    words: Words
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Message:
    """A stack of symbols, coded over a number of lanes.

    Parameters
    ----------
    shape : tuple of int
        Shape of the heads. A push or pop codes one symbol per head, or per leading part of them if its arrays are
        smaller (the flat heads' first ``n``).

    Attributes
    ----------
    heads : array of uint64, flat
        The lanes, each in [2^31, 2^63).

    Examples
    --------
    >>> message = Message(4)
    >>> message.push([1, 2, 3, 0], [1, 1, 1, 1], 2)
    >>> cf, commit = message.pop(2)
    >>> commit(cf, 1)
    >>> cf.tolist()
    [1, 2, 3, 0]
    """

    def __init__(self, shape: int | tuple[int, ...] = 1) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.heads: Integers = np.full(int(np.prod(self.shape)), HEAD_MIN, np.uint64)
        # The stack's top is at the end, so that it grows without a copy; `reserve` doubles it as needed.
        self.words: Words = np.empty(64, np.uint32)
        self._size = np.zeros(1, np.int64)

    @property
    def size(self) -> int:
        """How many words are on the stack."""
        return int(self._size[0])

    @size.setter
    def size(self, count: int) -> None:
        self._size[0] = count

    @property
    def stack(self) -> Stack:
        """The arrays themselves; `reserve` replaces them."""
        return Stack(self.heads, self.words, self._size)

    @property
    def stacks(self) -> Stacks:
        """The arrays as those of one of several messages; `reserve` replaces them."""
        return Stacks(self.heads[None], self.words, np.zeros(1, np.int64), self._size)

    @property
    def lanes(self) -> int:
        """Number of heads."""
        return len(self.heads)

    @property
    def lengths(self) -> list[int]:
        """How many words `flatten` gives, as of several messages."""
        return [2 * self.lanes + self.size]

    @property
    def empty(self) -> bool:
        """True when nothing is left that was pushed."""
        return self.size == 0 and bool((self.heads == HEAD_MIN).all())

    def bits(self) -> float:
        """What the message holds, in bits: 32 for each word, and the logarithm of each head above its minimum."""
        return 32.0 * self.size + float(np.log2(self.heads.astype(np.float64) / HEAD_MIN).sum())

    def copy(self) -> Message:
        """An independent copy."""
        other = Message(self.shape)
        other.heads = self.heads.copy()
        other.words = self.words[: self.size].copy()
        other.size = self.size
        return other

    def reserve(self, count: int) -> None:
        """Make room for so many more words."""
        needed = self.size + count
        if needed > len(self.words):
            grown = np.empty(max(needed, len(self.words) * 3 // 2), np.uint32)
            grown[: self.size] = self.words[: self.size]
            self.words = grown

    def _flat(self, values: ArrayLike, count: int | None = None) -> Integers:
        array = np.asarray(values)
        array = np.full(count or 1, array) if array.ndim == 0 else array.ravel()
        if array.dtype.kind not in "iu" or array.size > self.lanes or (array.size and int(array.min()) < 0):
            raise ValueError(
                f"{array.size} values of dtype {array.dtype}, expected at most {self.lanes} non-negative integers"
            )
        return array.astype(np.uint64)

    def push(self, starts: ArrayLike, freqs: ArrayLike, precision: int) -> None:
        """Push one symbol per lane, given its interval [start, start + freq) of [0, 2^precision).

        Raises ``ValueError`` for an interval that is empty or not inside.
        """
        starts_ = np.asarray(starts)
        start = self._flat(starts_)
        freq = self._flat(freqs, start.size)
        if not 1 <= precision <= MAX_PRECISION:
            raise ValueError(f"precision {precision}, expected 1..{MAX_PRECISION}")
        if freq.size != start.size or (freq < 1).any() or (start + freq > (1 << precision)).any():
            raise ValueError(f"an interval is empty or not inside [0, 2^{precision})")
        head = self.heads[: start.size]
        over = head >= freq << np.uint64(63 - precision)
        out = head[over].astype(np.uint32)
        self.reserve(out.size)
        self.words[self.size : self.size + out.size] = out[::-1]
        self.size += out.size
        head = np.where(over, head >> np.uint64(32), head)
        self.heads[: start.size] = ((head // freq) << np.uint64(precision)) + head % freq + start

    def pop(self, precision: int, count: int | None = None) -> tuple[Integers, Callable[[ArrayLike, ArrayLike], None]]:
        """Look at the top symbol of the first ``count`` lanes (default all).

        Returns
        -------
        The cumulative frequencies, uint64 in [0, 2^precision), and a function that, given the starts and freqs of
        the symbols found there, removes them. It raises `EmptyMessage` when the stack has too few words.
        """
        head = self.heads[: self.lanes if count is None else count].copy()
        cf = head & np.uint64((1 << precision) - 1)

        def commit(starts: ArrayLike, freqs: ArrayLike) -> None:
            start = self._flat(starts, head.size)
            freq = self._flat(freqs, head.size)
            new = freq * (head >> np.uint64(precision)) + cf - start
            under = new < HEAD_MIN
            wanted = int(under.sum())
            if wanted > self.size:
                raise EmptyMessage(f"{wanted} words popped from a message that holds {self.size}")
            taken = self.words[self.size - wanted : self.size][::-1].astype(np.uint64)
            self.size -= wanted
            new[under] = (new[under] << np.uint64(32)) | taken
            self.heads[: head.size] = new

        return cf, commit

    def flatten(self) -> Words:
        """The message as words: the heads' upper halves, their lower halves, then the stack from its top."""
        return np.concatenate(
            [
                (self.heads >> np.uint64(32)).astype(np.uint32),
                self.heads.astype(np.uint32),
                self.words[: self.size][::-1],
            ]
        )

    @classmethod
    def unflatten(cls, words: Words, shape: int | tuple[int, ...]) -> Message:
        """The inverse of `flatten`; `CorruptFile` for too few words or a head out of range.

        The words may be a view of a file, of either byte order: they are copied once, as pops of z write to them.
        """
        message, words = cls(shape), np.asarray(words)
        lanes = message.lanes
        if len(words) < 2 * lanes:
            raise CorruptFile(f"ANS message of {len(words)} words, expected at least {2 * lanes} for {lanes} lanes")
        wide = words[: 2 * lanes].astype(np.uint64)
        message.heads = (wide[:lanes] << np.uint64(32)) | wide[lanes:]
        if (message.heads < HEAD_MIN).any() or (message.heads >> np.uint64(63)).any():
            raise CorruptFile("ANS message with a head outside [2^31, 2^63)")
        message.words = words[: 2 * lanes - 1 : -1].astype(np.uint32)
        message.size = len(message.words)
        return message


class Messages:
    """Several messages of as many lanes each, which compiled loops push to and pop from in parallel.

    Attributes
    ----------
    stacks : Stacks
        The arrays, changed in place; `reserve` replaces them.
    """

    def __init__(self, count: int, lanes: int) -> None:
        none = np.zeros(count, np.int64)
        self.stacks = Stacks(np.full((count, lanes), HEAD_MIN, np.uint64), np.empty(0, np.uint32), none, none.copy())

    @property
    def lanes(self) -> int:
        """Number of heads of each."""
        return self.stacks.heads.shape[1]

    @property
    def lengths(self) -> list[int]:
        """How many words each has in what `flatten` gives."""
        return [2 * self.lanes + int(size) for size in self.stacks.sizes]

    @property
    def empty(self) -> bool:
        """True when nothing is left that was pushed."""
        return not self.stacks.sizes.any() and bool((self.stacks.heads == HEAD_MIN).all())

    def reserve(self, counts: NDArray[np.int64]) -> None:
        """Make room for so many more words of each."""
        heads, words, begins, sizes = self.stacks
        ends = np.cumsum(sizes + counts)
        grown, moved = np.empty(int(ends[-1]), np.uint32), np.concatenate([[0], ends[:-1]])
        for begin, new, size in zip(begins, moved, sizes, strict=True):
            grown[new : new + size] = words[begin : begin + size]
        self.stacks = Stacks(heads, grown, moved, sizes)

    def flatten(self) -> Words:
        """The messages' words, each as `Message.flatten` has them."""
        heads, words, begins, sizes = self.stacks
        return np.concatenate([
            part
            for own, begin, size in zip(heads, begins, sizes, strict=True)
            for part in ((own >> np.uint64(32)).astype(np.uint32), own.astype(np.uint32),
                         words[begin : begin + size][::-1])
        ])  # fmt: skip

    @classmethod
    def unflatten(cls, words: Words, lanes: int, lengths: list[int]) -> Messages:
        """The inverse of `flatten`; ``lengths`` are those of all but the last. Raises as `Message.unflatten` does."""
        ends = [0, *itertools.accumulate(lengths), len(words)]
        messages = cls(len(ends) - 1, lanes)
        each = [Message.unflatten(words[begin:end], lanes) for begin, end in itertools.pairwise(ends)]
        messages.reserve(np.array([message.size for message in each], np.int64))
        stacks = messages.stacks
        for m, message in enumerate(each):
            stacks.heads[m] = message.heads
            stacks.words[stacks.begins[m] :][: message.size] = message.words
            stacks.sizes[m] = message.size
        return messages


def random_message(seed: int, words: int) -> Message:
    """A message of random words: what is popped from it is a sample of the distribution that it is popped under."""
    rng = np.random.Generator(np.random.PCG64(seed))
    message = Message(1)
    message.words = rng.integers(0, 1 << 32, words, np.uint32)
    message.size = words
    message.heads[0] = np.uint64(rng.integers(1 << 31, 1 << 63, dtype=np.int64))
    return message
