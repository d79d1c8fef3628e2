"""Nothing lost on the command line: very bytes, names, times, permissions, and what is in the way of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import GOLDEN, binary_images, picture
from PIL import Image, ImageOps
from test_cli import TINY, call, check_refused

from vlae_codec import load_model
from vlae_codec.formats import archive, header
from vlae_codec.formats.archive_writer import ArchiveWriter
from vlae_codec.formats.header import Reason
from vlae_codec.images.sets import Source

BINARY = str(GOLDEN / "tiny-binary.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of which Pillow sees all, a part, and nothing."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    pixels = picture("smooth", 30, 40)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "a.jpg")
    (folder / "sub" / "five.tif").touch()
    tifffile.imwrite(folder / "sub" / "five.tif", np.dstack([pixels, pixels[..., :2]]), photometric="rgb")
    with tifffile.TiffWriter(folder / "sub" / "raw.dng") as writer:
        writer.write(pixels[::3, ::3], photometric="rgb", subifds=1)
        writer.write(np.tile(pixels[..., 0].astype(np.uint16) * 17, (2, 2)), photometric="minisblack")
    (folder / "b.qoi").write_bytes(imagecodecs.qoi_encode(pixels))
    (folder / "deep.pgm").write_bytes(b"P5 40 30 1023\n" + pixels[..., 0].astype(">u2").tobytes())
    (folder / "raw.raf").write_bytes(b"FUJIFILM and so on " * 20)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    assert call("compress", folder, "-o", f"{tmp_path}/packed/", "-r", "-j", 0, "-m", TINY, "--exact").exit_code == 0
    assert call("decompress", tmp_path / "packed", "-o", f"{tmp_path}/out/", "-r", "-j", 0).exit_code == 0
    assert contents(tmp_path / "out") == contents(folder)
    assert call("verify", tmp_path / "packed", "-r", "-j", 0).exit_code == 0


def test_an_archive_comes_back_bit_for_bit_with_times_and_permissions(folder: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    (folder / "a.png").chmod(0o640)
    (folder / "a.jpg").chmod(0o4755)
    packed = tmp_path / "set.vlae"
    assert call("compress", folder, "-o", packed, "-m", TINY, "--exact").exit_code == 0
    assert call("verify", packed).exit_code == 0
    assert call("verify", packed, "--against", folder).exit_code == 0
    assert call("decompress", packed, "-o", tmp_path / "out").exit_code == 0
    assert contents(tmp_path / "out") == contents(folder)
    for name in contents(folder):
        before, after = (folder / name).stat(), (tmp_path / "out" / name).stat()
        assert before.st_mtime_ns == after.st_mtime_ns
        # Never to run as another user.
        assert before.st_mode & 0o777 == after.st_mode & 0o7777
    assert call("decompress", packed, "-o", tmp_path / "new", "--no-attributes").exit_code == 0
    assert (tmp_path / "new" / "a.png").stat().st_mtime > 10**9 + 10**8
    assert call("compress", folder, "-o", tmp_path / "bare.vlae", "-m", TINY, "--no-attributes").exit_code == 0
    assert len((tmp_path / "bare.vlae").read_bytes()) < len(packed.read_bytes())
    assert call("decompress", tmp_path / "bare.vlae", "-o", tmp_path / "bare").exit_code == 0
    assert (tmp_path / "bare" / "a.png").stat().st_mtime > 10**9 + 10**8
    # One image alone, by its own format and by another.
    assert call("decompress", packed, "--select", "sub/five.tif", "-o", tmp_path / "5.tiff").exit_code == 0
    assert (tmp_path / "5.tiff").read_bytes() == (folder / "sub" / "five.tif").read_bytes()
    assert call("decompress", packed, "--select", "b.qoi", "-o", tmp_path / "b.png").exit_code == 0
    assert Image.open(tmp_path / "b.png").tobytes() == picture("smooth", 30, 40).tobytes()


def test_damaged_attributes_are_named_and_the_files_restored(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "set.vlae"
    assert call("compress", folder, "-o", packed, "-m", TINY).exit_code == 0
    with archive.Archive.open(packed) as opened:
        at = opened._attributes
    assert at is not None
    data = bytearray(packed.read_bytes())
    data[at + 12] ^= 1
    packed.write_bytes(data)
    refused = call("decompress", packed, "-o", tmp_path / "out")
    assert (refused.exit_code, "7 images restored; damaged: checksum of the section" in refused.stderr) == (1, True)
    assert contents(tmp_path / "out").keys() == contents(folder).keys()
    assert "checksum of the section" in call("verify", packed).stderr


def test_what_exists_is_reported_and_the_others_are_restored(folder: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "set.vlae", tmp_path / "out"
    assert call("compress", folder, "-o", packed, "-m", TINY).exit_code == 0
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")
    (out / "sub").write_bytes(b"no folder")
    refused = call("decompress", packed, "-o", out)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert "4 images restored, 3 not" in refused.stderr
    assert "a.png exists; use --force" in refused.stderr
    assert (out / "a.png").read_bytes() == b"precious"
    assert (out / "a.jpg").read_bytes() == (folder / "a.jpg").read_bytes()
    assert call("decompress", packed, "-o", out, "--force").exit_code == 1
    (out / "sub").unlink()
    assert call("decompress", packed, "-o", out, "--force").exit_code == 0


def test_names_twice_in_several_sections(tmp_path: Path) -> None:
    writer = ArchiveWriter(Source(), load_model(TINY, "cpu"))
    for name, content in (("a.png", b"first"), ("A.png", b"second"), ("a.png", b"third")):
        writer.add_single(header.write_stored(Reason.FORMAT, "", content), name)
    packed = tmp_path / "set.vlae"
    packed.write_bytes(writer.finish())
    result = call("verify", packed)
    assert (result.exit_code, "several images are named 'a.png'" in result.stderr) == (1, True)
    for options in ((), ("--force",)):
        refused = call("decompress", packed, "-o", tmp_path / "out", *options)
        assert refused.exit_code == 1
        assert "not: " in refused.stderr
        assert (tmp_path / "out" / "a.png").read_bytes() == b"first"
        assert (tmp_path / "out" / "A.png").read_bytes() == b"second"


def test_names_that_differ_in_case_alone_where_that_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link stands for what such a file system does: both names lead to one file."""
    writer = ArchiveWriter(Source(), load_model(TINY, "cpu"))
    for name, content in (("a.png", b"first"), ("A.png", b"second")):
        writer.add_single(header.write_stored(Reason.FORMAT, "", content), name)
    packed, out = tmp_path / "set.vlae", tmp_path / "out"
    packed.write_bytes(writer.finish())
    written = archive.files.write_bytes

    def write(path: str, *rest: object) -> None:
        written(path, *rest)
        os.link(path, out / "A.png")

    monkeypatch.setattr(archive.files, "write_bytes", write)
    refused = call("decompress", packed, "-o", out, "--force")
    assert (refused.exit_code, "1 images restored, 1 not" in refused.stderr) == (1, True)
    assert (out / "A.png").read_bytes() == b"first"


def test_verify_against_the_original(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.vlae"
    assert call("compress", folder / "b.qoi", "-o", packed, "-m", TINY).exit_code == 0
    assert "bit for bit" in call("verify", packed, "--against", folder / "b.qoi").stdout
    assert call("verify", packed, "--against", folder).exit_code == 0
    changed = bytearray((folder / "b.qoi").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.qoi").write_bytes(changed)
    refused = call("verify", packed, "--against", tmp_path / "changed.qoi")
    assert (refused.exit_code, "differs from" in refused.stderr) == (1, True)
    # An archive whose files have changed since.
    assert call("compress", folder, "-o", tmp_path / "set.vlae", "-m", TINY, "--exact").exit_code == 0
    (folder / "a.jpg").write_bytes(b"another")
    (folder / "a.png").unlink()
    refused = call("verify", tmp_path / "set.vlae", "--against", folder)
    assert (refused.exit_code, "a.jpg differs" in refused.stderr, "a.png: " in refused.stderr) == (1, True, True)
    assert call("verify", packed, tmp_path / "set.vlae", "--against", folder).exit_code == 2


def test_verify_refuses_more_pixels_than_it_may_decode(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.vlae"
    assert call("compress", folder / "b.qoi", "-o", packed, "-m", TINY).exit_code == 0
    assert "more than 1199" in call("verify", packed, "--max-pixels", 1199).stderr
    assert call("verify", packed, "--max-pixels", 1200).exit_code == 0


def test_info_and_pixels_say_what_comes_back_and_what_does_not(folder: Path, tmp_path: Path) -> None:
    for name, says in (("b.qoi", "bit for bit"), ("a.jpg", "bit for bit"), ("sub/raw.dng", "bit for bit")):
        packed = tmp_path / f"{Path(name).name}.vlae"
        assert call("compress", folder / name, "-o", packed, "-m", TINY).exit_code == 0
        assert says in call("info", packed).stdout
        assert json.loads(call("info", packed, "--json").stdout)["restores"] == says
    result = call("compress", folder / "a.jpg", "-o", tmp_path / "pixels.vlae", "-m", TINY, "--pixels")
    assert "all else that the source held is dropped" in result.stderr
    assert json.loads(call("info", tmp_path / "pixels.vlae", "--json").stdout)["restores"] == "pixels"
    # Nothing is dropped of what is made again, --pixels or not.
    result = call("compress", folder / "b.qoi", "-o", tmp_path / "b.vlae", "-m", TINY, "--pixels", "-f")
    assert "dropped" not in result.stderr


@pytest.mark.parametrize("turned", range(1, 9))
def test_the_orientation_of_a_picture_outlives_every_change_of_format(turned: int, tmp_path: Path) -> None:
    pixels = picture("smooth", 20, 32)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    tags = [(274, "H", 1, turned, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    for source, target in (("a.png", "b.tiff"), ("a.tif", "c.png"), ("a.tif", "d.tiff"), ("a.png", "e.webp")):
        assert call("compress", tmp_path / source, "-o", tmp_path / "a.vlae", "-m", TINY, "-f").exit_code == 0
        result = call("decompress", tmp_path / "a.vlae", "-o", tmp_path / target)
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / target) as image:
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), upright)
    assert (tmp_path / "d.tiff").read_bytes() == (tmp_path / "a.tif").read_bytes()
    assert np.array_equal(tifffile.imread(tmp_path / "b.tiff"), pixels)


def test_a_chain_takes_no_file_that_holds_more_than_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "bits"
    folder.mkdir()
    for number, image in enumerate(binary_images(3, 8)):
        (folder / f"{number}.png").write_bytes(imagecodecs.png_encode(image * 255))
    assert call("compress", folder, "-o", tmp_path / "set.vlae", "-m", BINARY).exit_code == 0
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole + b"more")
    refused = call("compress", folder, "-o", tmp_path / "out.vlae", "-m", BINARY)
    check_refused(refused, tmp_path, "0.png is laid out in another way, or holds more than pixels")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this system has no file names that are not text")
def test_names_that_are_no_text(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"bad\xff.png")
    odd = folder / name
    odd.write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for options in ((), ("--no-verify",), ("--exact",)):
        assert call("compress", odd, "-o", "odd.vlae", "-m", TINY, "-f", *options).exit_code == 0
        assert call("info", "odd.vlae").exit_code == 0
        assert call("decompress", "odd.vlae", "-f").exit_code == 0
        assert (tmp_path / "here" / name).exists()
    jpeg = folder / os.fsdecode(b"\xfe.jpg")
    jpeg.write_bytes((folder / "a.jpg").read_bytes())
    for options in ((), ("--pixels",)):
        assert call("compress", jpeg, "-o", "odd.vlae", "-m", TINY, "-f", *options).exit_code == 0
        assert call("decompress", "odd.vlae", "-f").exit_code == 0
    assert jpeg.read_bytes() == (tmp_path / "here" / jpeg.name).read_bytes()
    assert call("compress", folder, "-o", "set.vlae", "-m", TINY, "--exact").exit_code == 0
    assert call("list", "set.vlae").exit_code == 0
    assert call("decompress", "set.vlae", "-o", "out").exit_code == 0
    assert contents(tmp_path / "here" / "out") == contents(folder)
    assert call("compress", folder, "-o", "packed/", "-m", TINY, "-j", 0).exit_code == 0
    assert call("decompress", "packed", "-o", "back/", "-j", 0).exit_code == 0
    assert (tmp_path / "here" / "back" / name).exists()
