from __future__ import annotations

import io
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, binary_images, picture, vlae_file
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

import vlae_codec
import vlae_codec.plugins.pillow  # registers the format
from vlae_codec import CorruptFile, Model, VlaeError
from vlae_codec.formats import header as container
from vlae_codec.formats import single as api
from vlae_codec.formats.archive_writer import archive_array
from vlae_codec.formats.header import FallbackKind, FileKind, Header
from vlae_codec.formats.source import compress_file
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import digest_of
from vlae_codec.images.sets import find_images
from vlae_codec.stages import StageKind

pytestmark = pytest.mark.usefixtures("model_wins")
TINY = GOLDEN / "tiny.safetensors"


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture
def packed(tmp_path: Path, tiny_model: Model) -> Path:
    path = tmp_path / "in.vlae"
    path.write_bytes(vlae_file(Image.fromarray(picture("smooth", 40, 48)), StageKind.BITS_BACK, tiny_model))
    return path


def test_opening_decodes_nothing_and_loading_everything(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(api, "decompress", lambda data: pytest.fail("decoded on opening"))
        image = Image.open(packed)
        assert (image.format, image.mode, image.size) == ("VLAE", "RGB", (48, 40))
        assert image.get_format_mimetype() == "image/x-vlae"
    assert np.array_equal(np.asarray(image), picture("smooth", 40, 48))
    assert image.fp is None or image.fp.closed
    image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_comes_back(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture("smooth", 40, 48)).convert("L" if mode.startswith("I;") else "RGB").convert(mode)
    image.save(tmp_path / "x.vlae", model=TINY)
    with Image.open(tmp_path / "x.vlae") as again:
        assert (again.mode, again.size) == (image.mode, image.size)
        assert again.tobytes() == image.tobytes()
        assert again.getpalette() == image.getpalette()
        assert again.copy().tobytes() == image.tobytes()
        assert pickle.loads(pickle.dumps(again)).tobytes() == image.tobytes()


@pytest.mark.parametrize("kind", ["name", "path", "model"])
def test_the_model_is_an_option(tiny_model: Model, kind: str) -> None:
    file = io.BytesIO()
    given = {"name": "tiny", "path": TINY, "model": tiny_model}[kind]
    image = Image.fromarray(picture("smooth", 40, 48))
    image.save(file, "VLAE", model=given, verify=False)
    assert vlae_codec.info(file.getvalue())["model"] == "tiny"
    assert opened(file.getvalue()).tobytes() == image.tobytes()


def test_verify_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: object) -> None:
        raise CorruptFile("checksum of the pixels")

    monkeypatch.setattr(api, "_pixels", damaged)
    image = Image.fromarray(picture("smooth", 40, 48))
    image.save(tmp_path / "unverified.vlae", model="tiny", verify=False)
    with pytest.raises(OSError, match="checksum of the pixels"):
        image.save(tmp_path / "verified.vlae", model="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["unverified.vlae"]


def test_metadata_of_the_image_and_of_the_options_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    source = io.BytesIO()
    Image.fromarray(picture("smooth", 40, 48)).save(source, "PNG", icc_profile=b"old", dpi=(300, 300), pnginfo=text)
    with Image.open(source) as image:
        image.load()
        before = dict(image.info)
        image.save(tmp_path / "x.vlae", model="tiny", icc_profile=b"new", exif=exif, xmp=b"<x/>", quality=3)
        assert image.info == before
    with Image.open(tmp_path / "x.vlae") as again:
        assert again.info["icc_profile"] == b"new"
        assert again.info["xmp"] == b"<x/>"
        assert again.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert again.getexif()[0x0112] == 6
        again.save(tmp_path / "y.vlae", model="tiny", icc_profile=None)
    with Image.open(tmp_path / "y.vlae") as third:
        assert third.info["Author"] == "me"
        assert third.info["exif"] == exif.tobytes()
        assert "icc_profile" not in third.info


def test_options_of_a_wrong_type_are_refused() -> None:
    image = Image.fromarray(picture("smooth", 8, 8))
    with pytest.raises(OSError, match="save option xmp is of type str, expected bytes"):
        image.save(io.BytesIO(), "VLAE", model="tiny", xmp="<x/>")
    with pytest.raises(OSError, match="no model 'none'"):
        image.save(io.BytesIO(), "VLAE", model="none")


@pytest.mark.parametrize("truncated", [False, True])
def test_no_damage_gives_pixels(packed: Path, truncated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
    whole = packed.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:9], whole + b"\0"):
        with pytest.raises(OSError, match="checksum|file ends"):
            opened(damaged)
    for at in range(8, len(whole), 97):
        damaged = whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]
        with pytest.raises(OSError, match="checksum|version|kind"):
            opened(damaged)
    with pytest.raises(UnidentifiedImageError):
        opened(whole[:5])


@pytest.mark.parametrize("truncated", [False, True])
def test_wrong_pixels_behind_a_right_checksum_are_found_on_loading(
    packed: Path, truncated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
    body = bytearray(packed.read_bytes()[:-4])
    body[-9] ^= 16
    cut = Image.fromarray(picture("smooth", 40, 48))
    png = io.BytesIO()
    cut.save(png, "PNG")
    header = Header(FileKind.FALLBACK, 48, 40, digest_of(cut), fallback_kind=FallbackKind.PNG)
    files = (
        bytes(body) + zlib.crc32(body).to_bytes(4, "little"),
        container.write(header, png.getvalue()[: len(png.getvalue()) // 2]),
    )
    for data in files:
        image = opened(data)
        for _ in range(2):
            with pytest.raises(OSError, match="checksum|payload|pushed|words|stack"):
                image.load()


def test_an_unknown_model_is_named_on_loading(packed: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Model) -> None:
    monkeypatch.delenv("VLAE_CODEC_MODELS")
    with Image.open(packed) as image, pytest.raises(OSError, match=tiny_model.id.hex()) as caught:
        image.load()
    assert isinstance(caught.value, VlaeError)


def test_archives_and_lossy_files_are_no_images(binary_model: Model) -> None:
    data = archive_array(binary_images(3, 8), binary_model)
    with pytest.raises(OSError, match="of the kind short archive, expected a single image"):
        opened(data)
    with pytest.raises(OSError, match="of the kind lossy, expected a single image"):
        Image.open(GOLDEN / "tiny-binary-lossy.vlae")


def test_the_codec_does_not_take_its_own_files_for_images(packed: Path) -> None:
    with pytest.raises(vlae_codec.UnsupportedImage, match=r"in\.vlae is already a \.vlae file"):
        imaging.open_image(packed.read_bytes(), "in.vlae")
    (packed.parent / "a.png").write_bytes((GOLDEN / "grey.png").read_bytes())
    assert [name for name, _ in find_images([packed.parent])] == ["a.png"]
    with pytest.raises(vlae_codec.UnsupportedImage, match="no image format for the suffix '.vlae'"):
        imaging.encode_output(Image.new("L", (4, 4)), ".vlae")


def test_a_stored_jpeg_is_opened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture("smooth", 40, 50)).save(buffer, "JPEG", comment=b"words")
    (tmp_path / "a.vlae").write_bytes(compress_file(buffer.getvalue(), "a.jpg"))
    with Image.open(tmp_path / "a.vlae") as image, Image.open(buffer) as original:
        assert (image.format, image.size, image.mode) == ("VLAE", (50, 40), "RGB")
        assert image.tobytes() == original.tobytes()
        assert image.info["comment"] == b"words"
