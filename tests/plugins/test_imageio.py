from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import GOLDEN, picture, vlae_file
from PIL import Image

import vlae_codec.plugins.imageio  # registers the plugin
from vlae_codec import Model, UnsupportedImage, VlaeError
from vlae_codec.formats import single as api
from vlae_codec.stages import StageKind

pytestmark = pytest.mark.usefixtures("model_wins")
PIXELS = picture("smooth", 40, 48)
ARRAYS = {
    "grey": PIXELS[..., 0],
    "rgb": PIXELS,
    "rgba": np.concatenate([PIXELS, PIXELS[..., :1]], axis=2),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back(tmp_path: Path, kind: str, tiny_model: Model) -> None:
    array = ARRAYS[kind]
    iio.imwrite(tmp_path / "x.vlae", array, model=tiny_model)
    again = iio.imread(tmp_path / "x.vlae")
    assert again.dtype == np.uint8
    assert np.array_equal(again, array)
    again[0, 0] = 0  # as with imageio's other plugins, the array may be written to


@pytest.mark.parametrize("kind", ARRAYS)
def test_properties_are_known_without_decoding(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tiny_model: Model
) -> None:
    array = ARRAYS[kind]
    iio.imwrite(tmp_path / "x.vlae", array, model="tiny")
    monkeypatch.setattr(api, "decompress", lambda data: pytest.fail("decoded"))
    found = iio.improps(tmp_path / "x.vlae")
    assert (found.shape, found.dtype, found.is_batch) == (array.shape, np.uint8, False)
    batch = iio.improps(tmp_path / "x.vlae", index=...)
    assert (batch.shape, batch.n_images, batch.is_batch) == ((1, *array.shape), 1, True)


def test_bytes_and_batches_of_one(tiny_model: Model) -> None:
    data = iio.imwrite("<bytes>", PIXELS, extension=".vlae", model="tiny")
    assert np.array_equal(np.asarray(api.decompress(data)), PIXELS)
    assert np.array_equal(iio.imread(data, plugin="vlae"), PIXELS)
    # Bytes have no suffix: imageio tries its plugins in turn, and the one for Pillow takes them.
    assert np.array_equal(iio.imread(data), PIXELS)
    assert np.array_equal(iio.imread(data, plugin="vlae", index=...), PIXELS[None])
    assert [each.shape for each in iio.imiter(data, plugin="vlae")] == [PIXELS.shape]
    with pytest.raises(ValueError, match="index 1, expected 0"):
        iio.imread(data, plugin="vlae", index=1)


def test_metadata(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.info = {"icc_profile": b"a profile", "dpi": (72.0, 72.0)}
    (tmp_path / "x.vlae").write_bytes(api.compress(image, vlae_codec.load_model("tiny")))
    assert iio.immeta(tmp_path / "x.vlae") == image.info


def test_damage_and_other_files_are_refused(tmp_path: Path, tiny_model: Model) -> None:
    data = bytearray(vlae_file(Image.fromarray(PIXELS), StageKind.BITS_BACK, tiny_model))
    data[-40] ^= 1
    (tmp_path / "x.vlae").write_bytes(data)
    for read in (iio.imread, iio.improps, iio.immeta):
        with pytest.raises(VlaeError, match="checksum of the file"):
            read(tmp_path / "x.vlae", plugin="vlae")
    with pytest.raises(OSError, match="of the kind lossy"):
        iio.imread(GOLDEN / "tiny-binary-lossy.vlae")
    with pytest.raises(UnsupportedImage, match="mode P, expected L, RGB, RGBA"):
        iio.imread(GOLDEN / "palette-fallback.vlae")
    with pytest.raises(OSError, match="can not handle"):
        iio.imread(GOLDEN / "grey.png", plugin="vlae")


@pytest.mark.parametrize("what", [PIXELS.astype(np.uint16), [PIXELS, PIXELS], PIXELS[..., :2]])
def test_what_a_file_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path, what: object) -> None:
    with pytest.raises(UnsupportedImage, match="expected"):
        iio.imwrite(tmp_path / "x.vlae", what, model="tiny")
    with pytest.raises(OSError, match="can not handle"):
        iio.imwrite(tmp_path / "x.png", PIXELS, plugin="vlae")
    assert not list(tmp_path.iterdir())


def test_other_formats_still_work() -> None:
    file = io.BytesIO()
    iio.imwrite(file, PIXELS, extension=".png")
    assert np.array_equal(iio.imread(file.getvalue()), PIXELS)
