from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, binary_images, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlae_codec import Archive, Model, load_model
from vlae_codec.errors import CorruptFile, NotAVlaeFile, UnknownModel, UnsupportedImage, UnsupportedVersion, VlaeError
from vlae_codec.fields import check_names
from vlae_codec.formats.archive import extract
from vlae_codec.formats.archive_writer import archive_array, archive_files
from vlae_codec.formats.chains import binary_digest, seed_of
from vlae_codec.formats.header import FileKind
from vlae_codec.images.sets import find_images, load_array


def open_bytes(data: bytes, model: Model | None = None) -> Archive:
    return Archive(io.BytesIO(data), model, "cpu")


@settings(max_examples=25)
@given(
    st.integers(1, 40), st.sampled_from(["0/1", "0/255", "bool", "last"]), st.integers(1, 50), st.booleans(),
    st.sampled_from(["", "images"]), st.integers(0, 2**32),
)  # fmt: skip
def test_arrays_come_back_as_they_came(
    binary_model: Model, count: int, kind: str, segment: int, embed: bool, key: str, seed: int
) -> None:
    array = binary_images(count, 8, seed)
    array[0, 0, 0] = 1
    array = {"0/1": array, "0/255": array * 255, "bool": array.astype(bool), "last": array[..., None]}[kind]
    data = archive_array(array, binary_model, segment=segment, embed=embed, key=key)
    assert (data[9] == FileKind.SHORT_ARCHIVE) == (segment >= count and not embed)
    archive = open_bytes(data)
    assert archive.source.key == key
    assert archive.info()["file_bytes"] == len(data)
    again = archive.array()
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
    index = seed % count
    assert np.array_equal(archive[index], array[index])
    assert archive[index].dtype == array.dtype
    assert len(archive) == count
    assert not archive.check()


def test_photographs_in_an_array(tiny_model: Model) -> None:
    array = np.stack([picture("smooth", 20, 30, seed) for seed in range(3)])
    archive = open_bytes(archive_array(array, tiny_model), tiny_model)
    assert np.array_equal(archive.array(), array)
    grey = array[..., 0]
    assert np.array_equal(open_bytes(archive_array(grey, tiny_model), tiny_model).array(), grey)


def write_digits(folder: Path, count: int, mode: str) -> np.ndarray:
    images = binary_images(count, 8)
    (folder / "sub").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image * 255).convert(mode).save(folder / ("sub" if i % 2 else ".") / f"{i:03}.png")
    return images


@pytest.mark.parametrize("mode", ["1", "L"])
def test_files_come_back_with_names_and_mode(binary_model: Model, tmp_path: Path, mode: str) -> None:
    write_digits(tmp_path / "in", 9, mode)
    paths = find_images([tmp_path / "in"])
    archive = open_bytes(archive_files(paths, binary_model, segment=4))
    assert archive.names == [name for name, _ in paths]
    assert "sub/001.png" in archive.names
    for name, path in paths:
        image = archive[archive.index_of(name)]
        with Image.open(path) as original:
            assert image.mode == original.mode == mode
            assert image.tobytes() == original.tobytes()


def test_a_folder_of_different_images(tiny_model: Model, tmp_path: Path) -> None:
    Image.fromarray(picture("smooth", 20, 30)).save(tmp_path / "a.png")
    Image.fromarray(picture("grey", 25, 8)).convert("P").save(tmp_path / "b.gif")
    Image.fromarray(picture("noise", 9, 9)).save(tmp_path / "c.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    paths = find_images([tmp_path])
    archive = open_bytes(archive_files(paths, tiny_model), tiny_model)
    written: dict[str, bytes] = {}
    assert extract(archive, range(3), written.__setitem__) == []
    assert sorted(written) == ["a.png", "b.gif", "c.jpg"]
    assert written["c.jpg"] == (tmp_path / "c.jpg").read_bytes()
    for name, path in paths:
        with Image.open(path) as original, Image.open(io.BytesIO(written[name])) as again:
            assert (again.format, again.mode, again.tobytes()) == (original.format, original.mode, original.tobytes())


def test_an_embedded_model_needs_no_other(binary_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = binary_images(10, 8)
    bare, complete = archive_array(images, binary_model), archive_array(images, binary_model, embed=True)
    # The short archive has no sections.
    assert len(complete) - len(bare) == pytest.approx(len(binary_model.data) + 150, abs=30)
    monkeypatch.delenv("VLAE_CODEC_MODELS")
    assert np.array_equal(open_bytes(complete).array(), images)
    with pytest.raises(UnknownModel, match="not here"):
        open_bytes(bare).array()
    with pytest.raises(UnknownModel, match="was made with model"):
        open_bytes(bare, load_model(GOLDEN / "tiny-binary-vae.safetensors", "cpu")).array()


@pytest.fixture(scope="module")
def sound(binary_model: Model) -> bytes:
    return archive_array(binary_images(60, 8), binary_model, segment=20)


def test_every_intact_segment_of_a_damaged_archive_is_read(sound: bytes, binary_model: Model) -> None:
    segment = open_bytes(sound).segments[1]
    data = bytearray(sound)
    data[segment.offset + 40] ^= 1
    archive = open_bytes(bytes(data))
    expected = binary_images(60, 8)
    assert np.array_equal(archive[0], expected[0])
    assert np.array_equal(archive[59], expected[59])
    with pytest.raises(CorruptFile, match="checksum"):
        archive[25]
    (problem,) = archive.check()
    assert problem.startswith("images 20 to 39: checksum of the section")
    written: list[str] = []
    problems = extract(archive, range(60), lambda name, _: written.append(name), suffix=".png")
    assert len(written) == 40
    assert len(problems) == 1


def test_a_lost_index_is_made_anew(sound: bytes) -> None:
    archive = open_bytes(sound[:-3])
    assert archive.damaged == ["index: the end is damaged or missing"]
    assert np.array_equal(archive[33], binary_images(60, 8)[33])
    cut = open_bytes(sound[: open_bytes(sound).segments[2].offset + 10])
    assert len(cut) == 40
    assert len(cut.damaged) == 2


@settings(max_examples=150)
@given(st.data())
def test_a_changed_byte_is_an_error_or_harmless(sound: bytes, binary_model: Model, data: st.DataObject) -> None:
    """Whatever is read from a damaged archive is right, and what cannot be read says so."""
    expected = binary_images(60, 8)
    damaged = bytearray(sound)
    place = data.draw(st.integers(0, len(sound) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        archive = open_bytes(bytes(damaged))
        images = {}
        for segment in archive.segments:
            try:
                images[segment.first] = archive.binary_segment(segment)
            except CorruptFile:
                assert len(archive) == 60 or archive.damaged
        assert len(images) >= 2 or archive.damaged
    except (CorruptFile, NotAVlaeFile, UnsupportedVersion):
        return
    for first, got in images.items():
        assert np.array_equal(got, expected[first : first + 20])


@settings(max_examples=150)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_bytes_that_are_no_archive(sound: bytes, noise: bytes, keep: int) -> None:
    with contextlib.suppress(VlaeError):
        open_bytes(sound[:keep] + noise).check()


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "", "a\\b.png", "c:a.png", "a//b", "a\nb"])
def test_names_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(UnsupportedImage, match="cannot be the name"):
        check_names([name])


def test_a_name_twice() -> None:
    with pytest.raises(UnsupportedImage, match=r"two images are named 'a\.png'"):
        check_names(["a.png", "a.png"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 7, 8), np.uint8), r"expected \(8, 8\) for this model"),
        (np.full((3, 8, 8), 2, np.uint8), "expected 0 and 1"),
        (np.zeros((3, 8, 8), np.float32), "array of float32"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), r"shape \(0, 8, 8\)"),
    ],
)
def test_arrays_that_do_not_fit(binary_model: Model, array: np.ndarray, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        archive_array(array, binary_model)


def test_files_of_two_kinds(binary_model: Model, tmp_path: Path) -> None:
    write_digits(tmp_path / "in", 2, "L")
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "z.png")
    with pytest.raises(UnsupportedImage, match=r"z\.png has mode RGB, expected L"):
        archive_files(find_images([tmp_path / "in"]), binary_model)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnsupportedImage, match="no images found"):
        find_images([empty])


def test_npz_with_several_arrays(tmp_path: Path) -> None:
    images = binary_images(3, 8)
    np.savez(tmp_path / "two.npz", a=images, b=images[:1])
    with pytest.raises(UnsupportedImage, match="holds a, b; name one"):
        load_array(tmp_path / "two.npz")
    array, key = load_array(tmp_path / "two.npz", "b")
    assert key == "b"
    assert len(array) == 1
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnsupportedImage, match="not a file of arrays"):
        load_array(tmp_path / "objects.npy")


@pytest.mark.parametrize("name", ["tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"])
def test_golden_archives(name: str) -> None:
    with Archive.open(GOLDEN / f"{name}-array.vlae", device="cpu") as archive:
        assert np.array_equal(archive.array(), np.load(GOLDEN / "binary.npy"))
        assert archive.info()["embedded_model"]


@pytest.mark.parametrize("name", ["tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"])
def test_golden_archives_of_plans_are_made_again_word_for_word(name: str) -> None:
    images, model = np.load(GOLDEN / "binary.npy"), load_model(GOLDEN / f"{name}.safetensors", "cpu")
    data = (GOLDEN / f"{name}-planned-array.vlae").read_bytes()
    assert archive_array(images, model, segment=120, embed=True) == data
    assert np.array_equal(open_bytes(data).array(), images)


def test_golden_short_archive_of_particles(binary_model: Model) -> None:
    images, data = np.load(GOLDEN / "binary.npy")[:100], (GOLDEN / "tiny-binary-particles-array.vlae").read_bytes()
    assert archive_array(images, binary_model, particles=4) == data
    archive = open_bytes(data)
    assert np.array_equal(archive.array(), images)
    assert archive.info()["particles"] == 4


@pytest.mark.parametrize("name", ["tiny-binary-listed", "tiny-binary-vae-listed", "tiny-binary-listed-one"])
def test_chains_that_list_their_batches(name: str) -> None:
    with Archive.open(GOLDEN / f"{name}.vlae", device="cpu") as archive:
        assert np.array_equal(archive.array(), binary_images(len(archive), 8))


def test_a_short_archive_has_few_bytes_beside_its_message(binary_model: Model) -> None:
    images = binary_images(300, 8)
    data = archive_array(images, binary_model)
    bits = open_bytes(data).info()["bits"]
    assert bits["header"] <= 8 * 34
    assert bits["lanes_and_flush"] <= 8 * 5
    assert sum(bits.values()) - 2 * bits["z_posterior"] == 8 * len(data)
    # The seed decides what is drawn.
    costs = binary_model.binary.encode(images, seed=seed_of(binary_digest(images))).costs
    assert bits["pixels"] == pytest.approx(costs.pixels, abs=20)


@pytest.fixture(scope="module")
def short(binary_model: Model) -> bytes:
    return archive_array(binary_images(12, 8), binary_model, particles=2)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_short_archive_is_an_error(short: bytes, binary_model: Model, data: st.DataObject) -> None:
    damaged = bytearray(short)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    resealed = place > 9 and data.draw(st.booleans())
    if resealed:
        damaged[-4:] = zlib.crc32(damaged[:-4]).to_bytes(4, "little")
    try:
        archive = open_bytes(bytes(damaged), binary_model)
        images = archive.array()
    except VlaeError:
        return
    # With a right checksum another name, type or number is another array; never other images.
    assert resealed
    assert np.array_equal(images != 0, binary_images(12, 8).reshape(images.shape))
