from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import binary_images
from hypothesis import given, settings
from hypothesis import strategies as st
from vlae_codec.models.exact import binary as batch_module
from vlae_codec.models.exact.binary import BinaryNetworks

from vlae_codec import Model
from vlae_codec.coding.binary import BinaryCoder, pixel_bits
from vlae_codec.coding.latent import gaussian_bits
from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import HEAD_MIN, Message
from vlae_codec.errors import CorruptFile
from vlae_codec.stages import Plan, Stage, StageKind

#: What is on a message before anything is coded.
SEED = 0x5EED5EED


def coder_of(model: Model) -> BinaryCoder:
    assert isinstance(model.coder, BinaryCoder)
    return model.coder


def check_chain(coder: BinaryCoder, images: np.ndarray, particles: int = 1) -> list[Stage]:
    """Assert that decoding gives the images back and leaves the seed on the message; returns the stages."""
    message, plan, costs = coder.encode(images, particles, SEED)
    words, stages = message.flatten(), plan.stages(len(images))
    message = Message.unflatten(words, 1)
    again = np.concatenate(list(coder.decode(message, stages)))
    assert np.array_equal(again, images)
    assert (message.size, int(message.heads[0])) == (0, HEAD_MIN + SEED)
    # The words hold the ideal length and the seed; the head keeps up to 64 bits.
    assert 31 <= 32 * len(words) - costs.elbo <= 65 + 1e-3 * costs.elbo
    return stages


@settings(max_examples=15)
@given(
    st.integers(1, 250), st.sampled_from(["squares", "noise", "zeros", "ones"]), st.sampled_from([1, 1, 2, 5]),
    st.integers(0, 2**32),
)  # fmt: skip
def test_every_number_and_kind(any_binary_model: Model, count: int, kind: str, particles: int, seed: int) -> None:
    # Draws take as many times as long.
    images = binary_images(count // particles + 1, 8, seed)
    if kind == "noise":
        images = np.random.default_rng(seed).integers(0, 2, images.shape, np.uint8)
    elif kind != "squares":
        images[:] = kind == "ones"
    check_chain(coder_of(any_binary_model), images, particles)


def test_batches_grow_from_a_few_on_a_lattice(binary_model: Model) -> None:
    images = np.random.default_rng(0).integers(0, 2, (600, 8, 8), np.uint8)
    stages = check_chain(coder_of(binary_model), images)
    assert (stages[-1].last, stages[-1].kind) == (600, StageKind.PLAIN_Z)
    assert stages[-1].count < 5
    assert {(stage.kind, stage.particles) for stage in stages[:-1]} == {(StageKind.BITS_BACK, 1)}
    assert max(stage.count for stage in stages) > 200
    stages = check_chain(coder_of(binary_model), images, 8)
    assert [stage.particles for stage in stages] == sorted((stage.particles for stage in stages), reverse=True)
    assert {stage.particles for stage in stages} == {1, 8}


@given(st.integers(1, 5000), st.integers(0, 400), st.integers(0, 127), st.integers(1, 64))
def test_a_plan_covers_all_images(count: int, coarse: int, growth: int, particles: int) -> None:
    stages = Plan(coarse, 9, growth, particles).stages(count)
    assert [stage.first for stage in stages] == [0, *(stage.last for stage in stages[:-1])]
    assert stages[-1].last == count
    assert all(1 <= stage.count <= 256 for stage in stages)
    plain = sum(stage.count for stage in stages if stage.kind is StageKind.PLAIN_Z)
    assert plain == min(coarse, count)
    assert (stages[0].kind is StageKind.WITHOUT_Z) == (coarse == 0)


def test_bits_back_returns_what_it_draws(binary_model: Model) -> None:
    """The message grows by the ELBO only, far less than z costs under the prior."""
    images = binary_images(500, 8)
    _, _, costs = coder_of(binary_model).encode(images)
    assert costs.z_posterior > 0.5 * costs.z_prior
    assert costs.elbo == pytest.approx(costs.z_prior - costs.z_posterior + costs.pixels)


def test_a_draw_longer_than_planned_is_no_loss(binary_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlae_codec.coding.latent.draw_bits", lambda posterior: np.zeros(posterior.mean.shape))
    monkeypatch.setattr("vlae_codec.coding.binary.CAUTION", 0.0)
    stages = check_chain(coder_of(binary_model), binary_images(40, 8))
    assert stages[-1].count > 1


def test_the_steps_of_decoding_give_the_integers_of_encoding(any_binary_model: Model) -> None:
    coder = coder_of(any_binary_model)
    images = binary_images(70, 8, 3)
    features = None
    if coder.config.z_channels:
        features = coder.networks.features(np.random.default_rng(0).integers(-40, 40, (70, coder.config.z_channels)))
    expected = coder.networks.logits(images, features)
    assert len(np.unique(expected)) > 20
    canvas = np.zeros_like(images)
    for y, x, logits in coder.networks.steps(canvas, features):
        assert np.array_equal(logits.T, expected[:, y, x])
        canvas[:, y, x] = images[:, y, x]
    assert np.array_equal(canvas, images)


def test_chunks_threads_and_convolutions_do_not_change_an_integer(
    binary_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, images = coder_of(binary_model), binary_images(70, 8, 4)
    z = np.random.default_rng(0).integers(-40, 40, (70, 4))

    def results() -> list[np.ndarray]:
        networks = coder.networks
        features = networks.features(z)
        return [*networks.posterior(images), features.numpy(), networks.logits(images, features)]

    before = results()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(batch_module, "CHUNK", 7)
    monkeypatch.setattr(coder.networks, "convolve", batch_module._unfolded)
    after = results()
    torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_integer_network_follows_the_float_one() -> None:
    from golden.make import SHAPES, untrained
    from vlae_codec.models.training.export import measure_binary_ranges, to_integers

    images = binary_images(200, 8, 5)
    for name in ("tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"):
        model = untrained(SHAPES[name])
        networks = BinaryNetworks(to_integers(model, measure_binary_ranges(model, images)))
        signed = 2.0 * torch.from_numpy(images)[:, None].float() - 1.0
        with torch.no_grad():
            features = integer_features = None
            if model.config.z_channels:
                mean, log_std, _ = model.encoder(signed)  # type: ignore[operator]
                got_mean, got_scale = networks.posterior(images)
                assert np.abs(got_mean / 256 - mean[:, :, 0, 0].numpy()).max() < 0.02
                log_std_got = cdf.Z_SCALE_LOWEST + got_scale / cdf.Z_SCALE_STEPS
                assert np.abs(log_std_got - log_std[:, :, 0, 0].numpy()).max() < 0.08
                # Other values of z would leave the ranges that were measured, and be clamped.
                z = (got_mean + cdf.Z_MEAN_STEPS // 2) // cdf.Z_MEAN_STEPS
                features = model.features(torch.from_numpy(z / cdf.Z_STEPS).float()[:, :, None, None])  # type: ignore
                integer_features = networks.features(z)
            expected = model.logits(signed, features)[:, 0].numpy()
        got = networks.logits(images, integer_features) / cdf.BERNOULLI_STEPS
        # The logits of an untrained model differ little, and a step is 1/128.
        assert np.abs(got - expected).max() < 0.05
        assert np.abs(got - expected).mean() < 0.3 * expected.std()


def test_a_flow_posterior_is_refused() -> None:
    import dataclasses

    from golden.make import SHAPES
    from vlae_codec.models.training.export import to_integers
    from vlae_codec.models.vlae import VLAE

    from vlae_codec.errors import UnknownModel

    model = VLAE(dataclasses.replace(SHAPES["tiny-binary"], posterior="iaf"))
    with pytest.raises(UnknownModel, match="posterior iaf cannot be coded"):
        to_integers(model, {})


@pytest.mark.parametrize("particles", [1, 4])
def test_damaged_words_never_pass_for_the_images(binary_model: Model, particles: int) -> None:
    coder, images = coder_of(binary_model), binary_images(24, 8)
    message, plan, _ = coder.encode(images, particles)
    words, stages = message.flatten(), plan.stages(len(images))
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = words.copy()
        damaged[rng.integers(2, len(words))] ^= np.uint32(1 << int(rng.integers(32)))
        try:
            left = Message.unflatten(damaged, 1)
            other = np.concatenate(list(coder.decode(left, stages)))
        except CorruptFile:
            continue
        assert not np.array_equal(other, images) or not left.empty
    with pytest.raises(CorruptFile, match="too soon|left over"):
        list(coder.decode(Message.unflatten(words[:2], 1), stages))


@given(st.integers(-1920, 1920))
def test_bernoulli_frequencies(logit: int) -> None:
    zeros = int(cdf.bernoulli_cdf(np.array(logit)))
    assert 1 <= zeros < 1 << cdf.PRECISION
    expected = 1 / (1 + np.exp(logit / cdf.BERNOULLI_STEPS))
    assert zeros / 2**cdf.PRECISION == pytest.approx(expected, abs=3e-7)


def test_ideal_lengths_add_up_to_probabilities() -> None:
    bins = np.arange(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT)
    lengths = gaussian_bits(bins, np.full(256, 300), np.full(256, 40))
    assert np.exp2(-lengths).sum() == pytest.approx(1.0)
    both = np.array([[[0]], [[1]]], np.uint8)
    assert np.exp2(-pixel_bits(both, np.full((2, 1, 1), 77))).sum() == pytest.approx(1.0)
