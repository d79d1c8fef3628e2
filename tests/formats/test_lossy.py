from __future__ import annotations

import contextlib
import zlib

import numpy as np
import pytest
from conftest import GOLDEN, binary_images, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlae_codec import Model
from vlae_codec.coding.binary import BinaryCoder, sample_images, sample_prior
from vlae_codec.entropy import cdf
from vlae_codec.errors import CorruptFile, NotAVlaeFile, UnknownModel, UnsupportedImage, UnsupportedVersion, VlaeError
from vlae_codec.evaluate import evaluate, importance_nll
from vlae_codec.formats import lossy
from vlae_codec.images.sets import Source


def coded(model: Model, images: np.ndarray, **options: float) -> lossy.LossyFile:
    return lossy.encode_images(images, model, Source("array", 1, shape=images.shape), [], **options)


@settings(max_examples=20)
@given(st.integers(1, 60), st.floats(0.0, 50.0), st.integers(0, 2**32))
def test_the_file_says_what_the_encoder_chose(binary_model: Model, count: int, fidelity: float, seed: int) -> None:
    file = coded(binary_model, binary_images(count, 8, seed), fidelity=fidelity)
    again = lossy.LossyFile.from_bytes(file.to_bytes())
    assert np.array_equal(again.exponents, file.exponents)
    assert again.head == file.head
    assert isinstance(binary_model.coder, BinaryCoder)
    z = lossy.decode_z(again, binary_model.coder)
    assert z.shape == (count, 1, 1, 4)
    # A head keeps up to 64 bits.
    assert -1e-6 <= 32 * len(file.words) - file.bits <= 65


def test_fidelity_trades_bits_for_closeness(binary_model: Model) -> None:
    images = binary_images(200, 8)
    assert isinstance(binary_model.coder, BinaryCoder)
    mean, scale = binary_model.coder.networks.posterior(images)
    std = np.exp(cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
    bits, away = [], []
    for fidelity in (0.0, 1.0, 10.0, 100.0):
        file = coded(binary_model, images, fidelity=fidelity)
        z = lossy.decode_z(file, binary_model.coder)[:, 0, 0]
        bits.append(file.bits)
        away.append(float((((z - mean / cdf.Z_MEAN_STEPS) / std) ** 2).mean()))
    assert bits == sorted(bits)
    assert away == sorted(away, reverse=True)
    assert bits[0] < 1.0
    assert away[-1] < 0.1


def test_samples_follow_the_model(binary_model: Model) -> None:
    """The mean of many draws is the probability that the coder uses: checked on the first pixel, which sees none."""
    assert isinstance(binary_model.coder, BinaryCoder)
    z = np.repeat(np.array([[[[3, -9, 20, 0]]]]), 4000, 0)
    drawn = sample_images(binary_model.coder, z, 4000, seed=0)
    logits = binary_model.coder.networks.logits(drawn[:1], binary_model.coder.networks.features(z[:1, 0, 0]))
    expected = 1 - cdf.bernoulli_cdf(logits)[0, 0, 0] / 2**cdf.PRECISION
    assert drawn[:, 0, 0].mean() == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)
    assert not np.array_equal(drawn, sample_images(binary_model.coder, z, 4000, seed=1))


def test_draws_from_the_prior(any_binary_model: Model) -> None:
    coder = any_binary_model.coder
    assert isinstance(coder, BinaryCoder)
    if coder.config.prior == "gaussian":
        z = sample_prior(coder, 5000, seed=0)[:, 0, 0] / cdf.Z_STEPS
        assert np.abs(z.mean(0)).max() < 0.08
        assert np.abs(z.std(0) - 1).max() < 0.05


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_are_refused(binary_model: Model, data: st.DataObject) -> None:
    sound = coded(binary_model, binary_images(5, 8), fidelity=9.0).to_bytes()
    damaged = bytearray(sound)
    damaged[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CorruptFile, NotAVlaeFile, UnsupportedVersion)):
        lossy.LossyFile.from_bytes(bytes(damaged))
    # With a checksum that fits, it is an error of the family, or draws something: there is no digest to compare with.
    sealed = bytes(damaged[:-4]) + zlib.crc32(damaged[:-4]).to_bytes(4, "little")
    with contextlib.suppress(VlaeError):
        lossy.reconstruct(lossy.LossyFile.from_bytes(sealed), binary_model)


def test_a_photograph_of_z(tiny_model: Model) -> None:
    image = Image.fromarray(picture("smooth", 37, 50))
    file = lossy.LossyFile.from_bytes(lossy.encode_photograph(image, tiny_model, "a.png", quality=80).to_bytes())
    assert file.bits > 0
    coder = tiny_model.photographs
    mean = lossy.reconstruct(file, tiny_model, mean=True)
    assert mean.shape == (1, 1, 37, 50, 3)
    assert np.array_equal(mean[0, 0], coder.synthesis.reconstruction(lossy.decode_z(file, coder)[0], 37, 50))
    drawn = lossy.reconstruct(file, tiny_model, samples=2, seed=5)
    assert drawn.shape == (2, 1, 37, 50, 3)
    assert np.array_equal(drawn[1:], lossy.reconstruct(file, tiny_model, seed=6))


def test_a_grey_photograph_comes_back_grey(tiny_model: Model) -> None:
    image = Image.fromarray(picture("grey", 20, 33)).convert("L")
    file = lossy.encode_photograph(image, tiny_model, "a.png")
    assert lossy.reconstruct(file, tiny_model, mean=True).shape == (1, 1, 20, 33)
    assert lossy.reconstruct(file, tiny_model, samples=3).shape == (3, 1, 20, 33)


def test_quality_and_bytes_choose_the_size(tiny_model: Model) -> None:
    image = Image.fromarray(picture("smooth", 64, 96))
    sizes = [len(lossy.encode_photograph(image, tiny_model, "", quality=q).to_bytes()) for q in (1, 30, 60, 100)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    most = (sizes[0] + sizes[-1]) // 2
    found = lossy.encode_photograph(image, tiny_model, "", most_bytes=most).to_bytes()
    assert sizes[0] <= len(found) <= most
    assert lossy.LossyFile.from_bytes(found).head["names"] == []
    with pytest.raises(UnsupportedImage, match="smallest lossy code"):
        lossy.encode_photograph(image, tiny_model, "", most_bytes=50)


def test_models_without_z_have_no_lossy_code(tiny_model: Model) -> None:
    from vlae_codec import load_model

    with pytest.raises(UnknownModel, match="has no z"):
        coded(load_model(GOLDEN / "tiny-binary-no-z.safetensors", "cpu"), binary_images(2, 8))


@pytest.mark.parametrize("name", ["tiny-binary", "tiny-binary-vae"])
def test_golden_lossy_files_draw_the_same_for_ever(name: str) -> None:
    file = lossy.LossyFile.from_bytes((GOLDEN / f"{name}-lossy.vlae").read_bytes())
    drawn = lossy.reconstruct(file, seed=7)
    assert np.array_equal(np.packbits(drawn), np.load(GOLDEN / f"{name}-drawn.npy"))


def test_more_draws_never_make_the_likelihood_bound_looser(binary_model: Model) -> None:
    images = binary_images(6, 8)
    assert isinstance(binary_model.coder, BinaryCoder)
    bounds = [
        importance_nll(binary_model.coder, images, samples, np.random.default_rng(0)).mean() for samples in (1, 30, 900)
    ]
    assert bounds[0] > bounds[1] - 0.05
    assert bounds[1] > bounds[2] - 0.05


def test_evaluation_of_a_model_without_z_is_exact() -> None:
    from vlae_codec import load_model

    model = load_model(GOLDEN / "tiny-binary-no-z.safetensors", "cpu")
    result = evaluate(model, binary_images(300, 8), samples=3, limit=300)
    assert result["importance"]["nats"] == pytest.approx(result["nats"]["elbo"])
    # What is over the ELBO: head, index, end, lanes and checksums.
    assert 0 < result["archive"]["bytes"] - 300 * result["nats"]["elbo"] / np.log(2.0) / 8 < 200
    with pytest.raises(UnknownModel, match="for photographs"):
        evaluate(load_model(GOLDEN / "tiny.safetensors", "cpu"), binary_images(3, 8))
