from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlae_codec.errors import CorruptFile, UnsupportedImage
from vlae_codec.images import jpeg

LIBRARIES = {"imagecodecs": jpeg._imagecodecs, "plugin": jpeg._plugin}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each package in turn as the one that is here."""
    pytest.importorskip({"imagecodecs": "imagecodecs", "plugin": "pillow_jxl"}[request.param])
    found = LIBRARIES[request.param]()
    monkeypatch.setattr(jpeg, "_library", lambda: found)
    return


def jpeg_of(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


PIXELS = picture("smooth", 120, 160)


@pytest.mark.usefixtures("library")
@settings(max_examples=20)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 100), st.booleans(), st.sampled_from(["RGB", "L", "CMYK"]),
    st.integers(0, 2), st.binary(max_size=40),
)  # fmt: skip
def test_the_same_bytes_or_none(
    height: int, width: int, quality: int, progressive: bool, mode: str, subsampling: int, tail: bytes
) -> None:
    data = jpeg_of(
        picture("smooth", height, width), mode, quality=quality, progressive=progressive, subsampling=subsampling
    )
    packed = jpeg.recompress(data + tail)
    if packed is not None:
        assert len(packed) < len(data + tail)
        assert jpeg.restore(packed) == data + tail
        assert jpeg.size_of(packed) == (width, height)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 4},
     {"comment": b"made by hand", "dpi": (72, 72), "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}],
)  # fmt: skip
def test_jpeg_files_become_smaller(options: dict) -> None:
    for mode in ("RGB", "L"):
        data = jpeg_of(PIXELS, mode, **options)
        packed = jpeg.recompress(data)
        assert packed is not None
        assert len(packed) < 0.95 * len(data)
        assert jpeg.restore(packed) == data


@pytest.mark.parametrize("written", LIBRARIES)
@pytest.mark.parametrize("read", LIBRARIES)
def test_what_one_package_writes_the_other_reads(monkeypatch: pytest.MonkeyPatch, written: str, read: str) -> None:
    pytest.importorskip("imagecodecs")
    pytest.importorskip("pillow_jxl")
    data = jpeg_of(PIXELS)
    packed = LIBRARIES[written]().encode(data)
    assert LIBRARIES[read]().decode(packed) == data


@pytest.mark.usefixtures("library")
def test_what_is_no_whole_jpeg_is_left() -> None:
    data = jpeg_of(PIXELS)
    for other in (
        data[: len(data) // 2],
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" * 1000,
        data[:600] + data[700:],
        b"GIF89a",
    ):
        packed = jpeg.recompress(other)
        assert packed is None or jpeg.restore(packed) == other
    # More pixels than are asked for are not worth a try that nobody could undo.
    assert jpeg.recompress(data, 120 * 160 - 1) is None
    assert jpeg.recompress(data, 120 * 160) is not None


@pytest.mark.usefixtures("library")
def test_damage_is_an_error_or_another_file() -> None:
    data = jpeg_of(PIXELS)
    packed = jpeg.recompress(data)
    assert packed is not None
    for at in range(0, len(packed), 41):
        for damaged in (packed[:at], packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]):
            try:
                jpeg.restore(damaged)
            except CorruptFile:
                continue


@pytest.mark.usefixtures("library")
def test_a_file_that_claims_too_much_is_refused_before_it_is_decoded() -> None:
    packed = jpeg.recompress(jpeg_of(PIXELS))
    assert packed is not None
    with pytest.raises(CorruptFile, match="160 x 120 pixels, more than 19199"):
        jpeg.restore(packed, 19199)
    at = packed.index(b"\xff\x0a", 12) + 2
    # Not small, 30 bits of height less one, no ratio, 30 bits of width less one.
    size = 3 << 1 | (1 << 30) - 1 << 3 | 3 << 36 | ((1 << 30) - 1) << 38
    bomb = packed[:at] + size.to_bytes(9, "little") + packed[at + 9 :]
    with pytest.raises(CorruptFile, match=r"1073741824 x 1073741824 pixels, more than"):
        jpeg.restore(bomb)


def test_without_either_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_library", lambda: None)
    assert jpeg.recompress(jpeg_of(PIXELS)) is None
    with pytest.raises(UnsupportedImage, match="install pillow-jxl-plugin or imagecodecs"):
        jpeg.restore(jpeg.JXL)


@pytest.mark.usefixtures("library")
def test_a_jpeg_xl_file_that_was_no_jpeg_is_refused() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    data = bytes(imagecodecs.jpegxl_encode(PIXELS, lossless=True, usecontainer=True))
    with pytest.raises(CorruptFile, match="no JPEG can be made"):
        jpeg.restore(data)
