"""The integer networks between photographs and z."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import picture, tiny
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact import synthesis, torch_synthesis
from vlae_codec.models.exact.synthesis import SynthesisPass
from vlae_codec.models.exact.torch_layers import TorchLayer
from vlae_codec.models.exact.torch_synthesis import TorchSynthesis
from vlae_codec.models.training.export import measure_ranges, to_integers
from vlae_codec.models.vlae import VLAE

from vlae_codec.entropy import cdf
from vlae_codec.errors import UnsafeModel


@pytest.mark.parametrize("name", ["tiny", "tiny-pointwise"])
def test_strips_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a strip is a single row of z, so that all of its surroundings come from its margins, and by torch."""
    networks = SynthesisPass(tiny(name))
    image = picture("noise", 16 * 21 - 5, 45)
    z = np.random.default_rng(0).integers(-128, 128, (21, 3, networks.config.z_channels))
    whole = networks.posterior(image), networks.features(z, 331, 45), networks.reconstruction(z, 331, 45)
    by_torch = TorchSynthesis(tiny(name), "cpu")
    for rows in (1, 4):
        monkeypatch.setattr(synthesis, "STRIP_PIXELS", 0)
        monkeypatch.setattr(synthesis, "STRIP_ROWS", rows)
        monkeypatch.setattr(synthesis, "COLUMNS", 1000 * rows)
        monkeypatch.setattr(torch_synthesis, "COLUMNS", 1000 * rows)
        for each in (networks,) if rows == 1 else (networks, by_torch):
            parts = each.posterior(image), each.features(z, 331, 45), each.reconstruction(z, 331, 45)
            for mine, expected in zip(parts, whole, strict=True):
                assert np.array_equal(mine, expected)
    assert all(len(np.unique(part)) > 5 for part in (*whole[0], *whole[1:]))


def test_a_device_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = TorchLayer.finish
    monkeypatch.setattr(TorchLayer, "finish", lambda layer, acc: original(layer, acc * (1 + 2.0**-20)))
    with pytest.raises(UnsafeModel, match="does not sum integers exactly"):
        TorchSynthesis(tiny("tiny"), "cpu")


def test_integers_are_near_the_float_networks() -> None:
    torch.manual_seed(0)
    config = VLAEConfig(channels=8, blocks=1, mixtures=2, z_channels=4, z_groups=2, z_hidden=8, z_width=12)
    model = VLAE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    image = picture("smooth", 64, 96)
    networks = SynthesisPass(to_integers(model, measure_ranges(model, [image])))
    mean, scale = networks.posterior(image)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected, log_std = model.encoder(x)
        assert mean / (cdf.Z_STEPS * cdf.Z_MEAN_STEPS) == pytest.approx(expected[0].permute(1, 2, 0).numpy(), abs=0.02)
        log_scale = cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS
        assert log_scale == pytest.approx(log_std[0].permute(1, 2, 0).numpy(), abs=0.1)
        z = np.rint(mean / cdf.Z_MEAN_STEPS).astype(np.int64)
        y, _ = model.features(torch.from_numpy(z / cdf.Z_STEPS).permute(2, 0, 1)[None].float())
    near = networks.reconstruction(z, 64, 96)
    away = np.abs(near - y[0].permute(1, 2, 0).numpy().clip(0, 255))
    assert away.mean() < 0.5
    assert near.std() > 5
