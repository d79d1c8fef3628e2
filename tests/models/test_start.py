from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import GOLDEN, binary_images, picture, tiny, vlae_file
from PIL import Image
from vlae_codec.cli import main
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.plan import prior_masks
from vlae_codec.models.training.evaluate import picture_elbo
from vlae_codec.models.training.export import load_average, measure_binary_ranges, measure_ranges, to_integers
from vlae_codec.models.training.loop import FOR_DECODER
from vlae_codec.models.training.start import to_floats, with_blocks, with_decoder
from vlae_codec.models.vlae import VLAE

import vlae_codec
from vlae_codec.errors import UnknownModel
from vlae_codec.registry import model_from_bytes
from vlae_codec.stages import StageKind

PHOTOGRAPHS = ["tiny", "tiny-pointwise", "tiny-no-z"]
BINARY = ["tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"]


def coded_bits(integers: IntegerModel, pixels: np.ndarray, kind: StageKind) -> float:
    data = vlae_file(Image.fromarray(pixels), kind, model_from_bytes(integers.to_bytes(), "mine", "cpu"))
    return vlae_codec.info(data)["elbo_bits"]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_float_model_is_as_likely_as_the_integer_one(name: str, seed: int) -> None:
    pixels = picture("smooth", 96, 96, seed)
    floats, _ = picture_elbo(to_floats(tiny(name)), pixels, with_z=False)
    assert floats == pytest.approx(coded_bits(tiny(name), pixels, StageKind.WITHOUT_Z) / pixels.size, rel=0.005)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_float_model_exported_again_codes_the_same_bits(name: str) -> None:
    """With z, so that encoder, prior and features are what they were too."""
    pixels = picture("smooth", 96, 96, 3)
    floats = to_floats(tiny(name))
    torch.manual_seed(0)
    again = to_integers(floats, measure_ranges(floats, [pixels]))
    kind = StageKind.PLAIN_Z if floats.config.z_channels else StageKind.WITHOUT_Z
    assert coded_bits(again, pixels, kind) == pytest.approx(coded_bits(tiny(name), pixels, kind), rel=0.005)


@pytest.mark.parametrize("name", ["tiny", "tiny-binary"])
def test_an_exported_model_goes_on_as_it_was_scaled(name: str) -> None:
    floats = to_floats(tiny(name))
    with torch.no_grad():
        # A hidden layer eight times as large as the file of before lets it seem.
        floats.decoder.blocks[0].weight1 *= 8.0
        floats.decoder.blocks[0].bias1 *= 8.0
    torch.manual_seed(0)
    if floats.config.image_size:
        ranges = measure_binary_ranges(floats, binary_images(64, floats.config.image_size))
    else:
        ranges = measure_ranges(floats, [picture("smooth", 96, 96, 3)])
    integers = to_integers(floats, ranges)
    again = to_floats(IntegerModel.from_bytes(integers.to_bytes()))
    for key, parameter in floats.decoder.named_parameters():
        error = (again.decoder.get_parameter(key) - parameter).abs().max()
        assert error <= 0.1 * parameter.abs().max(), key
    hidden = floats.decoder.blocks[0].weight1
    unscaled = to_floats(IntegerModel(integers.config, integers.layers)).decoder.blocks[0].weight1
    assert (unscaled - hidden).abs().max() > 0.5 * hidden.abs().max()
    integers.ranges["decoder.head1"] = integers.ranges["decoder.head1"][1:]
    with pytest.raises(UnknownModel, match="ranges of activations"):
        to_floats(integers)
    integers.ranges["decoder.head1"] = np.zeros_like(ranges["decoder.head1"], np.float16)
    with pytest.raises(UnknownModel, match="not above zero"):
        to_floats(integers)


def test_a_decoder_of_another_model_begins_as_it_was_and_sees_no_z() -> None:
    model = to_floats(tiny())
    other = VLAE(dataclasses.replace(model.config, z_channels=0))
    with torch.no_grad():
        other.decoder.head_bias2 += 0.5
    pixels = picture("smooth", 96, 96, 3)
    alone, _ = picture_elbo(other, pixels)
    before, cost = picture_elbo(model, pixels)
    assert before != pytest.approx(alone, rel=0.01)
    after, same_cost = picture_elbo(with_decoder(model, other), pixels)
    assert after == pytest.approx(alone, rel=1e-6)
    # The KL is of a draw of z.
    assert same_cost == pytest.approx(cost, rel=0.2)


@pytest.mark.parametrize("name", ["tiny-no-z", "tiny-pointwise"])
def test_more_blocks_change_nothing_until_they_are_trained(name: str) -> None:
    model = to_floats(tiny(name))
    deeper = with_blocks(model, model.config.blocks + 2)
    assert deeper.config == dataclasses.replace(model.config, blocks=model.config.blocks + 2)
    x = torch.from_numpy(picture("smooth", 40, 40).transpose(2, 0, 1)[None].copy()).float()
    with torch.no_grad():
        assert torch.equal(model.decoder(x, x, None), deeper.decoder(x, x, None))
    assert with_blocks(model, 0) is model


def test_a_decoder_of_another_shape_or_for_no_z_is_refused() -> None:
    model = to_floats(tiny())
    with pytest.raises(UnknownModel, match="another shape"):
        with_decoder(model, VLAE(dataclasses.replace(model.config, channels=2 * model.config.channels)))
    with pytest.raises(UnknownModel, match="with a z"):
        with_decoder(to_floats(tiny("tiny-no-z")), to_floats(tiny("tiny-no-z")))


def test_a_channel_far_below_zero_is_exported() -> None:
    floats = to_floats(tiny())
    pixels = picture("smooth", 96, 96, 3)
    with torch.no_grad():
        block = floats.encoder.blocks[0]
        block.weight1[0] *= 1e3
        block.bias1[0] = -1e7
    torch.manual_seed(0)
    again = to_integers(floats, measure_ranges(floats, [pixels]))
    assert 2**12 < again.layers["encoder.block0.0"].scale.max() <= 2**16
    kind = StageKind.PLAIN_Z
    assert coded_bits(again, pixels, kind) == pytest.approx(coded_bits(tiny(), pixels, kind), rel=0.02)


@pytest.mark.parametrize("name", BINARY)
def test_models_for_binary_images_too(name: str) -> None:
    images = binary_images(200, 8)
    floats = to_floats(tiny(name))
    torch.manual_seed(0)
    again = to_integers(floats, measure_binary_ranges(floats, images))
    sizes = []
    for integers in (tiny(name), again):
        archive = vlae_codec.archive_array(images, model_from_bytes(integers.to_bytes(), "mine", "cpu"))
        sizes.append(len(archive))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_what_no_parameters_give_is_refused() -> None:
    model = tiny("tiny")
    # The float network keeps a channel of z from those that come after it.
    model.layers["prior.1"].weight[prior_masks(model.config)[1] == 0] = 1000
    with pytest.raises(UnknownModel, match="none that training can give"):
        to_floats(model)


def test_training_goes_on_from_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(picture("smooth", 64, 64, i)).save(folder / f"{i}.png")
    runner = CliRunner()
    common = ["train", "--data", folder, "--batch", 1, "--crop", 32, "--fp32", "--device", "cpu", "--steps", 2]

    def run(*more: object) -> tuple[int, str]:
        result = runner.invoke(main, [str(a) for a in [*common, *more]])
        return result.exit_code, result.output

    for number, start in enumerate(("tiny", GOLDEN / "tiny.safetensors")):
        output = tmp_path / str(number)
        assert run("-o", output, "--start", start, "--rate", 0, "--matrix-rate", 0) == (0, "")
        model, about = load_average(output / "checkpoint.pt")
        assert about["step"] == 2
        assert model.config == tiny("tiny").config
        for mine, other in zip(model.parameters(), to_floats(tiny("tiny")).parameters(), strict=True):
            assert torch.equal(mine, other)
    assert run("-o", tmp_path / "0", "--start", "tiny", "--rate", 0, "--matrix-rate", 0, "--until", 2) == (0, "")
    grafted = tmp_path / "grafted"
    assert run("-o", grafted, "--start", "tiny", "--decoder", "tiny", "--rate", 0, "--matrix-rate", 0) == (0, "")
    parameters = load_average(grafted / "checkpoint.pt")[0].features.state_dict()
    assert {name for name, value in parameters.items() if not value.any()} >= set(FOR_DECODER)
    deeper = tmp_path / "deeper"
    assert run("-o", deeper, "--start", "tiny", "--blocks", 5, "--rate", 0, "--matrix-rate", 0) == (0, "")
    assert load_average(deeper / "checkpoint.pt")[0].config.blocks == 5
    for more in ([], ["--start", grafted / "checkpoint.pt"]):
        code, output = run("-o", tmp_path / "c", "--decoder", "tiny", *more)
        assert (code, "name one with --start, not a checkpoint" in output) == (2, True)
    for more, match in (
        (["--start", "tiny", "--channels", 16], "channels was 8, is 16 now"),
        (["--start", "tiny", "--blocks", 0], "depthwise blocks are"),
        (["--start", "tiny", "--changed", 1.5], "changed is 1.5, expected 0..1"),
        (["--start", grafted / "checkpoint.pt", "--blocks", 5], "blocks was"),
        (["--start", "tiny-binary"], "a model for binary images: give --config vlae"),
        (["--start", "nobody"], "no model 'nobody'"),
        (["--start", "tiny", "--decoder", "tiny-no-z"], "has another shape"),
        (["--start", "tiny-no-z", "--decoder", "tiny-no-z"], "with a z"),
    ):
        code, output = run("-o", tmp_path / "c", *more)
        assert (code, output.count("\n")) == (1, 1)
        assert match in output
