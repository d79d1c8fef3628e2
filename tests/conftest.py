"""Fixtures: tiny models of every shape, and pictures of every sort."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numba import njit
from PIL import Image
from vlae_codec.models.exact.integer import IntegerModel

from vlae_codec import Model, load_model
from vlae_codec.formats import single as api
from vlae_codec.formats.header import FileKind, Header
from vlae_codec.formats.single import encode_as
from vlae_codec.images import pixels
from vlae_codec.registry import _has_gpu
from vlae_codec.stages import StageKind

# Compiling a kernel takes seconds the first time that it is called; that says nothing about the test.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("default")

# Where there is no GPU its kernels run in Triton's interpreter, which has to be said before Triton is loaded.
if not _has_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A run in the background begins with Ctrl-C ignored, and so would the commands that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = ROOT / "examples"


def tiny(name: str = "tiny") -> IntegerModel:
    return IntegerModel.from_bytes((GOLDEN / f"{name}.safetensors").read_bytes())


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A loop that only other loops call, compiled as they have it."""

    @njit
    def call(*arguments):
        return loop(*arguments)

    return call


@pytest.fixture(scope="session", params=["tiny", "tiny-pointwise", "tiny-no-z"])
def any_tiny_model(request: pytest.FixtureRequest) -> Model:
    """Each shape of decoder in turn."""
    return load_model(GOLDEN / f"{request.param}.safetensors", "cpu")


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    return load_model(GOLDEN / "tiny.safetensors", "cpu")


@pytest.fixture(scope="session", params=["tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"])
def any_binary_model(request: pytest.FixtureRequest) -> Model:
    """Models for binary images: with a window and an AF prior, with neither, and with all pixels but no z."""
    return load_model(GOLDEN / f"{request.param}.safetensors", "cpu")


@pytest.fixture(scope="session")
def binary_model() -> Model:
    return load_model(GOLDEN / "tiny-binary.safetensors", "cpu")


@pytest.fixture(autouse=True)
def _golden_models_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAE_CODEC_MODELS", str(GOLDEN))


@pytest.fixture
def model_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """RGB and grey images are coded by the model, though a tiny one is worse than WebP."""
    monkeypatch.setattr(api, "_fallback_may_win", lambda look, size: False)
    monkeypatch.setattr(api, "_model_may_win", lambda look: True)


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture with slopes, an edge and a little noise."""
    y, x = np.mgrid[:height, :width]
    base = 90 + 40 * np.sin(x / 9.0)[..., None] + np.array([0.4, 0.3, -0.2]) * y[..., None]
    base = base + 60 * ((x + y) > (height + width) // 2)[..., None]
    return np.clip(np.rint(base + rng.normal(0, 2, (height, width, 3))), 0, 255).astype(np.uint8)


def picture(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture (H, W, 3) uint8 of one of the kinds in `KINDS`."""
    rng = np.random.default_rng(seed)
    if kind == "smooth":
        return smooth(rng, height, width)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "extreme":
        return (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    if kind == "gaps":
        return (smooth(rng, height, width) // 7 * 7).astype(np.uint8)
    if kind == "grey":
        return np.repeat(smooth(rng, height, width)[..., :1], 3, axis=2)
    raise ValueError(kind)


def vlae_file(image: Image.Image, kind: StageKind, model: Model, orientation: int = 0) -> bytes:
    """A file of kind vlae, even where a fallback would be smaller, with stages of a given kind."""
    planes = pixels.to_planes(np.asarray(image))
    header = Header(FileKind.VLAE, *image.size, pixels.digest_of(image), orientation=orientation)
    return encode_as(kind, *planes, header, model)


def binary_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Images (N, S, S) of zeros and ones: a filled square somewhere, and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    top, left, side = rng.integers(0, size, (3, count, 1, 1))
    square = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    return (square ^ (rng.random((count, size, size)) < 0.02)).astype(np.uint8)


KINDS = ("smooth", "noise", "flat", "extreme", "gaps", "grey")


def png_16_bit_rgb() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + np.arange(12, dtype=">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of small photographs to train on."""
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(3):
        Image.fromarray(picture("smooth", 128, 140, i)).save(path / f"{i}.png")
    return path


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The URL of a bucket of a real server that speaks S3, of which this process and its children are told."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("pictures")
        yield "s3://pictures"
    server.stop()


@pytest.fixture(scope="session")
def digit_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of untrained models for images of 28x28: windows of no pixel, of 1, and with blocks that see farther."""
    import torch
    from vlae_codec.models.config import VLAEConfig
    from vlae_codec.models.training.export import measure_binary_ranges, to_integers
    from vlae_codec.models.vlae import VLAE

    folder, paths = tmp_path_factory.mktemp("digits"), []
    for seed, (reach, spatial) in enumerate(((0, False), (1, False), (2, True))):
        torch.manual_seed(seed)
        window = {"window_rows": reach, "window_left": reach, "window_right": reach}
        model = VLAE(
            VLAEConfig(
                image_size=28, channels=4, blocks=1, z_channels=8, z_hidden=16, image_width=4, spatial=spatial, **window
            )
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        paths.append(folder / f"digits-{reach}.safetensors")
        paths[-1].write_bytes(to_integers(model, measure_binary_ranges(model, binary_images(64, 28))).to_bytes())
    return paths
