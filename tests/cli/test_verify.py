"""``vlae-codec verify`` on files of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, binary_images
from test_cli import TINY, call

BINARY = str(GOLDEN / "tiny-binary.safetensors")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """One file of each kind; those of a photograph's model are in a sub-folder."""
    folder = tmp_path / "packed"
    (folder / "sub").mkdir(parents=True)
    np.save(tmp_path / "in.npy", binary_images(9, 8))
    for command, name in (("compress", "archive.vlae"), ("lossy", "lossy.vlae")):
        more = ("--segment", 3) if command == "compress" else ()
        assert call(command, tmp_path / "in.npy", "-o", folder / name, "-m", BINARY, *more).exit_code == 0
    shutil.copy(GOLDEN / "tiny-smooth-bits_back.vlae", folder / "sub" / "image.vlae")
    shutil.copy(GOLDEN / "palette-fallback.vlae", folder / "sub" / "fallback.vlae")
    assert call("lossy", GOLDEN / "grey.png", "-o", folder / "sub" / "z.vlae", "-m", TINY).exit_code == 0
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_every_kind(packed: Path) -> None:
    before = sorted(packed.rglob("*"))
    result = call("verify", packed, "-r", "-j", 0)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = dict(line.split(": ok ") for line in result.stdout.splitlines())
    assert lines[f"{packed}/archive.vlae"] == "(archive, 9 images)"
    assert lines[f"{packed}/lossy.vlae"] == "(lossy, 9 images of 8 x 8)"
    assert lines[f"{packed}/sub/image.vlae"].startswith("(vlae, ")
    assert lines[f"{packed}/sub/fallback.vlae"].endswith(", P)")
    assert lines[f"{packed}/sub/z.vlae"].startswith("(lossy, 1 images of ")
    assert sorted(packed.rglob("*")) == before
    assert len(call("verify", packed, "-j", 0).stdout.splitlines()) == 2
    assert call("verify", packed, "-r", "-j", 0, "-q").output == ""


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def test_damage_is_found_in_every_kind(packed: Path) -> None:
    for path in packed.rglob("*.vlae"):
        flip(path, 0.5)
    (packed / "no.vlae").write_bytes(b"GIF89a")
    (packed / "empty.vlae").touch()
    result = call("verify", packed, packed / "none.vlae", "-r", "-j", 0)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = dict(line.split(": ", 1) for line in result.stderr.splitlines())
    assert lines[f"{packed}/archive.vlae"].startswith("images 3 to 5: checksum")
    for name in ("lossy.vlae", "sub/image.vlae", "sub/fallback.vlae", "sub/z.vlae"):
        assert "checksum" in lines[f"{packed}/{name}"]
    assert "not a .vlae file" in lines[f"{packed}/no.vlae"]
    assert "the file is empty" in lines[f"{packed}/empty.vlae"]
    assert lines[f"{packed}/none.vlae"] == "No such file or directory"
    assert len(lines) == 8


def test_files_of_models_that_are_not_here(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLAE_CODEC_MODELS")
    flip(packed / "sub" / "fallback.vlae", 0.5)
    result = call("verify", packed, "-r", "-j", 0, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["totals"] == {"files": 5, "ok": 0, "failed": 1, "unchecked": 4}
    by_name = {Path(file["source"]).name: file for file in found["files"]}
    assert by_name["fallback.vlae"]["status"] == "failed"
    for name in ("archive.vlae", "lossy.vlae", "image.vlae", "z.vlae"):
        assert by_name[name]["status"] == "unchecked"
        assert by_name[name]["error"].startswith("cannot be checked: the ")
        assert f"{by_name[name]['source']}: cannot be checked" in result.stderr
    assert call("verify", packed / "sub" / "image.vlae", "-m", TINY).exit_code == 0
    assert "was made with model" in call("verify", packed / "sub" / "image.vlae", "-m", BINARY).stderr


def test_json_in_workers(packed: Path) -> None:
    flip(packed / "lossy.vlae", 0.9)
    result = call("verify", packed, "-r", "-j", 2, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [Path(file["source"]).name for file in found["files"]] == [
        "archive.vlae", "lossy.vlae", "fallback.vlae", "image.vlae", "z.vlae",
    ]  # fmt: skip
    assert [file["status"] for file in found["files"]] == ["ok", "failed", "ok", "ok", "ok"]
    assert found["files"][0]["content"] == "archive, 9 images"
    assert found["files"][1]["content"] is None


def test_nothing_to_check(tmp_path: Path) -> None:
    result = call("verify", tmp_path)
    assert result.exit_code == 1
    assert "no .vlae files found" in result.stderr
