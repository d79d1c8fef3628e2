from __future__ import annotations

import numpy as np
import pytest
from codec_checks import bernoulli, categorical, check_codec, filled, from_cdf
from hypothesis import given
from hypothesis import strategies as st

from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message, random_message
from vlae_codec.entropy.codecs import Codec, Gaussians, Intervals, bits_back
from vlae_codec.errors import EmptyMessage

TOTAL = 1 << cdf.PRECISION

seeds = st.integers(0, 2**32)
lane_counts = st.integers(1, 20)


@given(seeds, lane_counts, st.integers(1, 50))
def test_bernoulli(seed: int, lanes: int, size: int) -> None:
    """The compiled loops give the words of `Message.push`."""
    rng = np.random.default_rng(seed)
    ones = np.clip((TOTAL * rng.random(size) ** 8).astype(np.int64), 1, TOTAL - 1)
    bits = rng.integers(0, 2, size)
    pushed = check_codec(bernoulli(ones), bits, lanes)
    message = filled(lanes)
    message.reserve(size)
    intervals = Intervals(np.where(bits == 0, 0, TOTAL - ones), np.where(bits == 0, TOTAL - ones, ones))
    kernels.push_intervals(message.stack, intervals)
    assert np.array_equal(message.flatten(), pushed.flatten())
    popped = np.empty(size, np.uint8)
    assert kernels.pop_bernoulli(message.stack, TOTAL - ones, 0, popped)
    assert np.array_equal(popped, bits)
    assert np.array_equal(message.flatten(), filled(lanes).flatten())


def mixture(seed: int, size: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values that occur, and parameters of mixtures, extreme ones among them."""
    rng = np.random.default_rng(seed)
    values = np.flatnonzero(rng.random(256) < rng.random() + 0.01)
    values = values if len(values) else np.array([seed % 256])
    logits = rng.integers(-4096, 4096, (size, k)) >> rng.integers(0, 12)
    means = rng.integers(-20000, 40000, (size, k))
    scales = rng.integers(0, cdf.SCALE_COUNT, (size, k))
    return values, logits, means, scales


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
    reference = from_cdf(lambda j, part: cdf.gaussian_cdf(j, mean[part], scale[part]), cdf.Z_COUNT, size)
    pushed = check_codec(reference, symbols, lanes)
    # The compiled loops give the same words.
    message = filled(lanes)
    message.reserve(size)
    bits = np.zeros(1)
    kernels.push_gaussians(message.stack, symbols, Gaussians(mean, scale), bits)
    assert np.array_equal(message.flatten(), pushed.flatten())
    popped = np.empty(size, np.int64)
    assert kernels.pop_gaussians(message.stack, popped, Gaussians(mean, scale), bits)
    assert np.array_equal(popped, symbols)
    assert np.array_equal(message.flatten(), filled(lanes).flatten())


def bits_back_codec() -> Codec:
    """x of 40 bits whose chance of one is z / 17, with z of 0..15 told roughly by how many ones there are."""

    def likelihood(z: np.ndarray) -> Codec:
        return bernoulli(np.full(40, (int(z[0]) + 1) * TOTAL // 17))

    def posterior(x: np.ndarray) -> Codec:
        weights = np.exp(-0.5 * (np.arange(16) - 16 * x.mean()) ** 2) + 1e-4
        freqs = np.maximum((weights / weights.sum() * (TOTAL - 16)).astype(np.int64), 1)
        freqs[0] += TOTAL - freqs.sum()
        return categorical(freqs)

    return bits_back(categorical(np.full(16, TOTAL // 16)), likelihood, posterior)


@given(seeds)
def test_bits_back(seed: int) -> None:
    x = (np.random.default_rng(seed).random(40) < 0.3).astype(np.int64)
    check_codec(bits_back_codec(), x)


def test_bits_back_needs_something_to_draw_from() -> None:
    with pytest.raises(EmptyMessage):
        bits_back_codec().push(Message(4), np.zeros(40, np.int64))


def test_gaussians_know_their_grid() -> None:
    given = Gaussians(np.array([-4000, -9, -8, 7, 8, 4000]), np.full(6, 48))
    assert given.nearest().tolist() == [-128, -1, 0, 0, 1, 127]
    assert given.std() == pytest.approx(16.0)


def test_intervals_know_their_length() -> None:
    assert Intervals(np.zeros((2, 2)), np.array([[TOTAL, TOTAL // 2], [TOTAL // 4, 1]])).bits() == 0 + 1 + 2 + 24


@given(seeds)
def test_random_messages_give_what_they_are_popped_under(seed: int) -> None:
    ones = bernoulli(np.full(2000, TOTAL // 4)).pop(random_message(seed, 2000))
    assert ones.mean() == pytest.approx(0.25, abs=0.06)
    assert np.array_equal(random_message(seed, 9).flatten(), random_message(seed, 9).flatten())
