"""What a command makes of names: of its sources and of its outputs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import GOLDEN, binary_images, picture
from PIL import Image
from vlae_codec.cli import main

from vlae_codec.formats.archive import Archive
from vlae_codec.images import fallback

TINY = str(GOLDEN / "tiny.safetensors")
BINARY = str(GOLDEN / "tiny-binary.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture("smooth", 20, 30)).save("a.png")
    return tmp_path


def call(*arguments: object, given: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=given)


def fails(*arguments: object) -> str:
    """The one line that a command ends with."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_one_source_names_its_output(folder: Path) -> None:
    assert call("compress", "a.png", "-m", TINY).exit_code == 0
    assert call("verify", "a.png.vlae").exit_code == 0
    assert "a.png.vlae exists; use --force" in fails("compress", "a.png", "-m", TINY)
    (folder / "sub").mkdir()
    os.rename("a.png", "sub/a.png")
    assert call("compress", "sub/a.png", "-m", TINY).exit_code == 0
    assert (folder / "sub" / "a.png.vlae").exists()
    np.save("digits.npy", binary_images(5, 8))
    assert call("compress", "digits.npy", "-m", BINARY).exit_code == 0
    assert len(Archive.open("digits.npy.vlae", device="cpu")) == 5
    for sources in (["sub"], ["a.png.vlae", "sub/a.png"], ["-"]):
        result = call("compress", *sources, "-m", TINY)
        assert result.exit_code == 2
        assert "name an output with --output" in result.output


def test_no_output_replaces_its_source(folder: Path) -> None:
    before = Path("a.png").read_bytes()
    os.link("a.png", "same.png")
    for output in ("a.png", "./a.png", "same.png"):
        assert "is the source itself" in fails("compress", "a.png", "-o", output, "-f", "-m", TINY)
    assert "is the source itself" in fails("lossy", "a.png", "-o", "a.png", "-f", "-m", TINY)
    assert Path("a.png").read_bytes() == before
    call("compress", "a.png", "-o", "x.vlae", "-m", TINY)
    packed = Path("x.vlae").read_bytes()
    assert "is the source itself" in fails("decompress", "x.vlae", "-o", "x.vlae", "-f")
    assert Path("x.vlae").read_bytes() == packed


def test_a_vlae_file_under_an_images_name_is_warned_of(folder: Path) -> None:
    result = call("compress", "a.png", "-o", "b.png", "-m", TINY)
    assert result.exit_code == 0
    assert result.stderr.startswith("b.png is a .vlae file under an image's name")
    assert call("compress", "a.png", "-o", "c.png", "-m", TINY, "--quiet").stderr == ""
    assert "under an image's name" not in call("compress", "a.png", "-o", "c.vlae", "-m", TINY).stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions such as 640")
def test_permissions_and_times_are_kept(folder: Path) -> None:
    def state(path: str) -> tuple[int, int]:
        found = os.stat(path)
        return found.st_mode & 0o777, found.st_mtime_ns

    wanted = (0o640, 1_234_567_890_123_456_789)
    os.chmod("a.png", wanted[0])
    os.utime("a.png", ns=(wanted[1], wanted[1]))
    call("compress", "a.png", "-m", TINY)
    call("decompress", "a.png.vlae", "-o", "b.png")
    call("compress", "a.png", "-o", "packed/", "-m", TINY, "--jobs", 0)
    call("decompress", "packed", "-o", "out/", "--jobs", 0)
    for path in ("a.png.vlae", "b.png", "packed/a.png.vlae", "out/a.png"):
        assert state(path) == wanted, path
    call("compress", "a.png", "-o", "new.vlae", "-m", TINY, "--no-attributes")
    call("compress", "a.png", "-o", "new/", "-m", TINY, "--no-attributes", "--jobs", 0)
    for path in ("new.vlae", "new/a.png.vlae"):
        assert state(path)[1] != wanted[1]
        assert state(path)[0] != wanted[0]


def test_standard_input_is_explained_and_checked(folder: Path) -> None:
    call("compress", "a.png", "-o", "a.vlae", "-m", TINY, "--pixels")
    data = Path("a.vlae").read_bytes()
    assert "30 x 20" in call("info", "-", given=data).output
    result = call("verify", "-", given=data)
    assert (result.exit_code, result.output[:6]) == (0, "-: ok ")
    result = call("verify", "-", given=data[:-1])
    assert result.exit_code == 1
    assert call("verify", "-", "a.vlae", given=data).exit_code == 2


def test_errors_name_the_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    call("compress", "a.png", "-o", "a.vlae", "-m", TINY)
    Path("sub/cut.vlae").write_bytes(Path("a.vlae").read_bytes()[:-9])
    for command in (["info"], ["decompress", "-o", "x.png"]):
        assert fails(command[0], "sub/cut.vlae", *command[1:]).startswith("vlae-codec: sub/cut.vlae: checksum")
    for command in ("info", "list", "decompress"):
        line = fails(command, "a.png", *(["-o", "x.png"] if command == "decompress" else []))
        assert line == "vlae-codec: a.png: a PNG image, not a .vlae file\n"
    line = fails("list", "a.vlae")
    assert line.startswith("vlae-codec: a.vlae: the file is of kind")
    assert "not an archive's; `info` shows" in line
    Path("notes.txt").write_text("no image")
    assert "notes.txt" in fails("compress", "notes.txt", "-m", TINY)


def test_a_list_shows_sizes(folder: Path) -> None:
    Image.fromarray(picture("noise", 40, 40)).save("b.png")
    call("compress", "a.png", "b.png", "-o", "set.vlae", "-m", TINY)
    lines = [line.split() for line in call("list", "set.vlae").output.splitlines()]
    assert [name for _, name in lines] == ["a.png", "b.png"]
    sizes = [float(size) for size, _ in lines]
    assert sizes[0] < sizes[1]
    assert sum(sizes) < os.path.getsize("set.vlae") < sum(sizes) + 250
    assert call("list", "set.vlae", "--names").output == "a.png\nb.png\n"
    assert json.loads(call("list", "set.vlae", "--json").output)["bytes"] == sizes
    np.save("digits.npy", binary_images(10, 8))
    call("compress", "digits.npy", "-o", "digits.vlae", "-m", BINARY, "--segment", 6)
    sizes = [float(line.split()[0]) for line in call("list", "digits.vlae").output.splitlines()]
    assert len(set(sizes[:6])) == len(set(sizes[6:])) == 1
    assert sum(sizes) < os.path.getsize("digits.vlae")


def test_a_broken_source_does_not_keep_the_others_from_an_archive(folder: Path) -> None:
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:60])
    Image.fromarray(picture("smooth", 9, 9)).save("z.png")
    arguments = ["compress", "a.png", "broken.png", "z.png", "-o", "set.vlae", "-m", TINY]
    result = call(*arguments)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("broken.png cannot be read as an image: ")
    assert lines[-1] == "vlae-codec: 1 of 3 files are not in the archive"
    assert call("list", "set.vlae", "--names").output == "a.png\nz.png\n"
    assert call("verify", "set.vlae").exit_code == 0
    os.remove("set.vlae")
    assert "broken.png" in fails(*arguments, "--fail-fast")
    assert not os.path.exists("set.vlae")
    assert call("compress", "broken.png", "broken.png", "-o", "set.vlae", "-m", TINY).exit_code == 1
    assert not os.path.exists("set.vlae")
    assert call("compress", "a.png", "-o", "x.vlae", "-m", TINY, "--fail-fast").exit_code == 2


def test_what_is_intact_of_an_array_is_restored(folder: Path) -> None:
    images = binary_images(30, 8)
    np.save("digits.npy", images)
    call("compress", "digits.npy", "-o", "digits.vlae", "-m", BINARY, "--segment", 10)
    with Archive.open("digits.vlae", device="cpu") as archive:
        at = archive.segments[1].offset
    data = bytearray(Path("digits.vlae").read_bytes())
    data[at + 30] ^= 1
    Path("digits.vlae").write_bytes(data)
    line = fails("decompress", "digits.vlae", "-o", "out.npy")
    assert "out.npy: array of uint8, shape (20, 8, 8), without what is damaged: images 10 to 19" in line
    assert np.array_equal(np.load("out.npy"), np.delete(images, np.s_[10:20], axis=0))


def test_a_stored_source_becomes_another_format(folder: Path) -> None:
    Image.fromarray(picture("smooth", 40, 50)).save("a.jpg", quality=80)
    call("compress", "a.jpg", "-o", "j.vlae", "-m", TINY)
    assert call("decompress", "j.vlae", "-o", "j.png").exit_code == 0
    with Image.open("j.png") as after, Image.open("a.jpg") as before:
        assert (after.format, after.tobytes()) == ("PNG", before.tobytes())
    assert fails("decompress", "j.vlae", "-o", "j.gif")
    assert not os.path.exists("j.gif")


@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_tiff_of_16_bits_comes_back(folder: Path, mode: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (12, 14, len(mode))).astype(np.uint16)
    for name, options in (("plain.tif", {}), ("packed.tif", {"compression": "zlib"})):
        buffer = io.BytesIO()
        extra = {"extrasamples": ["unassalpha"]} if mode == "RGBA" else {}
        tifffile.imwrite(buffer, pixels, photometric="rgb", **extra, **options)
        Path(name).write_bytes(buffer.getvalue())
        assert call("compress", name, "-o", "t.vlae", "-f", "-m", TINY).exit_code == 0
        assert call("decompress", "t.vlae", "-o", "out.tif", "-f").exit_code == 0
        assert Path("out.tif").read_bytes() == buffer.getvalue()


def test_quick_tries_no_slow_form(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Palettes become PNG or deflated pixels, and of others only the model is tried, if it is any use."""
    Image.fromarray(picture("smooth", 60, 60)).quantize(16).save("p.png")
    Image.fromarray(np.dstack([picture("smooth", 60, 60), picture("noise", 60, 60)[..., 0]])).save("rgba.png")
    tried: list[str] = []
    saved = fallback.saved

    def watched(image: Image.Image, fmt: str, **options: int) -> bytes:
        # A quick WebP is made to judge by.
        tried.extend([] if fmt == "WEBP" and options["method"] < 6 else [fmt])
        return saved(image, fmt, **options)

    monkeypatch.setattr(fallback, "saved", watched)
    for name in ("a.png", "p.png", "rgba.png"):
        assert call("compress", name, "-m", TINY, "--quick").exit_code == 0
        assert call("decompress", f"{name}.vlae", "-o", f"{name}.again.png").exit_code == 0
        with Image.open(name) as before, Image.open(f"{name}.again.png") as after:
            assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes()
    assert set(tried) == {"PNG"}
    assert call("compress", "a.png", "-f", "-m", TINY).exit_code == 0
    assert "WEBP" in tried


def test_files_that_are_passed_over_are_counted(folder: Path) -> None:
    (folder / "in" / "sub").mkdir(parents=True)
    os.rename("a.png", "in/a.png")
    for name in ("in/notes.txt", "in/sub/more.txt"):
        Path(name).write_text("no image")
    result = call("compress", "in", "-o", "out/", "-m", TINY, "--jobs", 0)
    assert "1 other files passed over, as their names are not of images" in result.stderr
    result = call("compress", "in", "-o", "again/", "-r", "-m", TINY, "--jobs", 0, "--json")
    assert json.loads(result.stdout)["totals"]["passed_over"] == 2
    Path("out/notes.txt").write_text("no image")
    assert "1 other files passed over" in call("decompress", "out", "-o", "back/", "--jobs", 0).stderr
    assert "passed over" not in call("compress", "in/a.png", "-o", "alone/", "-m", TINY, "--jobs", 0).stderr


def test_a_run_that_is_stopped_leaves_no_empty_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in" / "sub" / "deep").mkdir(parents=True)
    os.rename("a.png", "in/sub/deep/a.png")
    (folder / "old").mkdir()

    def interrupt(*arguments: object, **rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlae_codec.folders.compress_file", interrupt)
    for output in ("out/", "old/"):
        assert call("compress", "in", "-o", output, "-r", "-m", TINY, "--jobs", 0).exit_code == 130
    assert not os.path.exists("out")
    assert os.listdir("old") == []
    Path("old/sub").write_text("in the way")
    assert "old/sub is not a folder" in call("compress", "in", "-o", "old/", "-r", "-m", TINY, "--jobs", 0).stderr
