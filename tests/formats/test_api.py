from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import EXAMPLES, KINDS, picture, vlae_file
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vlae_codec
from vlae_codec import Model, UnknownModel, UnsupportedImage, VerificationFailed, VlaeError
from vlae_codec.formats import single as api
from vlae_codec.images import fallback
from vlae_codec.images import io as imaging
from vlae_codec.images.fallback import is_drawn, look_at, worth_trying
from vlae_codec.stages import StageKind

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
    "I;16B",
    "PA",
    "La",
    "RGBa",
)


def image_of(mode: str, height: int = 9, width: int = 13, seed: int = 0) -> Image.Image:
    """An image of a mode whose every byte is arbitrary."""
    size = len(Image.new(mode, (width, height)).tobytes())
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    if mode == "F":
        data = np.random.default_rng(seed).normal(0, 1e3, size // 4).astype(np.float32).view(np.uint8)
    image = Image.frombytes(mode, (width, height), data.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    return image


def same(a: Image.Image, b: Image.Image) -> bool:
    palettes = [i.palette.tobytes() if i.palette else b"" for i in (a, b)]
    return (a.mode, a.size, a.tobytes()) == (b.mode, b.size, b.tobytes()) and palettes[0] == palettes[1]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_comes_back_as_it_was(mode: str, tiny_model: Model) -> None:
    image = image_of(mode)
    assert same(vlae_codec.decompress(vlae_codec.compress(image, tiny_model), tiny_model), image)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(KINDS), st.integers(0, 2**32), st.booleans())
def test_round_trip(tiny_model: Model, height: int, width: int, kind: str, seed: int, grey: bool) -> None:
    pixels = picture(kind, height, width, seed)
    pixels = pixels[..., 0] if grey else pixels
    data = vlae_codec.compress(pixels, tiny_model)
    image = vlae_codec.decompress(data, tiny_model)
    assert image.mode == ("L" if grey else "RGB")
    assert np.array_equal(np.asarray(image), pixels)
    # Never silly: the fallback alone, and 64 bytes.
    other = len(fallback.smallest_fallback(Image.fromarray(pixels))[1])
    assert len(data) <= other + 64


def test_grey_as_rgb_is_coded_as_one_channel(tiny_model: Model) -> None:
    image = Image.fromarray(picture("grey", 64, 64))
    sizes = []
    for mode in ("RGB", "L"):
        data = vlae_file(image.convert(mode), StageKind.BITS_BACK, tiny_model)
        what = vlae_codec.info(data)
        assert (what["image_mode"], what["coded_channels"], what["mode"]) == (mode, 1, "vlae")
        assert same(vlae_codec.decompress(data), image.convert(mode))
        sizes.append(len(data))
    assert sizes[0] == sizes[1]


def test_values_that_do_not_occur_cost_nothing(tiny_model: Model) -> None:
    dense = picture("smooth", 64, 64)
    sparse = (dense // 8 * 8).astype(np.uint8)
    sizes = [len(vlae_file(Image.fromarray(p), StageKind.WITHOUT_Z, tiny_model)) for p in (dense, sparse)]
    assert sizes[1] < 0.7 * sizes[0]


def test_metadata_comes_back(tiny_model: Model) -> None:
    image = Image.fromarray(picture("smooth", 20, 20))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "PNG", icc_profile=b"a profile", exif=exif, dpi=(300, 300))
    with Image.open(buffer) as source:
        restored = vlae_codec.decompress(vlae_codec.compress(source, tiny_model), tiny_model)
        assert restored.info["icc_profile"] == b"a profile"
        assert restored.info["exif"] == source.info["exif"]
        assert restored.info["dpi"] == pytest.approx(source.info["dpi"])
    data = imaging.encode_output(restored, ".png")
    with Image.open(io.BytesIO(data)) as written:
        assert written.info["icc_profile"] == b"a profile"
        assert written.getexif()[0x0112] == 6


def test_palette_transparency_comes_back(tiny_model: Model) -> None:
    image = image_of("P")
    image.info["transparency"] = bytes(range(256))
    restored = vlae_codec.decompress(vlae_codec.compress(image, tiny_model), tiny_model)
    assert restored.info["transparency"] == bytes(range(256))


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_other_arrays_are_refused(array: np.ndarray, tiny_model: Model) -> None:
    with pytest.raises(UnsupportedImage, match="array of"):
        vlae_codec.compress(array, tiny_model)


def test_a_wrong_picture_is_found_by_verification(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "from_planes", lambda planes, *rest: planes ^ 1)
    monkeypatch.setattr(api, "_fallback_may_win", lambda image, size: False)
    with pytest.raises(VerificationFailed):
        vlae_codec.compress(picture("smooth", 20, 20), tiny_model)


def test_models_are_found_and_refused(tiny_model: Model, tmp_path) -> None:
    with pytest.raises(UnknownModel, match="no model 'none'"):
        vlae_codec.load_model("none")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UnknownModel, match="not a model"):
        vlae_codec.load_model(path)
    assert vlae_codec.load_model("tiny", "cpu").id == tiny_model.id
    assert vlae_codec.load_model("photo", "cpu") is vlae_codec.load_model("photo", "cpu")


def test_every_error_is_of_one_family() -> None:
    for name in vlae_codec.__all__:
        item = getattr(vlae_codec, name)
        if isinstance(item, type) and issubclass(item, Exception):
            assert issubclass(item, VlaeError)


def drawn(height: int = 220, width: int = 300) -> np.ndarray:
    """Lines and boxes on white, larger than the pictures of which everything is tried."""
    rng = np.random.default_rng(0)
    page = np.full((height, width, 3), 255, np.uint8)
    for y, x, *colour in rng.integers(0, 200, (30, 5)):
        page[y : y + 9, x : x + 40] = colour
    return page


def test_no_network_runs_for_a_drawing(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_vlae", lambda *arguments: pytest.fail("the network ran"))
    data = vlae_codec.compress(drawn(), tiny_model)
    assert vlae_codec.info(data)["mode"] == "fallback"
    assert np.array_equal(np.asarray(vlae_codec.decompress(data)), drawn())


def test_a_photograph_needs_no_slow_fallback() -> None:
    with Image.open(EXAMPLES / "lake.png") as image:
        look = look_at(np.asarray(image.convert("RGB"))[:300, :400])
    assert not is_drawn(look)
    # The model's file is smaller than the quick WebP by a tenth and more, and a slow one gains less.
    assert not worth_trying(look, int(look.size / 1.1))
    assert worth_trying(look, int(look.size))
    page = look_at(drawn())
    assert is_drawn(page)
    assert worth_trying(page, int(page.size / 1.1))
    assert page.repeated > 0.85 > look.repeated


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", ["smooth", "flat", "P", "16 bits"])
def test_progress_counts_each_pixel_once(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, kind: str, verify: bool
) -> None:
    """Over coding, fallbacks and verification, and in decoding again."""
    if kind == "smooth":
        monkeypatch.setattr(api, "_fallback_may_win", lambda image, size: False)
    image = Image.fromarray(picture("flat" if kind == "flat" else "smooth", 100, 60))
    image = {"P": image.quantize(8), "16 bits": image.convert("I;16")}.get(kind, image)
    done: list[int] = []
    data = vlae_codec.compress(image, tiny_model, verify=verify, progress=done.append)
    assert sum(done) == 100 * 60
    done.clear()
    vlae_codec.decompress(data, tiny_model, progress=done.append)
    assert sum(done) == 100 * 60


def test_a_stage_that_runs_dry_is_coded_without_z(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlae_codec.coding.photo.affordable_rows", lambda stock, wanted: len(wanted))
    monkeypatch.setattr(api, "SMALL", 0)
    monkeypatch.setattr(api, "_fallback_may_win", lambda image, size: False)
    pixels = picture("smooth", 40, 40)
    data = vlae_codec.compress(pixels, tiny_model)
    assert vlae_codec.info(data)["mode"] == "vlae-no-z"
    assert np.array_equal(np.asarray(vlae_codec.decompress(data, tiny_model)), pixels)
