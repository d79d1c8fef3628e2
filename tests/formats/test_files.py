"""Whole image files: what comes back is the same image, or the very file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, picture, png_16_bit_rgb
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

import vlae_codec
from vlae_codec import Model, UnsupportedImage
from vlae_codec.formats import header as container
from vlae_codec.formats import single as api
from vlae_codec.formats.header import Reason
from vlae_codec.formats.source import FileOptions, compress_file, restore_file
from vlae_codec.images import fallback, jpeg
from vlae_codec.images.pixels import to_planes

SUITE = Path(__file__).parent.parent / "data" / "pngsuite.zip"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def check(source: bytes, name: str, model: Model, **options: bool) -> dict:
    """Compress and restore a file; what `info` says of it must come back. Gives `info`."""
    data = compress_file(source, name, model, FileOptions(**options))
    what = vlae_codec.info(data)
    got_name, got = restore_file(data, model)
    assert got_name == name
    if what["mode"] == "stored":
        assert len(data) <= len(source) + 64 + len(name)
    if what["restores"] == "bit for bit":
        assert got == source
        return what
    with Image.open(io.BytesIO(source)) as before, Image.open(io.BytesIO(got)) as after:
        assert (after.format, after.mode, after.size) == (before.format, before.mode, before.size)
        assert fallback.digest_of(after) == fallback.digest_of(before)
    if what["restores"] != "pixels":
        assert other_chunks(got) == other_chunks(source)
    return what


def other_chunks(png: bytes) -> list[bytes]:
    """All of a PNG but its deflated pixels, in order."""
    return [body for name, body in chunks_of(png) if name != b"IDAT"]


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """Names and whole chunks, and what follows the last."""
    at, found = 8, []
    while at < len(png) and (not found or found[-1][0] != b"IEND"):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
    return [*found, (b"", png[at:])]


def suite() -> list[str]:
    with zipfile.ZipFile(SUITE) as files:
        return [name for name in files.namelist() if name.endswith(".png")]


@pytest.mark.parametrize("name", suite())
def test_png_suite(name: str, tiny_model: Model) -> None:
    with zipfile.ZipFile(SUITE) as files:
        source = files.read(name)
    # Damaged on purpose; Pillow does not mind the last one's checksum.
    if name.startswith("x") and name != "xcsn0g01.png":
        with pytest.raises(UnsupportedImage, match="image"):
            compress_file(source, name, tiny_model)
        return
    check(source, name, tiny_model)


def test_every_word_of_a_png_is_kept(tiny_model: Model) -> None:
    info = PngInfo()
    info.add_text("Title", "a picture")
    info.add_text("Description", "words " * 200, zip=True)
    info.add_itxt("Author", "Đặng", lang="vi", tkey="Tác giả")
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    info.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in range(31270, 31278)))
    info.add(b"tIME", bytes([7, 234, 11, 24, 1, 2, 3]))
    info.add(b"bKGD", bytes(6))
    info.add(b"prVt", b"private", after_idat=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    source = saved(
        Image.fromarray(picture("smooth", 90, 80)), "PNG", pnginfo=info, exif=exif, icc_profile=SRGB, dpi=(300, 144)
    )
    what = check(source, "words.png", tiny_model)
    assert what["mode"] != "stored"
    _, restored = restore_file(compress_file(source, "words.png", tiny_model), tiny_model)
    assert other_chunks(restored) == other_chunks(source)
    image = vlae_codec.decompress(compress_file(source, "words.png", tiny_model), tiny_model)
    assert image.info["icc_profile"] == SRGB
    assert image.info["Author"] == "Đặng"
    assert image.getexif()[0x0112] == 6


def test_strip_drops_what_is_said_and_keeps_what_is_seen(tiny_model: Model) -> None:
    info = PngInfo()
    info.add_text("Author", "me")
    image = Image.fromarray(picture("smooth", 60, 60)).quantize(40)
    source = saved(image, "PNG", pnginfo=info, transparency=bytes(range(40)), icc_profile=SRGB)
    check(source, "a.png", tiny_model, strip=True)
    _, restored = restore_file(compress_file(source, "a.png", tiny_model, FileOptions(strip=True)), tiny_model)
    names = {name for name, _ in chunks_of(restored)}
    assert names == {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b""}


FORMATS = {
    "bmp": ("BMP", "RGB", {}),
    "tga": ("TGA", "RGBA", {}),
    "ppm": ("PPM", "RGB", {}),
    "pgm": ("PPM", "L", {}),
    "tif": ("TIFF", "CMYK", {"dpi": (72, 72), "description": "words"}),
    "sgi": ("SGI", "RGB", {}),
    "qoi": ("QOI", "RGB", {}),
    "png": ("PNG", "RGBA", {"icc_profile": SRGB}),
    "webp": ("WEBP", "RGBA", {"lossless": True, "exact": True, "icc_profile": SRGB}),
    "gif": ("GIF", "P", {"comment": b"words"}),
    "tiff": ("TIFF", "CMYK", {"compression": "tiff_lzw", "dpi": (72, 72)}),
    "pcx": ("PCX", "P", {}),
}
#: Formats that are coded by their pixels.
CODED = ("bmp", "tga", "ppm", "pgm", "tif", "sgi", "qoi", "png")


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_formats_come_back(suffix: str, tiny_model: Model) -> None:
    fmt, mode, options = FORMATS[suffix]
    image = Image.fromarray(picture("smooth", 70, 90))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    what = check(saved(image.convert(mode), fmt, **options), f"a.{suffix}", tiny_model)
    assert (what["mode"] != "stored") == (suffix in CODED)
    if suffix != "png":
        assert what["restores"] == "bit for bit"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_coded_beside_the_model(mode: str, tiny_model: Model) -> None:
    colour = Image.fromarray(picture("smooth", 120, 100)).convert(mode)
    for alpha in (Image.radial_gradient("L").resize((100, 120)), Image.new("L", (100, 120), 200)):
        colour.putalpha(alpha)
        what = check(saved(colour, "PNG"), "a.png", tiny_model)
        if what["mode"] != "fallback":
            assert what["bits"]["alpha"] >= 16
    values = np.asarray(colour)
    planes, kind = to_planes(values)
    header = container.Header(container.FileKind.VLAE, 100, 120, fallback.digest_of(colour))
    header.alpha = api._encode_alpha(values)
    data = api.encode_as(api.StageKind.WITHOUT_Z, planes, kind, header, tiny_model)
    assert vlae_codec.decompress(data, tiny_model).tobytes() == colour.tobytes()


def frame(seed: int = 1) -> Image.Image:
    return Image.fromarray(picture("smooth", 20, 20, seed))


def moving(fmt: str) -> bytes:
    return saved(frame(), fmt, save_all=True, append_images=[frame(2)])


@pytest.mark.parametrize(
    ("name", "reason", "source"),
    [
        ("a.jpg", Reason.LOSSY, lambda: saved(frame(), "JPEG", quality=80)),
        ("lossy.webp", Reason.LOSSY, lambda: saved(frame(), "WEBP", quality=80)),
        ("deep.ppm", Reason.DEPTH, lambda: b"P3 1 1 65535 1 2 3\n"),
        ("words.tif", Reason.FORMAT, lambda: saved(frame(), "TIFF", compression="tiff_lzw")),
        ("moving.gif", Reason.FRAMES, lambda: moving("GIF")),
        ("moving.webp", Reason.FRAMES, lambda: moving("WEBP")),
        ("pages.tif", Reason.FRAMES, lambda: moving("TIFF")),
        ("old.ico", Reason.FORMAT, lambda: saved(frame(), "ICO")),
        ("photo.tif", Reason.LOSSY, lambda: saved(frame(), "TIFF", compression="jpeg")),
    ],
)  # fmt: skip
def test_what_would_lose_something_is_kept_as_it_is(name: str, reason: Reason, source, tiny_model: Model) -> None:
    what = check(source(), name, tiny_model)
    assert (what["mode"], what["why"]) == ("stored", reason.text)


def test_a_jpeg_is_stored_smaller_and_comes_back_bit_for_bit(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    if jpeg._library() is None:
        pytest.skip("needs imagecodecs or pillow-jxl-plugin, which recompress JPEG")
    source = saved(Image.fromarray(picture("smooth", 120, 160)), "JPEG", quality=80, progressive=True)
    data = compress_file(source, "a.jpg", tiny_model)
    assert len(data) < 0.95 * len(source)
    what = check(source, "a.jpg", tiny_model)
    assert (what["mode"], what["why"]) == ("stored", Reason.LOSSY.text)
    # Where neither package is, such a file is not written, and not read as something else.
    monkeypatch.setattr(jpeg, "_library", lambda: None)
    assert len(compress_file(source, "a.jpg", tiny_model)) > len(data)
    with pytest.raises(UnsupportedImage, match="install pillow-jxl-plugin or imagecodecs"):
        restore_file(data)


def test_pixels_of_a_jpeg_are_coded_when_asked_for(tiny_model: Model) -> None:
    source = saved(Image.fromarray(picture("smooth", 50, 50)), "JPEG", quality=80, exif=Image.Exif().tobytes())
    data = compress_file(source, "a.jpg", tiny_model, FileOptions(pixels=True))
    assert vlae_codec.info(data)["mode"] != "stored"
    name, restored = restore_file(data, tiny_model)
    with Image.open(io.BytesIO(source)) as before, Image.open(io.BytesIO(restored)) as after:
        assert (name, after.format) == ("a.jpg.png", "PNG")
        assert after.tobytes() == before.tobytes()
    with pytest.raises(UnsupportedImage, match="more than 8 bits"):
        compress_file(b"P3 1 1 65535 1 2 3\n", "deep.ppm", tiny_model, FileOptions(pixels=True))


def test_a_stored_image_is_read_where_pillow_reads_all_of_it(tiny_model: Model) -> None:
    source = saved(Image.fromarray(picture("smooth", 20, 20)), "JPEG")
    with Image.open(io.BytesIO(source)) as image:
        assert vlae_codec.decompress(compress_file(source, "a.jpg", tiny_model)).tobytes() == image.tobytes()
    with pytest.raises(UnsupportedImage, match="more than 8 bits"):
        vlae_codec.decompress(compress_file(png_16_bit_rgb(), "deep.png", tiny_model))


def synthetic(kind: str) -> Image.Image:
    """Pictures as they are not photographed."""
    rng = np.random.default_rng(0)
    if kind == "chart":
        image = Image.new("RGB", (300, 200), "white")
        for i in range(12):
            image.paste(((i * 20) % 256, 90, 200), (20 + i * 22, 190 - i * 13, 36 + i * 22, 190))
        return image
    if kind == "icon":
        return Image.radial_gradient("L").resize((48, 48)).convert("RGBA")
    if kind == "art":
        return Image.fromarray(rng.integers(0, 4, (24, 24), np.uint8) * 80).resize((240, 240), 0).convert("RGB")
    if kind == "scan":
        page = np.full((220, 160), 255, np.uint8)
        page[20:200:9, 12:150] = rng.integers(0, 2, (20, 138)) * 255
        return Image.fromarray(page).convert("1")
    if kind == "palette":
        return Image.fromarray(picture("smooth", 100, 130)).quantize(32)
    with Image.open(EXAMPLES / "lake.png") as image:
        return image.crop((300, 200, 420, 300))


@pytest.mark.parametrize("kind", ["chart", "icon", "art", "scan", "palette", "photograph"])
def test_never_silly(kind: str, tiny_model: Model) -> None:
    image = synthetic(kind)
    source = saved(image, "PNG")
    size = len(compress_file(source, f"{kind}.png", tiny_model))
    rgb = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
    webp = len(saved(rgb, "WEBP", lossless=True, quality=100, method=6, exact=True))
    png = len(saved(image, "PNG", optimize=True))
    # The name and the format it tells take some bytes of their own; so does a palette, which WebP needs none of.
    palette = len(image.getpalette() or []) if image.mode == "P" else 0
    assert size <= min(len(source), webp + palette, png) + 64 + len(kind) + 4


@pytest.mark.parametrize("name", ["", "../a.png", "a/b.png", "a\0.png", "x" * 300, ".."])
def test_names_that_no_file_should_have_are_not_kept(name: str, tiny_model: Model) -> None:
    source = saved(Image.fromarray(picture("smooth", 20, 20)), "PNG")
    data = compress_file(source, name, tiny_model)
    assert restore_file(data, tiny_model)[0] == ""


def test_a_stored_file_is_checked() -> None:
    data = container.write_stored(Reason.LOSSY, "a.jpg", b"content")
    assert container.read_stored(data) == (Reason.LOSSY, "a.jpg", b"content")
    for i in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            damaged = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
            with pytest.raises(vlae_codec.VlaeError):
                container.read_stored(damaged)
    evil = container.write_stored(Reason.LOSSY, "../../evil", b"content")
    with pytest.raises(vlae_codec.CorruptFile, match="name of a file"):
        container.read_stored(evil)
