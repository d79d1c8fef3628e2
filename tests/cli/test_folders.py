"""Folders of images, each in a file of its own. Work is done in this process (--jobs 0), but where workers matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, picture
from PIL import Image
from test_cli import TINY, call, check_refused, pixels

import vlae_codec
from vlae_codec import files, folders
from vlae_codec.errors import UnsupportedImage, VlaeError
from vlae_codec.formats import single as api
from vlae_codec.formats.source import compress_file

NAMES = ("a.bmp", "a.png", "sub/a.png", "sub/deep/b.png")
HERE = ("-j", "0", "-m", TINY)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub" / "deep").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.fromarray(picture("smooth", 10, 12, number)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def outputs(plan: folders.Plan) -> list[str]:
    return [task.name for task in plan.tasks]


def test_names_and_sub_folders(images: Path) -> None:
    assert outputs(folders.plan_compress([images])) == ["a.bmp.vlae", "a.png.vlae"]
    assert outputs(folders.plan_compress([images], recursive=True)) == [f"{name}.vlae" for name in NAMES]
    # A file that is named is taken whatever its suffix says.
    assert outputs(folders.plan_compress([images / "sub" / "a.png", images / "notes.txt"])) == [
        "a.png.vlae", "notes.txt.vlae",
    ]  # fmt: skip
    (images / "sub" / "deep" / "b.png").unlink()
    with pytest.raises(UnsupportedImage, match=r"no images found in .*deep.*--recursive visits sub-folders"):
        folders.plan_compress([images / "sub" / "deep"])


def test_names_of_what_is_restored(tmp_path: Path) -> None:
    for name in ("a.png.vlae", "b.VLAE", "c.jpg.vlae", "d.png"):
        (tmp_path / name).touch()
    assert outputs(folders.plan_decompress([tmp_path])) == ["a.png", "b.png", "c.jpg"]
    assert outputs(folders.plan_decompress([tmp_path / "d.png"])) == ["d.png"]
    with pytest.raises(VlaeError, match=r"no \.vlae files found"):
        folders.plan_decompress([GOLDEN.parent / "data"], recursive=True)


@pytest.mark.parametrize(
    ("name", "original", "expected"),
    [
        ("a.jpg.vlae", "a.jpg", "a.jpg"),
        ("a.JPG.vlae", "x.jpeg", "a.JPG"),
        ("a.jpg.vlae", "", "a.jpg.png"),
        ("a.vlae", "", "a.png"),
        ("a.vlae", "x.jpg", "a.jpg"),
        ("a.png.vlae", "x.tiff", "a.png.tiff"),
        ("a.dat.vlae", "x.dat", "a.dat"),
        ("a.vlae", "x.\\..\\y", "a.png"),
    ],
)
def test_no_name_says_another_format_than_the_bytes_are(name: str, original: str, expected: str) -> None:
    assert folders.restored_name(name, original) == expected


def test_outputs_that_collide_are_refused_before_any_work(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("compress", images / "a.png", images / "sub", "-o", f"{out}/", *HERE)
    check_refused(result, tmp_path, f"{images}/a.png and {images}/sub/a.png would both become a.png.vlae")
    other = tmp_path / "other"
    (other / "a.png.vlae").mkdir(parents=True)
    (images / "a.bmp").rename(other / "a.png.vlae" / "x.bmp")
    result = call("compress", images / "a.png", other, "-o", f"{out}/", "-r", *HERE)
    check_refused(result, tmp_path, "would become a.png.vlae, a folder that", "x.bmp needs")
    assert not out.exists()


def test_there_and_back(images: Path, tmp_path: Path) -> None:
    packed, back = tmp_path / "packed", tmp_path / "back"
    result = call("compress", images, "-o", f"{packed}/", "-r", *HERE)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert below(packed) == [f"{name}.vlae" for name in NAMES]
    size = sum((packed / name).stat().st_size for name in below(packed))
    assert result.stderr.split()[-7:-1] == [
        "4", "4", "0", "0", str(sum((images / name).stat().st_size for name in NAMES)), str(size),
    ]  # fmt: skip
    back.mkdir()
    assert call("decompress", packed, "-o", back, "-r", *HERE, "-q").output == ""
    restored = below(back)
    assert len(restored) == len(NAMES)
    for name, again in zip(NAMES, restored, strict=True):
        # The format can be another one, and then its suffix is added.
        assert again.startswith(name)
        assert np.array_equal(pixels(back / again), pixels(images / name))


def test_one_image_into_a_folder_that_exists(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert call("compress", images / "a.png", "-o", tmp_path / "out", "-m", TINY).exit_code == 0
    assert call("decompress", tmp_path / "out" / "a.png.vlae", "-o", tmp_path / "out").exit_code == 0
    assert below(tmp_path / "out") == ["a.png", "a.png.vlae"]


def test_keep_going(images: Path, tmp_path: Path) -> None:
    (images / "a.bmp").write_bytes(b"hello")
    (images / "sub" / "a.png").write_bytes(b"")
    result = call("compress", images, "-o", f"{tmp_path}/out/", "-r", *HERE, "-q")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first == f"{images}/a.bmp is not an image that Pillow can read"
    assert second == f"{images}/sub/a.png is empty, expected an image"
    assert below(tmp_path / "out") == ["a.png.vlae", "sub/deep/b.png.vlae"]


def test_fail_fast(images: Path, tmp_path: Path) -> None:
    (images / "a.bmp").write_bytes(b"hello")
    result = call("compress", images, "-o", f"{tmp_path}/out/", "-r", *HERE, "--fail-fast", "--json")
    assert result.exit_code == 1
    assert "stopped at the first failure, 3 files not done" in result.stderr
    assert below(tmp_path / "out") == []
    assert json.loads(result.stdout)["totals"]["files"] == 1


def test_outputs_that_exist(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    there = tmp_path / "out" / "a.png.vlae"
    there.write_bytes(b"precious")
    result = call("compress", images, "-o", tmp_path / "out", *HERE, "--json")
    assert result.exit_code == 1
    assert f"{images}/a.png: {there} exists; use --force to replace it" in result.stderr
    result = call("compress", images, "-o", tmp_path / "out", *HERE, "--json", "--skip-existing")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["totals"]["skipped"] == 2
    assert there.read_bytes() == b"precious"
    assert call("compress", images, "-o", tmp_path / "out", *HERE, "-f").exit_code == 0
    assert there.read_bytes() == compress_file(
        (images / "a.png").read_bytes(), "a.png", folders.Coding(TINY).models.load()
    )
    result = call("compress", images, "-o", tmp_path / "out", *HERE, "-f", "--skip-existing")
    assert (result.exit_code, "give one of them" in result.stderr) == (2, True)


def test_json(images: Path, tmp_path: Path) -> None:
    (images / "sub" / "a.png").write_bytes(b"hello")
    result = call("compress", images, "-o", f"{tmp_path}/out/", "-r", *HERE, "--json")
    found = json.loads(result.stdout)
    assert [file["source"] for file in found["files"]] == [str(images / name) for name in NAMES]
    good, bad = found["files"][1], found["files"][2]
    assert (good["status"], good["error"]) == ("ok", None)
    assert good["bytes_in"] == (images / "a.png").stat().st_size
    assert good["bytes_out"] == Path(good["output"]).stat().st_size
    assert good["seconds"] > 0
    assert (bad["status"], bad["bytes_out"]) == ("failed", None)
    assert "not an image" in bad["error"]
    totals = found["totals"]
    assert (totals["files"], totals["ok"], totals["failed"], totals["skipped"]) == (4, 3, 1, 0)
    assert totals["bytes_in"] == sum(file["bytes_in"] or 0 for file in found["files"])
    assert totals["ratio"] == pytest.approx(totals["bytes_out"] / totals["bytes_in"])


def test_nothing_is_written_through_a_link(images: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    (elsewhere / "target").write_bytes(b"precious")
    (out / "a.png.vlae").symlink_to(elsewhere / "target")
    result = call("compress", images, "-o", out, "-r", *HERE, "-f")
    assert result.exit_code == 1
    assert result.stderr.count("is a symbolic link, which nothing is written through") == 2
    assert below(elsewhere) == ["target"]
    assert (elsewhere / "target").read_bytes() == b"precious"
    assert not (out / "a.png.vlae").is_symlink()


def test_links_to_folders_are_not_followed(images: Path) -> None:
    (images / "sub" / "loop").symlink_to(images)
    assert outputs(folders.plan_compress([images], recursive=True)) == [f"{name}.vlae" for name in NAMES]


def test_a_restored_name_that_is_taken(tmp_path: Path) -> None:
    """a.bmp.vlae holds a PNG here, whose name would be that of another output."""
    packed = api.compress(picture("smooth", 10, 12), folders.Coding(TINY).models.load())
    for name in ("a.bmp.vlae", "a.bmp.png.vlae"):
        (tmp_path / name).write_bytes(packed)
    tasks = folders.plan_decompress([tmp_path]).tasks
    for force in (False, True):
        done = {Path(o.source).name: o for o in folders.decompress(tasks, tmp_path, folders.Coding(), force=force)}
        assert done["a.bmp.png.vlae"].status == "ok"
        assert "is the output of another file" in (done["a.bmp.vlae"].error or "")


def test_what_cannot_be_restored_into_a_folder(images: Path, tmp_path: Path) -> None:
    call("compress", images, "-o", tmp_path / "set.vlae", "-m", TINY, "--no-verify")
    call("compress", images / "a.png", "-o", tmp_path / "one.vlae", "-m", TINY, "--no-verify")
    result = call("decompress", tmp_path, "-o", f"{tmp_path}/out/", "-j", 0, "-q")
    assert result.exit_code == 1
    assert "set.vlae: an archive or a lossy file" in result.stderr
    assert below(tmp_path / "out") == ["one.png"]


def test_options_that_do_not_fit(images: Path, tmp_path: Path) -> None:
    for option in ("--recursive", "--skip-existing", "--json", "-j1"):
        result = call("compress", images, "-o", tmp_path / "out", "-m", TINY, option)
        assert (result.exit_code, "need a folder as output" in result.stderr) == (2, True)
    assert call("compress", images, "-o", f"{tmp_path}/out/", "--segment", 5, *HERE).exit_code == 2
    check_refused(call("decompress", "a.vlae", "b.vlae", "-o", tmp_path / "out"), tmp_path, "need a folder as output")
    check_refused(call("compress", "-", "-o", f"{tmp_path}/out/", *HERE), tmp_path, "standard input has no name")
    check_refused(call("compress", images, "-o", f"{tmp_path}/out/", "-m", "nobody"), tmp_path, "no model 'nobody'")
    assert not (tmp_path / "out").exists()


def test_a_failed_write_is_a_failure_of_its_file(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = files.write_bytes

    def full(path: str, data: bytes, force: bool, attributes: files.Attributes) -> None:
        if path.endswith("a.bmp.vlae"):
            raise OSError(28, "No space left on device", path)
        original(path, data, force, attributes)

    monkeypatch.setattr(files, "write_bytes", full)
    result = call("compress", images, "-o", f"{tmp_path}/out/", *HERE, "-q")
    assert result.exit_code == 1
    assert result.stderr == f"{images}/a.bmp: {tmp_path}/out/a.bmp.vlae: No space left on device\n"
    assert below(tmp_path / "out") == ["a.png.vlae"]


# -- with worker processes ---------------------------------------------------------------------------------------------


def begin(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "vlae_codec.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], list], process: subprocess.Popen) -> list:
    while process.poll() is None:
        what = found()
        if what:
            return what
        time.sleep(0.01)
    pytest.fail(f"ended too soon: {process.communicate()}")


def workers_of(process: subprocess.Popen) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc to find the worker in")
def test_a_worker_that_is_killed_is_a_failure_of_its_file(images: Path, tmp_path: Path) -> None:
    process = begin("compress", images, "-o", f"{tmp_path}/out/", "-m", TINY, "-j", 1, "--json")
    os.kill(wait_for(lambda: workers_of(process), process)[0], signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[0] == f"{images}/a.bmp: the process that worked on it died: killed, or out of memory"
    assert [file["status"] for file in json.loads(stdout)["files"]] == ["failed", "ok"]
    assert below(tmp_path / "out") == ["a.png.vlae"]


def test_interrupted(images: Path, tmp_path: Path) -> None:
    for number in range(30):
        Image.fromarray(picture("smooth", 40, 48, number)).save(images / f"{number}.png")
    out = tmp_path / "out"
    process = begin("compress", images, "-o", f"{out}/", "-r", "-m", TINY, "-j", 1)
    wait_for(lambda: list(out.glob("*.vlae")), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "vlae-codec: interrupted\n")
    written = [path for path in out.rglob("*") if path.is_file()]
    assert 0 < len(written) < 34
    for path in written:
        assert path.suffix == ".vlae"
        vlae_codec.info(path.read_bytes())
