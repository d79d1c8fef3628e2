"""What comes back of files that Pillow did not write; tifffile, imagecodecs and pypng decide, not Pillow."""

from __future__ import annotations

import io
import zlib
from typing import Any

import imagecodecs
import numpy as np
import png as pypng
import pytest
import tifffile
from conftest import GOLDEN
from corpus import CORPUS, deflated_elsewhere, grey, tiff, with_chunks, zlib_png
from hypothesis import given, settings
from hypothesis import strategies as st

import vlae_codec
from vlae_codec import CorruptFile, Model, UnsupportedImage, VlaeError
from vlae_codec.formats import header as container
from vlae_codec.formats.header import FileKind, Form, Header, SourceFile
from vlae_codec.formats.source import FileOptions, compress_file, restore_file
from vlae_codec.images import rasters
from vlae_codec.images.rasters import png
from vlae_codec.images.rasters.layout import Block, Layout, from_values, to_values


def restored(source: bytes, name: str, model: Model, **options: Any) -> tuple[dict, bytes]:
    """What `info` says, and what comes back."""
    data = compress_file(source, name, model, FileOptions(**options))
    assert len(data) <= len(source) + 64 + len(name)
    got_name, got = restore_file(data, model)
    assert got_name == name
    return vlae_codec.info(data), got


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 300


@pytest.mark.parametrize("name", CORPUS)
def test_every_file_comes_back(name: str, tiny_model: Model) -> None:
    make, plain = CORPUS[name]
    source = make()
    try:
        what, got = restored(source, name, tiny_model)
    except UnsupportedImage:
        # No reader is here.
        assert name.endswith((".jxl", ".pfm"))
        return
    found = rasters.find(source)
    assert (found is not None) == plain
    if what["restores"] == "bit for bit":
        assert got == source
        return
    assert what["restores"] == "same pixels and metadata"
    assert name.endswith(".png")
    before, after = (list(pypng.Reader(bytes=data).chunks()) for data in (source, got))
    assert [c for c in before if c[0] != b"IDAT"] == [c for c in after if c[0] != b"IDAT"]
    first, second = imagecodecs.png_decode(source), imagecodecs.png_decode(got)
    assert first.dtype == second.dtype
    assert np.array_equal(first, second)
    # Where that is asked for, the very bytes.
    assert restored(source, name, tiny_model, exact=True)[1] == source


def test_what_a_reader_sees_of_a_file_that_comes_back(tiny_model: Model) -> None:
    """Bit for bit says all; still, once as others read it: tags, types, channels."""
    source = CORPUS["extra-assocalpha-16.tif"][0]()
    _, got = restored(source, "a.tif", tiny_model)
    with tifffile.TiffFile(io.BytesIO(source)) as before, tifffile.TiffFile(io.BytesIO(got)) as after:
        assert np.array_equal(before.asarray(), after.asarray())
        tags = [[(tag.code, tag.dtype, tag.value) for tag in file.pages[0].tags] for file in (before, after)]
        assert tags[0] == tags[1]


CHUNKS = st.lists(st.tuples(st.sampled_from([b"prVt", b"tEXt", b"abCd", b"zTXt"]), st.binary(max_size=40)), max_size=4)


@settings(max_examples=40)
@given(
    before=CHUNKS, after=CHUNKS, more=st.binary(max_size=30), channels=st.integers(1, 4), elsewhere=st.booleans(),
    level=st.integers(1, 9), kind=st.integers(0, 5), size=st.integers(1, 500),
)  # fmt: skip
def test_any_chunks_and_any_trailer_of_a_png(before, after, more, channels, elsewhere, level, kind, size) -> None:
    values = grey(8, channels)
    made = deflated_elsewhere(values) if elsewhere else zlib_png(values, level, 0, 8, 15, size, kind)
    source = with_chunks(made, before, after) + more
    found = rasters.find(source)
    assert found is not None
    assert (found.form is Form.PNG) == elsewhere
    got = rasters.rebuild(found.form, found.recipe, found.values, found.digest)
    if not elsewhere:
        assert got == source
        return
    one, two = png.read(source), png.read(got)
    assert one is not None
    assert two is not None
    assert (one.before, one.after) == (two.before, two.after)
    assert np.array_equal(one.samples, two.samples)
    assert np.array_equal(two.samples[..., 0].reshape(values.shape), values)


GOLDEN_SOURCES = sorted(path.stem for path in (GOLDEN / "sources").glob("*.vlae"))


@pytest.mark.parametrize("name", GOLDEN_SOURCES)
def test_golden_files_are_made_again_for_ever(name: str) -> None:
    source, packed = (GOLDEN / "sources" / name).read_bytes(), (GOLDEN / "sources" / f"{name}.vlae").read_bytes()
    got_name, got = restore_file(packed)
    assert got_name == name
    if vlae_codec.info(packed)["restores"] == "bit for bit":
        assert got == source
    else:
        assert png.read(got).before == png.read(source).before
        assert np.array_equal(imagecodecs.png_decode(got), imagecodecs.png_decode(source))


def test_every_form_has_a_golden_file() -> None:
    files = [(GOLDEN / "sources" / f"{name}.vlae").read_bytes() for name in GOLDEN_SOURCES]
    assert {data[9] for data in files} >= {16, 17, 20}
    forms = {container.read(data)[0].source.form for data in files if data[9] < 20}
    assert forms == set(Form)


def test_only_the_very_bytes_when_asked_for(tiny_model: Model) -> None:
    source = deflated_elsewhere(grey(8, 3))
    what, got = restored(source, "a.png", tiny_model)
    assert (what["restores"], got != source) == ("same pixels and metadata", True)
    assert np.array_equal(imagecodecs.png_decode(got), grey(8, 3))
    what, got = restored(source, "a.png", tiny_model, exact=True)
    assert (what["mode"], what["restores"], got == source) == ("stored", "bit for bit", True)


@st.composite
def plain_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A header of any plain format with any samples behind it, of that format's shape; and any trailer."""
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["pnm", "pam", "bmp", "sgi", "tga"]))
    noise = np.random.default_rng(draw(st.integers(0, 9)))
    if kind == "pnm":
        most = draw(st.integers(1, 65535))
        comment = draw(st.sampled_from([b"", b"# words\n", b"#\r"]))
        channels = draw(st.sampled_from([1, 3]))
        header = b"P%d %s%d\t%d\n%d\n" % (5 if channels == 1 else 6, comment, width, height, most)
        length = width * height * channels * (2 if most > 255 else 1)
    elif kind == "pam":
        channels, most = draw(st.integers(1, 7)), draw(st.integers(1, 65535))
        header = b"P7\nHEIGHT %d\nWIDTH %d\nMAXVAL %d\nDEPTH %d\nENDHDR\n" % (height, width, most, channels)
        length = width * height * channels * (2 if most > 255 else 1)
    elif kind == "bmp":
        bits, more = draw(st.sampled_from([8, 16, 24, 32])), draw(st.binary(max_size=20))
        header = b"BM" + bytes(8) + (54 + len(more)).to_bytes(4, "little") + (40).to_bytes(4, "little")
        sign = draw(st.sampled_from([1, -1]))
        header += width.to_bytes(4, "little") + (sign * height).to_bytes(4, "little", signed=True)
        header += b"\1\0" + bits.to_bytes(2, "little") + bytes(24) + more
        length = (width * bits + 31) // 32 * 4 * height
    elif kind == "sgi":
        size, channels = draw(st.sampled_from([1, 2])), draw(st.integers(1, 5))
        header = b"\x01\xda\0" + bytes([size, 0, 3]) + b"".join(n.to_bytes(2, "big") for n in (width, height, channels))
        header = header.ljust(512, draw(st.sampled_from([b"\0", b"?"])))
        length = width * height * size * channels
    else:
        words, descriptor = draw(st.binary(max_size=20)), draw(st.integers(0, 3)) << 4
        depth = draw(st.sampled_from([16, 24, 32]))
        header = bytes([len(words), 0, 2]) + bytes(9) + width.to_bytes(2, "little") + height.to_bytes(2, "little")
        header += bytes([depth, descriptor]) + words
        length = width * height * depth // 8
    # So many samples that they are most of the file.
    return header + noise.bytes(length), draw(st.binary(max_size=40))


@settings(max_examples=150)
@given(parts=plain_files())
def test_any_header_and_any_trailer_of_a_plain_file(parts: tuple[bytes, bytes]) -> None:
    source = parts[0] + parts[1]
    found = rasters.find(source)
    if found is not None:
        assert rasters.rebuild(found.form, found.recipe, found.values, found.digest) == source


@settings(max_examples=100)
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"BM", b"P6 3 3 255\n", b"II*\0\x08\0\0\0", b"qoif"]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    try:
        found = rasters.find(start + data)
    except UnsupportedImage:
        return
    if found is not None:
        assert rasters.rebuild(found.form, found.recipe, found.values, found.digest) == start + data


@pytest.mark.parametrize("name", ["channels5-le-8-planar.tif", "tiles16x16-3-16.tif", "max4095.ppm", "3.qoi",
                                  "pypng-rgb-16-interlaced.png", "chunks.png", "4-1.bmp"])  # fmt: skip
def test_a_forged_recipe_never_gives_another_file(name: str) -> None:
    source = CORPUS[name][0]() if name in CORPUS else CORPUS["24-40.bmp"][0]()
    found = rasters.find(source)
    assert found is not None
    refused = 0
    for i in range(min(len(found.recipe), 120)):
        for flip in (1, 0x40, 0x80, 0xFF):
            forged = found.recipe[:i] + bytes([found.recipe[i] ^ flip]) + found.recipe[i + 1 :]
            try:
                # The stride between channels says nothing where there is one.
                assert rasters.rebuild(found.form, forged, found.values, found.digest) == source
            except CorruptFile:
                refused += 1
    assert refused > 20 or found.form is Form.QOI
    for cut in range(0, len(found.recipe), 7):
        with pytest.raises(CorruptFile):
            rasters.rebuild(found.form, found.recipe[:cut], found.values, found.digest)
    for form in set(Form) - {found.form}:
        with pytest.raises(CorruptFile):
            rasters.rebuild(form, found.recipe, found.values, found.digest)
    with pytest.raises(CorruptFile):
        rasters.rebuild(found.form, found.recipe, found.values[:-1], found.digest)


def test_places_outside_the_file_or_twice_are_refused() -> None:
    samples = np.zeros((2, 3, 1, 1), np.uint8)
    good = Block(0, 0, 0, 2, 3, 1, 0, 3, 1, 1, 1)
    assert Layout(2, 3, 1, 1, (good,)).put(samples, b"more") == bytes(6) + b"more"
    bad = [
        (Block(0, 0, 0, 2, 3, 1, 5, 3, 1, 1, 1),),
        (Block(0, 0, 0, 2, 3, 1, 0, -3, 1, 1, 1),),
        (Block(0, 0, 0, 2, 3, 1, 0, 1, 1, 1, 1),),
        (Block(0, 1, 0, 2, 3, 1, 0, 3, 1, 1, 1),),
        (good, good),
        (Block(0, 0, 0, 1, 3, 1, 0, 3, 1, 1, 1), Block(1, 0, 0, 1, 3, 1, 2, 3, 1, 1, 1)),
        (),
    ]
    for blocks in bad:
        with pytest.raises(CorruptFile):
            Layout(2, 3, 1, 1, blocks).put(samples, b"more")


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (2, 1), (4, 1), (5, 1), (1, 2), (3, 2)])
def test_pixels_of_any_samples(channels: int, size: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (4, 5, channels, size), np.uint8)
    assert np.array_equal(from_values(to_values(samples), channels, size), samples)


def test_a_recipe_does_not_take_more_memory_than_it_has_bytes_for() -> None:
    header = Header(FileKind.FALLBACK, 1, 1, bytes(8), source=SourceFile(Form.PNG, "a.png", bytes(1 << 20)))
    data = bytearray(container.write(header, b""))
    at = data.index(b"a.png") + 5
    # The recipe's length, which three bytes hold, says a gigabyte.
    assert data[at : at + 3] == b"\x80\x80\x40"
    data[at : at + 3] = b"\xff\xff\x7f"
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    with pytest.raises(CorruptFile, match="recipe"):
        container.read(bytes(data))


def test_the_limit_of_pixels_holds_for_every_reader(tiny_model: Model) -> None:
    for name in ("24-40.bmp", "3.qoi", "chunks.png", "max255.ppm", "2-24-0.tga", "1-3.rgb", "strips5.tif"):
        with pytest.raises(UnsupportedImage, match="--max-pixels"):
            compress_file(CORPUS[name][0](), name, tiny_model, FileOptions(max_pixels=40 * 47 - 1))


def test_a_name_that_is_no_text(tiny_model: Model) -> None:
    name = b"bad\xff.png".decode("utf-8", "surrogateescape")
    for source in (CORPUS["chunks.png"][0](), CORPUS["a.jpg"][0]()):
        for options in ({}, {"pixels": True}, {"strip": True}):
            data = compress_file(source, name, tiny_model, FileOptions(**options))
            assert vlae_codec.info(data)["name"] == name
            assert restore_file(data, tiny_model)[0].startswith(name)
    with pytest.raises(VlaeError):
        container.read_stored(container.write_stored(container.Reason.FORMAT, "a\0b", b""))


def test_a_picture_turned_by_its_tag_is_turned_once(tiny_model: Model) -> None:
    """As the orientation is a tag, and pixels are never turned on the way, a reader turns them as before."""
    for turned in range(1, 9):
        source = tiff(grey(8, 3), photometric="rgb", extratags=[(274, "H", 1, turned, True)])
        _, got = restored(source, "a.tif", tiny_model)
        with tifffile.TiffFile(io.BytesIO(got)) as file:
            assert file.pages[0].tags[274].value == turned
            assert np.array_equal(file.asarray(), grey(8, 3))
