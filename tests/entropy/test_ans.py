from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlae_codec.entropy.ans import HEAD_MIN, Message, Messages
from vlae_codec.errors import CorruptFile, EmptyMessage

VECTORS = np.load(Path(__file__).parent.parent / "data" / "craystack_rans.npz")
CASES = sorted({name.split("/")[0] for name in VECTORS.files}, key=int)


@pytest.mark.parametrize("case", CASES)
def test_words_equal_craystack(case: str) -> None:
    shape, head, precision = (VECTORS[f"{case}/{key}"] for key in ("shape", "head0", "precision"))
    starts, freqs, cfs = (VECTORS[f"{case}/{key}"] for key in ("starts", "freqs", "pop_cf"))
    message = Message(tuple(int(n) for n in shape))
    message.heads = head.ravel().copy()
    for start, freq in zip(starts, freqs, strict=True):
        message.push(start, freq, int(precision))
    assert np.array_equal(message.flatten(), VECTORS[f"{case}/flat"])
    again = Message.unflatten(VECTORS[f"{case}/flat"], message.shape)
    order = list(range(len(starts)))[::-1]
    for k in order:
        cf, commit = again.pop(int(precision))
        expected = cfs[k].ravel()
        if not np.array_equal(cf, expected):
            # The vectors hold what was popped in the order of popping.
            expected = cfs[len(starts) - 1 - k].ravel()
        assert np.array_equal(cf, expected)
        commit(starts[k], freqs[k])
    assert np.array_equal(again.heads, head.ravel())
    assert again.size == 0


@given(st.integers(1, 9), st.integers(1, 31), st.lists(st.integers(0, 2**32), max_size=40), st.randoms())
def test_pop_undoes_push(lanes: int, precision: int, seeds: list[int], random) -> None:
    message = Message(lanes)
    pushed = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, lanes + 1))
        starts = rng.integers(0, 1 << precision, count)
        freqs = rng.integers(1, (1 << precision) - starts + 1)
        message.push(starts, freqs, precision)
        pushed.append((starts, freqs))
    assert (message.heads >= HEAD_MIN).all()
    message = Message.unflatten(message.flatten(), lanes)
    for starts, freqs in pushed[::-1]:
        cf, commit = message.pop(precision, len(starts))
        assert ((starts <= cf) & (cf < starts + freqs)).all()
        commit(starts, freqs)
    assert message.empty


def test_an_empty_message_gives_nothing() -> None:
    message = Message(3)
    cf, commit = message.pop(24)
    with pytest.raises(EmptyMessage, match="3 words popped from a message that holds 0"):
        commit(cf, 1)
    assert message.empty


@pytest.mark.parametrize(
    ("starts", "freqs"), [([0], [0]), ([5], [4]), ([-1], [2]), ([0.5], [1]), ([0, 0, 0], [1, 1, 1]), ([0, 0], [1])]
)
def test_push_refuses_intervals_that_are_none(starts: list, freqs: list) -> None:
    with pytest.raises(ValueError, match=r"interval|integers"):
        Message(2).push(starts, freqs, 3)


def test_unflatten_refuses_what_is_no_message() -> None:
    with pytest.raises(CorruptFile, match="at least 4"):
        Message.unflatten(np.zeros(3, np.uint32), 2)
    with pytest.raises(CorruptFile, match="head outside"):
        Message.unflatten(np.zeros(4, np.uint32), 2)
    with pytest.raises(CorruptFile, match="head outside"):
        Message.unflatten(np.full(4, 2**32 - 1, np.uint32), 2)


def test_size_is_the_information_in_it() -> None:
    message = Message(4)
    for _ in range(1000):
        message.push([7, 7, 7, 7], [1, 1, 1, 1], 6)
    assert message.bits() == pytest.approx(4 * 6 * 1000, rel=1e-3)


def test_several_messages_are_read_as_written() -> None:
    messages = Messages(3, 2)
    assert messages.empty
    messages.reserve(np.array([5, 0, 2]))
    heads, words, begins, sizes = messages.stacks
    heads[:] = HEAD_MIN + np.arange(6, dtype=np.uint64).reshape(3, 2)
    words[begins[0] : begins[0] + 5] = [1, 2, 3, 4, 5]
    words[begins[2] : begins[2] + 2] = [6, 7]
    sizes[:] = 5, 0, 2
    messages.reserve(np.array([1, 9, 0]))
    assert messages.lengths == [9, 4, 6]
    flat = messages.flatten()
    each = [Message.unflatten(part, 2) for part in np.split(flat, [9, 13])]
    assert [one.words.tolist() for one in each] == [[1, 2, 3, 4, 5], [], [6, 7]]
    again = Messages.unflatten(flat, 2, messages.lengths[:-1])
    assert again.lengths == messages.lengths
    assert np.array_equal(again.flatten(), flat)
    assert not again.empty
    for lengths in ([9, 3], [9, 7], [20, 4], [9, 4, 6]):
        with pytest.raises(CorruptFile, match=r"expected at least|head outside"):
            Messages.unflatten(flat, 2, lengths)
