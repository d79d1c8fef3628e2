from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from codec_checks import check_codec, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae_codec import Model
from vlae_codec.coding import latent
from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import Message
from vlae_codec.entropy.codecs import Gaussians
from vlae_codec.errors import CorruptFile, EmptyMessage
from vlae_codec.stages import Costs

seeds = st.integers(0, 2**32)
lane_counts = st.integers(1, 6)


def spaces(binary_model: Model, tiny_model: Model, n: int) -> list[latent.Space]:
    """One place for each of n images, and a grid."""
    return [binary_model.coder.space(n), tiny_model.photographs.space((16 * n - 5, 50))]  # type: ignore[union-attr, arg-type]


def q_of(space: latent.Space, rng: np.random.Generator) -> Gaussians:
    return Gaussians(rng.integers(-900, 901, space.shape), rng.integers(8, 65, space.shape))


@settings(max_examples=30)
@given(seeds, lane_counts, st.integers(1, 12))
def test_z_under_posterior_and_prior(binary_model: Model, tiny_model: Model, seed: int, lanes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for space in spaces(binary_model, tiny_model, n):
        q, costs = q_of(space, rng), Costs()
        z = latent.draw_posterior(q, rng)
        pushed = check_codec(latent.gaussians(q, costs), z, lanes)
        assert costs.z_posterior == pytest.approx(2 * latent.gaussian_bits(z, *q).sum())
        assert pushed.bits() - filled(lanes).bits() == pytest.approx(costs.z_posterior / 2, rel=1e-3)
        pushed = check_codec(latent.prior(space, costs), z, lanes)
        assert pushed.bits() - filled(lanes).bits() == pytest.approx(costs.z_prior / 2, rel=1e-3)


def test_many_images_are_walked_in_parts(binary_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a number that is only claimed takes no memory; on one lane the words stay what they are."""
    rng = np.random.default_rng(0)
    space = binary_model.coder.space(10)  # type: ignore[arg-type]
    z = latent.draw_posterior(q_of(space, rng), rng)
    whole = check_codec(latent.prior(space, Costs()), z, 1).flatten()
    monkeypatch.setattr(latent, "PART", 3)
    assert [part.stop - part.start for part in space.parts()] == [3, 3, 3, 1]
    assert np.array_equal(check_codec(latent.prior(space, Costs()), z, 1).flatten(), whole)
    check_codec(latent.prior(space, Costs()), z, 4)


def test_a_claimed_number_of_images_takes_no_memory(binary_model: Model) -> None:
    """The message runs dry in the first part, before the prior of the others is computed."""
    space = binary_model.coder.space(1 << 25)  # type: ignore[arg-type]
    lattice = latent.Lattice(np.zeros(space.shape[3], np.int64))
    tracemalloc.start()
    with pytest.raises(EmptyMessage):
        latent.coarse(space, lattice, Costs()).pop(Message(1))
    # z itself is counted as it is asked for, though its pages are never touched.
    assert tracemalloc.get_traced_memory()[1] < 8 * (1 << 25) * space.shape[3] + (1 << 24)
    tracemalloc.stop()


@given(seeds)
def test_what_is_certain_takes_nothing(seed: int) -> None:
    z = np.random.default_rng(seed).integers(-128, 128, (1, 2, 3, 4))
    assert np.array_equal(check_codec(latent.certain(z), z).flatten(), filled(4).flatten())
    with pytest.raises(CorruptFile, match="not what the pixels say"):
        latent.certain(z).push(filled(4), z + 1)


def test_a_draw_that_finds_too_little_leaves_the_message_as_it_is() -> None:
    q = Gaussians(np.zeros((20, 1, 1, 9), np.int64), np.full((20, 1, 1, 9), 50))
    message = filled(2, words=5)
    before = message.flatten()
    with pytest.raises(EmptyMessage):
        latent.gaussians(q, Costs()).pop(message)
    assert np.array_equal(message.flatten(), before)


@settings(max_examples=30)
@given(seeds, lane_counts, st.integers(1, 12), st.floats(0.0, 50.0), st.floats(0.1, 30.0))
def test_z_on_a_lattice(
    binary_model: Model, tiny_model: Model, seed: int, lanes: int, n: int, fidelity: float, spacing: float
) -> None:
    rng = np.random.default_rng(seed)
    for space in spaces(binary_model, tiny_model, n):
        q, costs = q_of(space, rng), Costs()
        if space.reach:
            z, lattice = latent.choose(space, q, lattice=latent.Lattice.spaced(q, spacing))
            # The nearest place: half a step away at most, and half a bin, but where the grid ends.
            inside = np.abs(q.mean) < cdf.Z_MEAN_STEPS * 100
            assert (np.abs(z - q.mean / cdf.Z_MEAN_STEPS) <= lattice.steps / 2 + 0.5)[inside].all()
        else:
            z, lattice = latent.choose(space, q, closeness=4 * fidelity, fidelity=fidelity)
        pushed = check_codec(latent.coarse(space, lattice, costs), z, lanes)
        assert pushed.bits() - filled(lanes).bits() == pytest.approx(costs.z_prior, rel=1e-3, abs=0.1)


@given(st.integers(0, latent.MAX_EXPONENT), seeds)
def test_lattice_symbols(exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior = Gaussians(rng.integers(-1792, 1793, 50), rng.integers(0, cdf.Z_SCALE_COUNT, 50))
    lattice, every = latent.Lattice(np.array([exponent, 0])), slice(0, 2)
    posterior = Gaussians(rng.integers(-1792, 1793, 50), rng.integers(8, 65, 50))
    symbols, losses = lattice.choose(prior, posterior, every, 1.0)
    intervals = lattice.intervals(symbols, prior, every)
    assert (intervals.freqs > 0).all()
    assert losses.sum() >= intervals.bits() - 1e-6
    assert np.array_equal(lattice.symbols(lattice.values(symbols, prior, every), prior, every), symbols)
