from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, picture

zarr = pytest.importorskip("zarr", minversion="3")

from zarr.registry import register_codec  # noqa: E402

import vlae_codec  # noqa: E402
from vlae_codec.errors import UnsupportedImage, VlaeError  # noqa: E402
from vlae_codec.plugins.zarr import VlaeCodec  # noqa: E402

pytestmark = pytest.mark.usefixtures("model_wins")
PIXELS = picture("smooth", 40, 48)
SHAPES = [
    ((40, 48), (16, 48)), ((40, 48, 3), (32, 32, 3)), ((3, 40, 16), (2, 40, 16)), ((5, 20, 16, 3), (2, 20, 16, 3)),
    ((2, 2, 20, 16, 3), (1, 2, 20, 16, 3)), ((2, 2, 2, 8, 16), (2, 2, 1, 8, 9)), ((40, 48, 3), (8, 8, 1)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _known() -> None:
    """An older installation may stand beside the sources, without the entry point."""
    register_codec("vlae", VlaeCodec)


@pytest.mark.parametrize(("shape", "chunks"), SHAPES)
def test_arrays_come_back_from_disk(tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    values = np.resize(PIXELS, shape)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=shape, chunks=chunks, dtype="uint8", serializer=VlaeCodec("tiny"), compressors=None
    )
    array[:] = values
    again = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert np.array_equal(again[:], values)
    assert np.array_equal(again[1:, 3:7], values[1:, 3:7])
    codecs = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["codecs"]
    assert codecs == [{"name": "vlae", "configuration": {"model": "tiny"}}]


def test_sharded_and_in_fortran_order(tmp_path: Path) -> None:
    values = np.resize(PIXELS, (4, 16, 16))
    for options in ({"shards": (4, 16, 16)}, {"config": {"order": "F"}}):
        array = zarr.create_array(
            {}, shape=values.shape, chunks=(2, 16, 16), dtype="uint8", serializer=VlaeCodec("tiny"), compressors=None,
            **options,
        )  # fmt: skip
        array[:] = np.asfortranarray(values)
        assert np.array_equal(array[:], values)


def test_a_chunk_is_an_ordinary_file_and_damage_is_found(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path, name="a", shape=(40, 48, 3), chunks=(40, 48, 3), dtype="uint8", serializer=VlaeCodec("tiny"),
        compressors=None,
    )  # fmt: skip
    array[:] = PIXELS
    path = tmp_path / "a" / "c" / "0" / "0" / "0"
    data = path.read_bytes()
    assert np.array_equal(np.asarray(vlae_codec.decompress(data)), PIXELS)
    path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    with pytest.raises(VlaeError):
        array[:]
    path.write_bytes(vlae_codec.compress(np.zeros((4, 4, 3), np.uint8), vlae_codec.load_model("tiny", "cpu")))
    with pytest.raises(VlaeError, match=r"the chunk has shape \(4, 4, 3\), expected \(40, 48, 3\)"):
        array[:]


@pytest.mark.parametrize(("shape", "dtype"), [((40, 48), "int16"), ((40,), "uint8"), ((40, 48), "bool")])
def test_other_arrays_are_refused_when_they_are_made(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(UnsupportedImage, match="array of .* expected uint8"):
        zarr.create_array({}, shape=shape, chunks=shape, dtype=dtype, serializer=VlaeCodec("tiny"), compressors=None)


def test_the_entry_point_leads_to_the_codec() -> None:
    lines = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project\.entry-points\."zarr\.codecs"\]\nvlae = "([\w.]+):(\w+)"', lines)
    assert found is not None
    assert found.groups() == (VlaeCodec.__module__, VlaeCodec.__qualname__)
