from __future__ import annotations

import concurrent.futures
import pickle
import re

import numpy as np
import pytest
from conftest import ROOT, picture
from numcodecs.registry import get_codec
from PIL import Image

import vlae_codec
from vlae_codec import CorruptFile, UnsupportedImage, VlaeError
from vlae_codec.plugins.numcodecs import Vlae

pytestmark = pytest.mark.usefixtures("model_wins")
PIXELS = picture("smooth", 40, 48)
GREY = np.ascontiguousarray(PIXELS[..., 0])
SHAPES = [(40, 48), (40, 48, 3), (1, 40, 48), (3, 40, 16), (40, 48, 1), (7, 2, 3), (3, 20, 16, 3), (1, 40, 48, 3)]


def chunk_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(PIXELS, shape)


@pytest.fixture
def codec() -> Vlae:
    return get_codec({"id": "vlae", "model": "tiny"})


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_come_back(codec: Vlae, shape: tuple[int, ...]) -> None:
    chunk = chunk_of(shape)
    data = codec.encode(chunk)
    again = codec.decode(data)
    assert again.dtype == np.uint8
    assert np.array_equal(again, chunk)
    for out in (np.empty(shape, np.uint8), bytearray(chunk.nbytes), np.empty(chunk.size, np.int8)):
        assert codec.decode(np.frombuffer(data, np.uint8), out) is out
        assert bytes(out) == chunk.tobytes()


def test_a_chunk_is_an_ordinary_file(codec: Vlae) -> None:
    stack = np.stack([GREY, GREY[::-1] // 2])
    image = vlae_codec.decompress(codec.encode(stack))
    assert np.array_equal(np.asarray(image), stack.reshape(80, 48))


@pytest.mark.parametrize(
    "chunk",
    [
        PIXELS.astype(np.int16),
        PIXELS[0, 0],
        PIXELS[None, None],
        GREY[None, None],
        PIXELS[:0],
        b"bytes",
        GREY.T,
        GREY[:, ::2],
    ],
    ids=["int16", "1-D", "5-D", "4-D grey", "empty", "bytes", "Fortran order", "gaps"],
)
def test_other_chunks_are_refused(codec: Vlae, chunk: object) -> None:
    with pytest.raises(UnsupportedImage, match="chunk of .* expected"):
        codec.encode(chunk)


@pytest.mark.parametrize(
    "out", [np.empty((40, 47), np.uint8), np.empty((40, 48), np.uint16), np.empty((48, 40), np.uint8).T]
)
def test_an_out_that_does_not_fit_is_refused(codec: Vlae, out: np.ndarray) -> None:
    with pytest.raises(UnsupportedImage, match="out has .* expected 1920 in C order"):
        codec.decode(codec.encode(GREY), out)


def test_damage_is_found(codec: Vlae) -> None:
    data = codec.encode(chunk_of((3, 40, 16)))
    out = np.zeros((3, 40, 16), np.uint8)
    for at in range(0, len(data), 53):
        with pytest.raises(VlaeError):
            codec.decode(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], out)
    with pytest.raises(CorruptFile):
        codec.decode(data[:-1], out)
    assert not out.any()


@pytest.mark.parametrize("comment", ["a picture", "images below each other: 7", "images below each other: 0"])
def test_a_comment_that_says_no_shape_is_refused(codec: Vlae, comment: str, tiny_model: vlae_codec.Model) -> None:
    image = Image.fromarray(GREY)
    image.info["comment"] = comment
    with pytest.raises(CorruptFile, match="has the comment"):
        codec.decode(vlae_codec.compress(image, tiny_model))


def test_files_that_are_no_chunk_are_refused(codec: Vlae, tiny_model: vlae_codec.Model) -> None:
    with pytest.raises(CorruptFile, match="mode RGBA, expected L or RGB"):
        codec.decode(vlae_codec.compress(Image.new("RGBA", (4, 4)), tiny_model))


def test_the_configuration_is_the_model(codec: Vlae) -> None:
    assert codec.get_config() == {"id": "vlae", "model": "tiny"}
    assert pickle.loads(pickle.dumps(codec)) == codec == get_codec(codec.get_config())
    assert Vlae().model == "photo"
    assert vlae_codec.info(codec.encode(PIXELS))["model"] == "tiny"


def test_many_threads_may_call(codec: Vlae) -> None:
    chunks = [picture("smooth", 40, 48, seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = list(pool.map(codec.decode, pool.map(codec.encode, chunks)))
    assert np.array_equal(again, chunks)


def test_the_entry_point_leads_to_the_codec() -> None:
    # Read from the sources, as an older installation may stand beside them.
    lines = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project\.entry-points\."numcodecs\.codecs"\]\nvlae = "([\w.]+):(\w+)"', lines)
    assert found is not None
    assert found.groups() == (Vlae.__module__, Vlae.__qualname__)
