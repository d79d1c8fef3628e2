"""Photographs and archives of binary images coded on the CPU and on a GPU: the same bytes, and either decodes both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, GOLDEN, binary_images
from PIL import Image

import vlae_codec
from vlae_codec.registry import find_model

FILES = sorted(GOLDEN.glob("tiny*.vlae"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU on this machine"),
]


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("name", ["photo", "photo-global"])
def test_a_photograph_both_ways(name: str, adapt: bool) -> None:
    image = Image.open(EXAMPLES / "lake.png").convert("RGB").crop((0, 0, 203, 170))
    models = {device: vlae_codec.load_model(name, device, adapt) for device in ("cpu", "cuda")}
    assert models["cuda"].photographs.on_device is not None
    files = {device: vlae_codec.compress(image, model, verify=False) for device, model in models.items()}
    assert files["cpu"] == files["cuda"]
    for model in models.values():
        assert vlae_codec.decompress(files["cpu"], model).tobytes() == image.tobytes()


@pytest.mark.parametrize("path", [path for path in FILES if "binary" not in path.stem], ids=lambda path: path.stem)
def test_golden_photographs(path: Path) -> None:
    data = path.read_bytes()
    wanted = bytes.fromhex(vlae_codec.info(data)["model_id"])
    found, expected = (vlae_codec.decompress(data, find_model(wanted, device)) for device in ("cuda", "cpu"))
    assert found.tobytes() == expected.tobytes()


def test_binary_images_both_ways() -> None:
    images = binary_images(200, 28)
    models = {device: vlae_codec.load_model("static-mnist", device) for device in ("cpu", "cuda")}
    files = {device: vlae_codec.archive_array(images, model, verify=False) for device, model in models.items()}
    assert files["cpu"] == files["cuda"]
    for model in models.values():
        assert np.array_equal(vlae_codec.Archive(io.BytesIO(files["cpu"]), model).array(), images)
