from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from codec_checks import check_codec
from conftest import binary_images
from hypothesis import given
from hypothesis import strategies as st
from test_chain import coder_of

from vlae_codec import Model
from vlae_codec.coding import particles
from vlae_codec.coding.latent import gaussian_bits
from vlae_codec.entropy import cdf, lengths
from vlae_codec.entropy.codecs import Gaussians, categorical
from vlae_codec.evaluate import importance_nll


def test_tables_are_rounded_correctly_whatever_the_library() -> None:
    """No value is so near to a half that another logarithm could round it to another integer."""
    with localcontext() as context:
        context.prec = 30
        log2 = Decimal(2).ln()
        for i in range(4096):
            value = (1 + Decimal(i) / 4096).ln() / log2 * (1 << 16)
            assert abs(value - int(lengths.LOG2[i])) < Decimal("0.49999")
            power = (log2 * (24 - Decimal(i) / 4096)).exp()
            assert abs(power - int(particles.EXP2[i])) < Decimal("0.49999")


@given(st.integers(1, 1 << 24))
def test_lengths_are_those_of_the_frequencies(freq: int) -> None:
    expected = 24 - np.log2(freq)
    assert int(lengths.code_lengths(np.array([freq]))[0]) / 2**16 == pytest.approx(expected, abs=4e-4)


def test_lengths_of_z() -> None:
    z = np.arange(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT)
    given_ = Gaussians(np.full(256, 300), np.full(256, 40))
    assert particles.gaussian_lengths(z, given_) / 2**16 == pytest.approx(gaussian_bits(z, *given_), abs=4e-4)


@given(st.lists(st.lists(st.integers(0, 1 << 40), min_size=5, max_size=5), min_size=1, max_size=9))
def test_weights_are_frequencies(given_: list[list[int]]) -> None:
    edges = particles.edges_of(np.array(given_))
    assert (edges[:, 0] == 0).all()
    assert (edges[:, -1] == 1 << 24).all()
    freqs = np.diff(edges, axis=1)
    assert (freqs >= 1).all()
    shares = np.exp2(-(np.array(given_) - np.min(given_, 1, keepdims=True)) / 2**16)
    assert freqs / 2**24 == pytest.approx(shares / shares.sum(1, keepdims=True), abs=3e-4)


@pytest.mark.parametrize("lanes", [1, 3, 20])
def test_categorical(lanes: int) -> None:
    rng = np.random.default_rng(0)
    edges = particles.edges_of(rng.integers(0, 5 << 16, (20, 6)))
    check_codec(categorical(edges), rng.integers(0, 6, 20), lanes)


def test_more_particles_take_what_the_importance_weighted_bound_says(binary_model: Model) -> None:
    coder, images = coder_of(binary_model), binary_images(600, 8)
    one, many = (coder.encode(images, count)[2].elbo / len(images) for count in (1, 8))
    rng = np.random.default_rng(0)
    bounds = [importance_nll(coder, images[:300], count, rng).mean() / np.log(2.0) for count in (1, 8)]
    assert one - many > 0.5 * (bounds[0] - bounds[1]) > 0
    assert many == pytest.approx(bounds[1], rel=0.02)
