from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlae_codec.entropy import cdf, codecs, kernels
from vlae_codec.entropy.ans import Message
from vlae_codec.entropy.codecs import Codec
from vlae_codec.errors import EmptyMessage

TOTAL = 1 << cdf.PRECISION


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
    popped = codec.pop(message)
    for got, expected in zip(np.atleast_1d(popped), np.atleast_1d(symbols), strict=True):
        assert np.array_equal(got, expected)
    assert np.array_equal(message.flatten(), before)
    return pushed


seeds = st.integers(0, 2**32)
lane_counts = st.integers(1, 20)


@given(seeds, lane_counts, st.integers(1, TOTAL), st.integers(0, 50))
def test_uniform(seed: int, lanes: int, count: int, size: int) -> None:
    symbols = np.random.default_rng(seed).integers(0, count, size)
    check_codec(codecs.uniform(count, size), symbols, lanes)


@given(seeds, lane_counts, st.integers(2, 30), st.integers(1, 50))
def test_categorical(seed: int, lanes: int, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(TOTAL - 1, count - 1, replace=False) + 1)
    freqs = np.diff(np.concatenate([[0], cuts, [TOTAL]]))
    check_codec(codecs.categorical(freqs, size), rng.integers(0, count, size), lanes)


@given(seeds, lane_counts, st.integers(1, 50))
def test_bernoulli(seed: int, lanes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    ones = np.clip((TOTAL * rng.random(size) ** 8).astype(np.int64), 1, TOTAL - 1)
    check_codec(codecs.bernoulli(ones), rng.integers(0, 2, size), lanes)


def mixture(seed: int, size: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values that occur, and parameters of mixtures, extreme ones among them."""
    rng = np.random.default_rng(seed)
    values = np.flatnonzero(rng.random(256) < rng.random() + 0.01)
    values = values if len(values) else np.array([seed % 256])
    logits = rng.integers(-4096, 4096, (size, k)) >> rng.integers(0, 12)
    means = rng.integers(-20000, 40000, (size, k))
    scales = rng.integers(0, cdf.SCALE_COUNT, (size, k))
    return values, logits, means, scales


@given(seeds, lane_counts, st.integers(1, 20), st.integers(1, 6))
def test_logistic_mixture(seed: int, lanes: int, size: int, k: int) -> None:
    values, logits, means, scales = mixture(seed, size, k)
    symbols = np.random.default_rng(seed).integers(0, len(values), size)
    check_codec(codecs.logistic_mixture(values, logits, means, scales), symbols, lanes)


@given(seeds, st.integers(1, 6))
def test_mixture_cdf_grows_from_nothing_to_all(seed: int, k: int) -> None:
    values, logits, means, scales = mixture(seed, 3, k)
    count = len(values)
    table = np.stack(
        [cdf.logistic_mixture_cdf(np.full(3, j), count, values, logits, means, scales) for j in range(count + 1)]
    )
    assert (table[0] == 0).all()
    assert (table[-1] == TOTAL).all()
    assert (np.diff(table, axis=0) >= 1).all()


def test_mixture_probabilities_are_those_of_logistics() -> None:
    rng = np.random.default_rng(0)
    k, count = 3, 256
    values = np.arange(256)
    logits = rng.integers(-60, 60, (1, k))
    means = rng.integers(40, 200, (1, k)) * cdf.MEAN_STEPS
    scales = rng.integers(60, 200, (1, k))
    edges = np.arange(count + 1)
    got = [cdf.logistic_mixture_cdf(np.array([j]), count, values, logits, means, scales)[0] for j in edges]
    weights = np.exp(logits[0] / cdf.LOGIT_STEPS)
    scale = np.exp(cdf.SCALE_LOWEST + scales[0] / cdf.SCALE_STEPS)
    argument = (edges[:, None] - 0.5 - means[0] / cdf.MEAN_STEPS) / scale
    exact = (weights / weights.sum() / (1 + np.exp(-argument))).sum(1)
    exact[0], exact[-1] = 0, 1
    assert np.abs(np.array(got) / TOTAL - exact).max() < 3e-5


@given(seeds, lane_counts, st.integers(1, 60))
def test_gaussian_bins(seed: int, lanes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mean = rng.integers(-1792, 1793, size)
    scale = rng.integers(0, cdf.Z_SCALE_COUNT, size)
    symbols = rng.integers(0, cdf.Z_COUNT, size)
    pushed = check_codec(codecs.gaussian_bins(mean, scale), symbols, lanes)
    # The compiled loops give the same words.
    message = filled(lanes)
    message.reserve(size)
    bits = np.zeros(1)
    message.size = kernels.push_gaussians(message.heads, message.words, message.size, symbols, mean, scale, bits)
    assert np.array_equal(message.flatten(), pushed.flatten())
    popped = np.empty(size, np.int64)
    message.size = kernels.pop_gaussians(message.heads, message.words, message.size, popped, mean, scale, bits)
    assert np.array_equal(popped, symbols)
    assert np.array_equal(message.flatten(), filled(lanes).flatten())


def test_serial_and_substack() -> None:
    first, second = codecs.uniform(10, 3), codecs.bernoulli(np.full(5, TOTAL // 3))
    symbols = [np.array([1, 2, 9]), np.array([0, 1, 1, 0, 1])]
    message = filled(6)
    before = message.flatten()
    both = codecs.serial([codecs.substack(first, slice(0, 2)), codecs.substack(second, slice(2, 6))])
    both.push(message, symbols)
    popped = both.pop(message)
    assert all(np.array_equal(a, b) for a, b in zip(popped, symbols, strict=True))
    assert np.array_equal(message.flatten(), before)


def test_substack_leaves_other_lanes_alone() -> None:
    message = filled(6)
    others = message.heads[3:].copy()
    codecs.substack(codecs.uniform(1000, 3), slice(0, 3)).push(message, np.array([1, 2, 3]))
    assert np.array_equal(message.heads[3:], others)


def bits_back_codec() -> Codec:
    """x of 40 bits whose chance of one is z / 17, with z of 0..15 told roughly by how many ones there are."""

    def likelihood(z: np.ndarray) -> Codec:
        return codecs.bernoulli(np.full(40, (int(z[0]) + 1) * TOTAL // 17))

    def posterior(x: np.ndarray) -> Codec:
        weights = np.exp(-0.5 * (np.arange(16) - 16 * x.mean()) ** 2) + 1e-4
        freqs = np.maximum((weights / weights.sum() * (TOTAL - 16)).astype(np.int64), 1)
        freqs[0] += TOTAL - freqs.sum()
        return codecs.categorical(freqs, 1)

    return codecs.bits_back(codecs.uniform(16, 1), likelihood, posterior)


@given(seeds)
def test_bits_back(seed: int) -> None:
    x = (np.random.default_rng(seed).random(40) < 0.3).astype(np.int64)
    check_codec(bits_back_codec(), x)


def test_bits_back_needs_something_to_draw_from() -> None:
    with pytest.raises(EmptyMessage):
        bits_back_codec().push(Message(4), np.zeros(40, np.int64))


@pytest.mark.parametrize("symbols", [[-1], [7], [0.5], [1, 2]])
def test_symbols_outside_are_refused(symbols: list) -> None:
    with pytest.raises(ValueError, match="expected 1 integers in 0..6"):
        codecs.uniform(7, 1).push(filled(2), symbols)


def test_frequencies_must_make_a_distribution() -> None:
    with pytest.raises(ValueError, match="sum to 3"):
        codecs.categorical([1, 2], 1)
    with pytest.raises(ValueError, match="expected 1..16777215"):
        codecs.bernoulli([0])
    with pytest.raises(ValueError, match="count 0"):
        codecs.uniform(0, 1)


def test_craystack_codecs_run_on_our_message() -> None:
    craystack = pytest.importorskip("craystack", reason="craystack is on no package index; install it from its source")
    p = np.array([0.1, 0.7, 0.9])
    codec = codecs.from_craystack(craystack.Bernoulli(p, 16))
    message = filled(3)
    before = message.flatten()
    codec.push(message, np.array([1, 0, 1]))
    assert np.array_equal(codec.pop(message), [1, 0, 1])
    assert np.array_equal(message.flatten(), before)
    with pytest.raises(EmptyMessage, match="more than the 0 words"):
        codecs.from_craystack(craystack.Uniform(16)).pop(Message(3))
