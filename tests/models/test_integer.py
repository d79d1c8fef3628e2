from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, picture, tiny
from hypothesis import given
from hypothesis import strategies as st
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact import steps
from vlae_codec.models.exact.bands import ParallelPass
from vlae_codec.models.exact.integer import IntegerLayer, IntegerModel
from vlae_codec.models.exact.photo import PhotoNetworks
from vlae_codec.models.plan import EXACT
from vlae_codec.models.training.export import quantize

from vlae_codec.coding import wavefront
from vlae_codec.coding.photo import PhotoCoder
from vlae_codec.errors import UnknownModel, UnsafeModel
from vlae_codec.stages import Stage, StageKind

NAMES = ("tiny", "tiny-pointwise", "tiny-no-z")


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 400), st.sampled_from([(0, 2047), (-128, 127)]))
def test_quantize_fills_the_bound_and_keeps_it(seed: int, outputs: int, inputs: int, limits: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (outputs, inputs)) * rng.exponential(1, (outputs, 1))
    bias = rng.normal(0, 3, outputs)
    in_unit = rng.exponential(0.01, inputs) + 1e-4
    out_unit = rng.exponential(0.01, outputs) + 1e-4
    layer = quantize(weight, bias, in_unit, out_unit, *limits)
    layer.check("layer")
    a = rng.integers(limits[0], limits[1] + 1, (50, inputs))
    exact = (a * in_unit) @ weight.T + bias
    got = np.floor((a @ layer.weight.T.astype(np.int64) + layer.bias) * layer.scale.astype(np.float64))
    # Rounding to the nearest output step, and weights that differ by half a step each.
    error = np.abs(got - exact / out_unit)
    weight_error = 0.5 * layer.scale * np.abs(a).sum(1, keepdims=True) + np.abs(exact / out_unit) * 1e-6
    assert (error <= 0.5 + weight_error + layer.scale).all()


def test_a_layer_that_could_overflow_is_refused_by_name() -> None:
    model = tiny()
    layer = model.layers["decoder.block1.masked"]
    layer.weight[3, :] = 32767
    with pytest.raises(UnsafeModel, match=r"layer decoder.block1.masked, channel 3: .* expected below 2\^24"):
        IntegerModel(model.config, model.layers)
    with pytest.raises(UnsafeModel, match=r"layer decoder.block1.masked, channel 3"):
        IntegerModel.from_bytes(model.to_bytes())


def test_the_bound_is_sharp() -> None:
    scale = np.ones(1, np.float32)
    weight = np.full((1, 512), 2**15 - 1, np.int16)
    IntegerLayer(weight, np.array([511], np.int32), scale, 0, 1).check("just below")
    with pytest.raises(UnsafeModel, match=f"could reach {EXACT}"):
        IntegerLayer(weight, np.array([512], np.int32), scale, 0, 1).check("at the bound")
    with pytest.raises(UnsafeModel):
        IntegerLayer(-weight, np.array([-512], np.int32), scale, 0, 1).check("below zero")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**17, 1e-45, 2.0**-127])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    model = tiny()
    model.layers["decoder.head1"].scale[2] = scale
    with pytest.raises(UnsafeModel, match="decoder.head1: a scale"):
        IntegerModel.from_bytes(model.to_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_model_files_round_trip(name: str) -> None:
    data = (GOLDEN / f"{name}.safetensors").read_bytes()
    assert IntegerModel.from_bytes(data).to_bytes() == data


def test_damaged_model_files_are_refused() -> None:
    data = tiny().to_bytes()
    for broken in (b"", data[:7], data[:100], data[:-1], b"\xff" * 40, data[:8] + b"{}" + data[10:]):
        with pytest.raises(UnknownModel, match="not a model|lacks"):
            IntegerModel.from_bytes(broken)


def test_a_model_that_is_not_what_its_configuration_says_is_refused() -> None:
    model = tiny()
    other = dataclasses.replace(model.config, blocks=3)
    with pytest.raises(UnknownModel, match="other layers"):
        IntegerModel(other, model.layers)
    with pytest.raises(UnknownModel, match="weights"):
        IntegerModel(dataclasses.replace(model.config, channels=16), model.layers)


@pytest.mark.parametrize(
    "values",
    [
        {"channels": 0}, {"blocks": "6"}, {"window_right": 9}, {"odd": 1}, [], {"z_hidden": 9, "z_channels": 2},
        {"blocks": 0, "depthwise": True},
    ],
)  # fmt: skip
def test_impossible_configurations_are_refused(values: object) -> None:
    with pytest.raises(UnknownModel, match="model configuration"):
        VLAEConfig.from_json(json.dumps(values))


def params_of(
    parallel: ParallelPass, image: np.ndarray, top: int, bottom: int, features: np.ndarray | None
) -> np.ndarray:
    return np.concatenate([params for _, params in parallel.bands(image, top, bottom, features)])


def serial_params(coder: PhotoCoder, image: np.ndarray, stage: Stage, features: np.ndarray | None) -> np.ndarray:
    """Mixture parameters by the step-by-step pass, over an image that is known."""
    out = np.empty((stage.last - stage.first, image.shape[1], coder.config.outputs), np.int16)
    area, count = coder._area(image, stage)
    caches = coder._caches(area)
    if features is None:
        features = coder._no_features()
    rows, width = out.shape[:2]
    for t in range(count):
        wavefront.run_network(coder.arrays, area, features, caches, t, t + 1)
        first, last = steps.rows_of_step(t, area.skew, rows, width)
        for y in range(first, last):
            out[y, t - area.skew * y] = caches.params[y - first]
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", [Stage(0, 37, StageKind.WITHOUT_Z), Stage(16, 37, StageKind.WITHOUT_Z)])
@pytest.mark.parametrize("with_z", [False, True])
def test_parallel_and_step_by_step_passes_agree_bit_for_bit(name: str, stage: Stage, with_z: bool) -> None:
    coder = PhotoCoder(tiny(name))
    if with_z and not coder.config.z_channels:
        with_z = False
    image = picture("smooth", 37, 29)
    image[5:9] = picture("extreme", 4, 29)
    features = None
    if with_z:
        h = -((stage.first - stage.last) // 16)
        z = np.random.default_rng(0).integers(-128, 128, (h, 2, coder.config.z_channels))
        features = coder.synthesis.features(z, stage.count, image.shape[1])
    parallel = params_of(coder.parallel, image, stage.first, stage.last, features)
    serial = serial_params(coder, image, stage, features)
    assert np.array_equal(parallel, serial)
    assert len(np.unique(parallel)) > 100


@pytest.mark.parametrize("name", NAMES)
def test_the_parallel_pass_does_not_depend_on_how_it_is_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture("noise", 21, 33)
    parallel = ParallelPass(tiny(name))
    whole = params_of(parallel, image, 0, 21, None)
    monkeypatch.setattr("vlae_codec.models.exact.bands.BAND_PIXELS", 66)
    assert np.array_equal(params_of(parallel, image, 0, 21, None), whole)
    # The halo of a stage makes its first rows what they would be inside the image.
    assert np.array_equal(params_of(parallel, image, 13, 21, None), whole[13:])
    # By torch, as on a GPU.
    by_torch = PhotoNetworks(tiny(name), "cpu")
    assert np.array_equal(params_of(by_torch, image, 0, 21, None), whole)
    assert np.array_equal(params_of(by_torch, image, 13, 21, None), whole[13:])


def test_the_heads_inputs_are_the_same_by_torch() -> None:
    image, model = picture("noise", 21, 33), tiny("tiny-no-z")
    first, second = (
        np.concatenate([rows for _, rows in networks.bands(image, 5, 21, None, heads=False)])
        for networks in (ParallelPass(model), PhotoNetworks(model, "cpu"))
    )
    assert np.array_equal(first, second)
    assert first.shape == (16, 33, model.config.channels)
    assert len(np.unique(first)) > 20


def test_a_device_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PhotoNetworks._masked_sum
    monkeypatch.setattr(PhotoNetworks, "_masked_sum", lambda *a: original(*a) * (1 + 2.0**-20))
    with pytest.raises(UnsafeModel, match="does not sum integers exactly"):
        PhotoNetworks(tiny("tiny-no-z"), "cpu")


def test_the_callers_precision_does_not_matter() -> None:
    image = picture("noise", 40, 64)
    plain = params_of(ParallelPass(tiny()), image, 0, 40, None)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert np.array_equal(params_of(PhotoNetworks(tiny(), "cpu"), image, 0, 40, None), plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_gives_the_same_integers() -> None:
    image = picture("noise", 40, 64)
    for name in NAMES:
        on_cpu, on_gpu = ParallelPass(tiny(name)), PhotoNetworks(tiny(name), "cuda")
        assert np.array_equal(params_of(on_cpu, image, 0, 40, None), params_of(on_gpu, image, 0, 40, None))
