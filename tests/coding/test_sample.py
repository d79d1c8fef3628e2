"""Photographs drawn from their z."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image
from vlae_codec.models.exact import synthesis

from vlae_codec import Model, load_model
from vlae_codec.coding import sample, wavefront
from vlae_codec.entropy import cdf
from vlae_codec.formats import lossy
from vlae_codec.formats.lossy import LossyFile

SHAPE = 16 * 7 - 5, 45


@pytest.fixture(scope="module", params=["tiny", "tiny-pointwise"])
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(GOLDEN / f"{request.param}.safetensors", "cpu")


def z_of(model: Model) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (7, 3, model.config.z_channels))


def test_a_value_is_drawn_from_the_product() -> None:
    """Against sums over all values in Python's integers, at chances where one value gives way to the next too."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        middle, scale = int(rng.integers(0, 255 * cdf.MEAN_STEPS)), int(rng.integers(40, 181))
        mixture = np.stack([
            rng.integers(-2000, 18000, 4), cdf.INVERSE_SCALE[rng.integers(0, cdf.SCALE_COUNT, 4)],
            rng.multinomial(1 << cdf.WEIGHT_BITS, [0.25] * 4),
        ])  # fmt: skip
        around = np.array([[middle], [cdf.INVERSE_SCALE[scale]], [1 << cdf.WEIGHT_BITS]])
        middles = 2 * np.arange(257) - 1
        freqs, near = (
            np.diff([int(wavefront.cumulative(j, 256, middles, each)) for j in range(257)]).astype(object)
            for each in (mixture, around)
        )
        away = np.abs(np.arange(256) - middle / cdf.MEAN_STEPS)
        width = np.exp(cdf.SCALE_LOWEST + scale / cdf.SCALE_STEPS)
        possible = away < sample.REACH * width
        # What is cut off is what hardly ever would be drawn from p0.
        assert near[~possible].sum() < 2**24 * 2 * np.exp(-sample.REACH + 0.5 / width) + 256
        first = max(middle // 64 - sample._REACHES[scale], 0)
        last = min(middle // 64 + 1 + sample._REACHES[scale], 255)
        below = np.cumsum(np.where((np.arange(256) < first) | (np.arange(256) > last), 0, freqs * near))
        between = [int(-(-(total << 24) // below[-1])) for total in below[first:last]]
        for chance in [*rng.integers(0, 1 << 24, 40).tolist(), *between, *(chance - 1 for chance in between)]:
            if 0 <= chance < 1 << 24:
                expected = int((below <= below[-1] * chance >> 24).sum())
                assert sample._draw(mixture, around, scale, chance, np.zeros(256, np.int64)) == expected


def test_draws_stay_near_what_z_tells(model: Model) -> None:
    coder, z = model.photographs, z_of(model)
    drawn = [sample.sample_photograph(coder, z, SHAPE, seed) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).mean() > 0.3
    y = coder.synthesis.reconstruction(z, *SHAPE).astype(int)
    # Red keeps within p0's reach of y, green and blue within a narrower one of the channel before.
    scales = np.concatenate([s for _, s in sample._with_scales(coder.synthesis.strips(z, True))])
    scales = scales[: SHAPE[0], : SHAPE[1]].astype(int)
    away = drawn[0] - y
    assert (np.abs(away[..., 0]) <= sample._REACHES[scales] + 2).all()
    inside = (np.abs(y - 128) < 90).all(2)
    for channel in (1, 2):
        apart = np.abs(away[..., channel] - away[..., channel - 1])
        assert (apart <= sample._REACHES[scales - sample.NARROWER] + 2)[inside].all()
    assert np.abs(away).mean() > 0.5


def test_strips_and_threads_change_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a strip is a single row of z."""
    coder, z = model.photographs, z_of(model)
    whole = sample.sample_photograph(coder, z, SHAPE, 3)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert np.array_equal(sample.sample_photograph(coder, z, SHAPE, 3), whole)
    finally:
        numba.set_num_threads(threads)
    monkeypatch.setattr(synthesis, "STRIP_PIXELS", 0)
    monkeypatch.setattr(synthesis, "STRIP_ROWS", 1)
    assert np.array_equal(sample.sample_photograph(coder, z, SHAPE, 3), whole)


def test_busy_places_are_drawn_more_freely() -> None:
    busy = np.random.default_rng(0).normal(0, 8 * 12, (40, 40, 3)).clip(-1024, 1023)
    y = np.concatenate([np.zeros((40, 40, 3)), busy], 1).astype(np.int16)
    scales = sample.scales_of(y)
    assert (scales[:, :30] == sample.SCALES[0]).all()
    # Neighbours differ by 12 * 2 / sqrt(pi) on average, each way.
    expected = sample.GAIN * np.sqrt(2 * 12 * 2 / np.sqrt(np.pi))
    found = np.exp(cdf.SCALE_LOWEST + scales[:, 50:] / cdf.SCALE_STEPS)
    assert found.mean() == pytest.approx(min(expected, 14), rel=0.1)


def test_grey_draws_are_grey(model: Model) -> None:
    drawn = sample.sample_photograph(model.photographs, z_of(model), SHAPE, 0, channels=1)
    assert (drawn == drawn[..., :1]).all()
    assert len(np.unique(drawn)) > 20


def test_a_golden_file_is_drawn_the_same_for_ever() -> None:
    file = LossyFile.from_bytes((GOLDEN / "photo-global-lake-lossy.vlae").read_bytes())
    with Image.open(GOLDEN / "photo-global-lake-drawn.png") as expected:
        assert np.array_equal(lossy.reconstruct(file, seed=7)[0, 0], np.asarray(expected))
