"""What the kernels for a GPU decode and learn, in Triton's interpreter, against what the CPU's loops coded."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import compiled, picture, tiny
from interpreted import _faster_interpreter, on_device  # noqa: F401

from vlae_codec.coding import adapt
from vlae_codec.coding.photo import Canvas, PhotoCoder
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.entropy.ans import Message, Messages
from vlae_codec.errors import CorruptFile
from vlae_codec.stages import Costs, Stage, StageKind, no_progress


@pytest.fixture(autouse=True)
def _a_few_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlae_codec.coding.photo.lanes_for", lambda subpixels: 5)


# Depthwise blocks with z, masked ones without; stages below others; lanes whose number is no power of two; grey
# pictures and values that do not occur.
@pytest.mark.parametrize(
    ("name", "sort", "size", "kind", "adapts"),
    [
        ("tiny", "gaps", (6, 5), StageKind.PLAIN_Z, False),
        ("tiny", "smooth", (3, 5), StageKind.WITHOUT_Z, True),
        ("tiny-no-z", "grey", (6, 4), StageKind.WITHOUT_Z, False),
    ],
)
def test_the_device_decodes_what_the_cpu_coded(
    name: str, sort: str, size: tuple[int, int], kind: StageKind, adapts: bool
) -> None:
    image, model, middle = picture(sort, *size), tiny(name), size[0] // 2 + 1
    alphabet = Alphabet.of(image, 1 if sort == "grey" else 3)
    stages = [Stage(0, middle, kind), Stage(middle, size[0], kind)]
    coder, message = PhotoCoder(model), Message(3) if kind is StageKind.PLAIN_Z else Messages(2, 1)
    canvas = Canvas(image, alphabet, Costs(), no_progress, adapts)
    for stage in reversed(stages):
        coder.stage_codec(canvas, stage).push(message, canvas.rows(stage))
    done: list[int] = []
    again, _ = on_device(model).decode(message, size, alphabet, stages, done.append, adapts)
    assert np.array_equal(again, image)
    assert sum(done) == image.shape[0] * image.shape[1]


def test_the_device_learns_as_the_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # Enough pixels for a step of Adam, and in a step for each message to have more than its lanes.
    monkeypatch.setattr("vlae_codec.coding.photo.message_for", lambda *_: Messages(2, 2))
    image, model = picture("grey", 12, 12), tiny("tiny-pointwise")
    alphabet = Alphabet.of(image, 1)
    expected = PhotoCoder(model).encode(image, alphabet, StageKind.WITHOUT_Z, adapts=True)
    assert image[..., 0].size > adapt.GROUP
    found = on_device(model).encode(image, alphabet, StageKind.WITHOUT_Z, adapts=True)
    assert np.array_equal(found.message.flatten(), expected.message.flatten())
    assert found.costs.pixels == expected.costs.pixels
    again, _ = on_device(model).decode(found.message, (12, 12), alphabet, found.stages, adapts=True)
    assert np.array_equal(again, image)


def test_a_message_that_ends_too_soon_is_told() -> None:
    image, model = picture("noise", 4, 5), tiny("tiny-pointwise")
    alphabet = Alphabet.of(image, 3)
    message, stages, _ = PhotoCoder(model).encode(image, alphabet, StageKind.WITHOUT_Z)
    short = Message.unflatten(message.flatten()[:-5], message.lanes)
    with pytest.raises(CorruptFile, match="too soon"):
        on_device(model).decode(short, (4, 5), alphabet, stages)


def test_a_device_that_gives_other_pixels_is_found() -> None:
    coder = on_device(tiny("tiny-pointwise"))
    steps = coder.on_device
    assert steps is not None
    assert coder.agrees(steps, (2, 2))
    steps.net.window.bias.add_(1 << 20)
    assert not coder.agrees(steps, (2, 2))


def test_a_step_of_adam_is_the_cpus_to_the_bit() -> None:
    import torch
    from vlae_codec.models.exact import device as network
    from vlae_codec.models.exact.steps import Area

    from vlae_codec.coding.device import DeviceSteps
    from vlae_codec.coding.device_heads import DIGITS, UPDATE, Heads, update_kernel

    model, rng = tiny("tiny"), np.random.default_rng(0)
    steps, known = DeviceSteps(model, torch.device("cpu")), adapt.Heads.of(model, 40, 40, 1)
    heads, shape = Heads.of(model, torch.device("cpu")), steps.shape
    area = Area(np.zeros((40, 40, 3), np.uint8), 0, 40, model.config.skew)
    stage = steps._stage(area, None)
    wide, outputs = (shape.channels + 1) * shape.channels, model.config.outputs
    parts = (
        (known.first, known.first_sums[0], known.first_means, slice(0, wide), shape.channels),
        (known.second, known.second_sums[0], known.second_means, slice(wide, None), shape.outputs),
    )
    rows = [*range(model.config.channels), shape.channels]
    update = compiled(adapt._update)
    for turn in range(2):
        for weights, sums, _, where, width in parts:
            new = np.rint(rng.normal(0, 2.0**30, sums.shape) * rng.choice([0, 1e-6, 1], sums.shape))
            sums[:] = new
            heads.sums[where].view(-1, width)[rows, : weights.shape[1]] = torch.from_numpy(new.astype(np.int64))
        # A step of 13 pixels completes a group.
        known.pixels[0] = adapt.GROUP + turn
        count = known.pixels[0] + 13
        stage.place[network.DUE.value] = int(count)
        heads.rates[1:3] *= torch.tensor([adapt.DECAY, adapt.SQUARE_DECAY], dtype=torch.float64)
        update(known, area, 36)
        update_kernel[(-(-len(heads.weights) // UPDATE),)](stage, heads, shape)
        for weights, _, means, where, width in parts:
            for expected, found in ((weights, heads.weights), (means[0], heads.means), (means[1], heads.squares)):
                assert np.array_equal(found[where].view(-1, width)[rows, : weights.shape[1]].numpy(), expected)
    assert outputs < shape.outputs
    whole = sum(heads.digits[n].double() * 256.0**n for n in range(DIGITS))
    assert torch.equal(whole, heads.weights)
    assert not heads.sums.any()
