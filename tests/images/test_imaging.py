from __future__ import annotations

import io
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from conftest import picture, png_16_bit_rgb
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import vlae_codec
from vlae_codec import CorruptFile, Model, UnsupportedImage
from vlae_codec.formats.header import FallbackKind
from vlae_codec.images import fallback, metadata
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import check_size


@pytest.mark.parametrize(
    "data",
    [png_16_bit_rgb(), b"P6 2 2 65535\n" + bytes(range(24)), b"P6 2 2 1023\n" + bytes(range(24))],
    ids=["png", "ppm", "ppm-10-bit"],
)
def test_what_pillow_would_round_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="more than 8 bits"):
        imaging.open_image(data, "deep")


def test_16_bit_grey_is_kept(tiny_model: Model) -> None:
    values = np.arange(0, 65536, 41, dtype=np.uint16)[:1500].reshape(30, 50)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    image = imaging.open_image(buffer.getvalue(), "grey")
    restored = vlae_codec.decompress(vlae_codec.compress(image, tiny_model), tiny_model)
    assert np.array_equal(np.asarray(restored), values)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(imaging.encode_output(restored, ".png")))), values)


def test_text_that_is_named_like_metadata_does_no_harm(tiny_model: Model) -> None:
    text = PngInfo()
    for name in ("dpi", "transparency", "icc_profile", "Author"):
        text.add_text(name, "words")
    buffer = io.BytesIO()
    Image.fromarray(picture("smooth", 8, 8)).save(buffer, "PNG", pnginfo=text)
    image = imaging.open_image(buffer.getvalue(), "named")
    restored = vlae_codec.decompress(vlae_codec.compress(image, tiny_model), tiny_model)
    with Image.open(io.BytesIO(imaging.encode_output(restored, ".png"))) as again:
        assert again.info["Author"] == "words"
        assert "transparency" not in restored.info


@pytest.mark.parametrize(
    "values",
    [{"dpi": "x"}, {"exif": {"bytes": "%"}}, {"exif": {}}, {"text": 5}, {"gamma": "1"}, {"icc_profile": [1]}],
)
def test_metadata_of_another_form_is_refused(values: dict) -> None:
    with pytest.raises(CorruptFile, match="metadata"):
        metadata.restore_metadata(Image.new("L", (1, 1)), values)


def test_every_fallback_is_read_back_and_checked() -> None:
    image = Image.fromarray(picture("smooth", 11, 9))
    png = fallback.saved(image, "PNG")
    webp = fallback.saved(image, "WEBP", lossless=True, exact=True)
    raw = fallback.raw(image)
    for kind, data in ((FallbackKind.PNG, png), (FallbackKind.WEBP, webp), (FallbackKind.DEFLATE, raw)):
        assert fallback.read_fallback(kind, data, "RGB", (9, 11)).tobytes() == image.tobytes()
        with pytest.raises(CorruptFile):
            fallback.read_fallback(kind, data, "RGB", (9, 12))
        with pytest.raises(CorruptFile):
            fallback.read_fallback(kind, data[: len(data) // 2], "RGB", (9, 11))
        with pytest.raises(CorruptFile):
            fallback.read_fallback(kind, data, "nonsense", (9, 11))


MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBX",
    "RGBA",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)


@pytest.mark.parametrize("mode", [*MODES, "I;16B"])
def test_deflated_pixels_of_every_mode_come_back(mode: str) -> None:
    # More rows than are inflated at once, of a width that does not fill the last byte of mode 1.
    size = (11, fallback.STRIP + 3)
    count = len(Image.new(mode, size).tobytes())
    image = Image.frombytes(mode, size, np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(bytes(range(30)))
    restored = fallback.read_fallback(FallbackKind.DEFLATE, fallback.raw(image), mode, size)
    assert restored.mode == mode
    assert fallback.digest_of(restored) == fallback.digest_of(image)


@pytest.mark.parametrize("count", [1 << 25, (1 << 26) - 1, (1 << 26) + 1, 1 << 27])
def test_a_deflated_bomb_is_not_inflated(count: int) -> None:
    bomb = zlib.compress(b"\0\0" + bytes(count))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match="payload"):
            fallback.read_fallback(FallbackKind.DEFLATE, bomb, "L", (1 << 13, 1 << 13))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: data[:-4] + bytes(4)]
)
def test_a_deflated_payload_ends_where_it_says(change: Callable[[bytes], bytes]) -> None:
    data = fallback.raw(Image.new("RGB", (9, 11), (1, 2, 3)))
    with pytest.raises(CorruptFile, match="payload"):
        fallback.read_fallback(FallbackKind.DEFLATE, change(data), "RGB", (9, 11))


def test_sizes_beyond_the_limit_are_refused() -> None:
    with pytest.raises(UnsupportedImage, match="0 x 5 pixels"):
        check_size((0, 5), "it")
    header = b"P5 40000 40000 255\n"
    with pytest.raises(UnsupportedImage, match=r"40000 x 40000 pixels|exceeds limit"):
        imaging.open_image(header, "huge")


@pytest.mark.parametrize(
    ("mode", "suffix", "advice"),
    [("P", ".tiff", "; use .png"), ("P", ".webp", "; use .png"), ("RGBA", ".ppm", "; use .png or .tiff")],
)
def test_another_format_is_advised_only_where_it_keeps_the_image(mode: str, suffix: str, advice: str) -> None:
    image = Image.fromarray(picture("smooth", 9, 7))
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    with pytest.raises(UnsupportedImage, match=f"does not keep an image of mode {mode} exactly{advice}$"):
        imaging.encode_output(image, suffix)
    for other in advice[6:].split(" or "):
        imaging.encode_output(image, other)
