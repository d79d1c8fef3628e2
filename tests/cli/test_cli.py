from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import EXAMPLES, GOLDEN, picture, vlae_file
from PIL import Image
from vlae_codec.cli import main

import vlae_codec
from vlae_codec import load_model
from vlae_codec.formats import single as api
from vlae_codec.stages import StageKind

TINY = str(GOLDEN / "tiny.safetensors")


def call(*arguments: str | Path, data: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=data)


def check_refused(result: Result, folder: Path, *parts: str) -> None:
    """Exit code 1, one line on stderr that says the parts, and nothing new in the folder."""
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vlae-codec: ")
    for part in parts:
        assert part in lines[0]
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not (folder / "out.vlae").exists()
    assert not (folder / "out.png").exists()
    assert not list(folder.glob(".*"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(picture("smooth", 40, 50)).save(path)
    return path


@pytest.fixture
def packed(tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "in.vlae"
    with Image.open(source) as image:
        path.write_bytes(vlae_file(image, StageKind.BITS_BACK, load_model(TINY, "cpu")))
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_round_trip(tmp_path: Path, source: Path, packed: Path) -> None:
    result = call("decompress", packed, "-o", tmp_path / "out.png")
    assert result.exit_code == 0
    assert "50 x 40, RGB" in result.stderr
    assert np.array_equal(pixels(tmp_path / "out.png"), pixels(source))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".bmp", ".ppm"])
def test_every_lossless_output(tmp_path: Path, source: Path, packed: Path, suffix: str) -> None:
    out = tmp_path / f"restored{suffix}"
    assert call("decompress", packed, "-o", out, "-q").exit_code == 0
    assert np.array_equal(pixels(out), pixels(source))


def test_a_photograph_is_smaller_than_webp_and_explained(tmp_path: Path) -> None:
    source, out = tmp_path / "part.png", tmp_path / "part.vlae"
    with Image.open(EXAMPLES / "lake.png") as image:
        part = image.crop((200, 150, 500, 350))
    part.save(source)
    webp = io.BytesIO()
    part.save(webp, "WEBP", lossless=True, quality=100, method=6)
    assert call("compress", source, "-o", out).exit_code == 0
    assert out.stat().st_size < 0.95 * len(webp.getvalue())
    what = json.loads(call("info", out, "--json").stdout)
    assert what["file_bytes"] == out.stat().st_size
    assert what["pixels"] == 300 * 200 * 3
    assert what["mode"] in ("vlae", "vlae-no-z")
    assert what["model"] == "photo"
    assert set(what["bits"]) == {"z_prior", "z_posterior", "pixels", "alpha", "lanes_and_flush", "header"}
    bits = what["bits"]
    total = sum(bits.values()) - 2 * bits["z_posterior"]
    assert total == 8 * what["file_bytes"]
    assert what["elbo_bits"] == bits["z_prior"] - bits["z_posterior"] + bits["pixels"]
    assert what["file_bytes"] <= 1.003 * what["elbo_bits"] / 8 + 200
    assert what["bits_per_subpixel"] == pytest.approx(8 * what["file_bytes"] / what["pixels"])


def test_a_whole_photograph_takes_what_the_elbo_says(tmp_path: Path) -> None:
    out = tmp_path / "lake.vlae"
    command = ("compress", EXAMPLES / "lake.png", "-o", out, "--no-verify", "-m", "photo-global")
    assert call(*command).exit_code == 0
    what = json.loads(call("info", out, "--json").stdout)
    assert what["mode"] == "vlae"
    assert what["bits"]["z_prior"] > what["bits"]["z_posterior"] > 0
    assert what["pixels"] == 768 * 512 * 3
    assert what["elbo_bits"] / 8 < what["file_bytes"] <= 1.003 * what["elbo_bits"] / 8 + 200
    assert call("decompress", out, "-o", tmp_path / "lake.png").exit_code == 0
    assert np.array_equal(pixels(tmp_path / "lake.png"), pixels(EXAMPLES / "lake.png"))


def test_without_an_output_the_source_comes_back(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = tmp_path / "a.jpg"
    Image.fromarray(picture("smooth", 30, 20)).save(jpeg)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for path in (source, jpeg):
        result = call("compress", path, "-o", "packed.vlae", "-m", TINY, "--force")
        assert result.exit_code == 0, result.output
        assert call("decompress", "packed.vlae").exit_code == 0
        assert np.array_equal(pixels(tmp_path / "out" / path.name), pixels(path))
    assert "its format loses pixels" in result.stderr
    assert "its format loses pixels" in call("info", "packed.vlae").stdout
    assert (tmp_path / "out" / "a.jpg").read_bytes() == jpeg.read_bytes()
    assert call("decompress", "packed.vlae", "-o", "b.jpeg").exit_code == 0
    assert (tmp_path / "out" / "b.jpeg").read_bytes() == jpeg.read_bytes()
    assert call("decompress", "packed.vlae", "-o", "b.png").exit_code == 0
    assert np.array_equal(pixels(tmp_path / "out" / "b.png"), pixels(jpeg))
    assert call("compress", jpeg, "-o", "coded.vlae", "-m", TINY, "--pixels").exit_code == 0
    refused = call("decompress", "coded.vlae", "-o", "c.jpg")
    assert (refused.exit_code, "does not keep" in refused.stderr, Path("c.jpg").exists()) == (1, True, False)
    # a.jpg is there, but the pixels go into another file.
    assert call("decompress", "coded.vlae").exit_code == 0
    assert "a.jpg.png exists" in call("decompress", "coded.vlae").stderr
    with Image.open("a.jpg.png") as image:
        assert (image.format, image.tobytes()) == ("PNG", Image.open(jpeg).tobytes())
    assert Path("a.jpg").read_bytes() == jpeg.read_bytes()
    (tmp_path / "out" / "nameless.vlae").write_bytes(
        vlae_codec.compress(picture("smooth", 9, 9), load_model(TINY, "cpu"))
    )
    assert "name an output with --output" in call("decompress", "nameless.vlae").stderr


def test_info_names_every_part(packed: Path) -> None:
    text = call("info", packed).stdout
    for part in ("image", "mode", "file", "pixels", "header"):
        assert part in text


def test_standard_input_and_output(tmp_path: Path, source: Path) -> None:
    """In processes of their own, as only those have a binary standard output."""
    command = [sys.executable, "-m", "vlae_codec.cli"]
    with source.open("rb") as file:
        coded = subprocess.run(
            [*command, "compress", "-", "-o", "-", "-m", TINY], stdin=file, capture_output=True, check=True
        )
    restored = subprocess.run(
        [*command, "decompress", "-", "-o", "-"], input=coded.stdout, capture_output=True, check=True
    )
    with Image.open(io.BytesIO(restored.stdout)) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels(source))


def test_an_output_that_exists_is_kept_unless_forced(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "there.vlae"
    target.write_bytes(b"precious")
    result = call("compress", source, "-o", target, "-m", TINY)
    assert result.exit_code == 1
    assert "exists; use --force" in result.stderr
    assert target.read_bytes() == b"precious"
    assert call("compress", source, "-o", target, "-m", TINY, "--force").exit_code == 0
    assert target.read_bytes()[:5] == b"\x89VLAE"


def test_quiet_says_nothing(tmp_path: Path, source: Path) -> None:
    result = call("compress", source, "-o", tmp_path / "q.vlae", "-m", TINY, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_bad_sources_of_decompress(tmp_path: Path, packed: Path) -> None:
    good = packed.read_bytes()
    version = bytearray(good)
    version[8] = 77
    cases = {
        "not": (b"GIF89a and so on", "not a .vlae file"),
        "empty": (b"", "empty"),
        "version": (bytes(version), "version 77"),
        "cut": (good[:-1], "cut short"),
        "half": (good[: len(good) // 2], "cut short"),
        "long": (good + b"\0", "lengthened"),
        "flip": (good[:60] + bytes([good[60] ^ 4]) + good[61:], "damaged"),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / f"{name}.vlae"
        path.write_bytes(data)
        check_refused(call("decompress", path, "-o", tmp_path / "out.png"), tmp_path, message)
        check_refused(call("info", path), tmp_path, message)
    check_refused(call("decompress", tmp_path / "none.vlae", "-o", tmp_path / "out.png"), tmp_path, "No such file")


def test_bad_sources_of_compress(tmp_path: Path, source: Path) -> None:
    whole = source.read_bytes()
    two_frames = io.BytesIO()
    frames = [Image.fromarray(picture("noise", 8, 8, seed)) for seed in (1, 2)]
    frames[0].save(two_frames, "GIF", save_all=True, append_images=frames[1:])
    cases = {
        "text": (b"hello", "not an image that Pillow can read"),
        "empty": (b"", "is empty, expected an image"),
        "cut": (whole[: len(whole) // 2], "cannot be read as an image"),
        "animated": (two_frames.getvalue(), "2 frames, expected one"),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(data)
        options = ["--pixels"] if name == "animated" else []
        result = call("compress", path, "-o", tmp_path / "out.vlae", "-m", TINY, *options)
        check_refused(result, tmp_path, message)
    check_refused(call("compress", tmp_path / "none.png", "-o", tmp_path / "out.vlae"), tmp_path, "No such file")
    stopped = call("compress", tmp_path, "-o", tmp_path / "out.vlae", "--fail-fast")
    check_refused(stopped, tmp_path, "cut.png cannot be read")


@pytest.mark.parametrize(
    ("options", "model", "adapts"),
    [(["-e", "1"], "fast", False), (["-e", "1", "--adapt"], "fast", True), (["-e", "2"], "photo", True),
     ([], "photo", True), (["-e", "2", "--no-adapt"], "photo", False)],
)  # fmt: skip
def test_effort_is_a_model_and_whether_it_learns(tmp_path: Path, options: list[str], model: str, adapts: bool) -> None:
    with Image.open(EXAMPLES / "lake.png") as image:
        image.convert("RGB").crop((0, 0, 150, 120)).save(tmp_path / "part.png")
    assert call("compress", tmp_path / "part.png", "-o", tmp_path / "part.vlae", *options).exit_code == 0
    what = vlae_codec.info((tmp_path / "part.vlae").read_bytes())
    assert (what["model"], what["adapts"]) == (model, adapts)


def test_effort_beside_a_model_is_refused(tmp_path: Path, source: Path) -> None:
    result = call("compress", source, "-o", tmp_path / "out.vlae", "-e", "1", "-m", TINY)
    assert result.exit_code == 2
    assert "--effort names a model, and so does --model" in result.stderr


def test_bad_models(tmp_path: Path, source: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.vlae"
    check_refused(call("compress", source, "-o", out, "-m", "nobody"), tmp_path, "no model 'nobody'", "photo")
    check_refused(call("compress", source, "-o", out, "-m", source), tmp_path, "not a model of vlae-codec")
    result = call("decompress", packed, "-o", tmp_path / "out.png", "-m", GOLDEN / "tiny-no-z.safetensors")
    check_refused(result, tmp_path, "was made with model")
    monkeypatch.delenv("VLAE_CODEC_MODELS")
    check_refused(call("decompress", packed, "-o", tmp_path / "out.png"), tmp_path, "which is not here", "--model")
    assert call("decompress", packed, "-o", tmp_path / "out.png", "-m", TINY).exit_code == 0


def test_bad_outputs(tmp_path: Path, source: Path, packed: Path) -> None:
    check_refused(call("compress", source, "-o", tmp_path / "no" / "out.vlae"), tmp_path, "is not a folder")
    check_refused(call("decompress", packed, "-o", tmp_path / "out.jpg"), tmp_path, "does not keep", "exactly")
    check_refused(call("decompress", packed, "-o", tmp_path / "out.xyz"), tmp_path, "suffix '.xyz'")
    check_refused(call("decompress", packed, "-o", tmp_path / "out.gif"), tmp_path, "GIF")
    check_refused(call("compress", source, "-o", tmp_path / "out.vlae", "--device", "cuda:99"), tmp_path, "'cuda:99'")
    check_refused(call("compress", source, "-o", tmp_path / "out.vlae", "--device", "abacus"), tmp_path, "'abacus'")


def test_no_permission(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Said rather than set: root, as whom containers run tests, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check_refused(call("compress", source, "-o", tmp_path / "out.vlae", "-m", TINY), tmp_path, "no permission to write")
    monkeypatch.undo()

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "out.vlae"))

    monkeypatch.setenv("VLAE_CODEC_MODELS", str(GOLDEN))
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    check_refused(call("compress", source, "-o", tmp_path / "out.vlae", "-m", TINY), tmp_path, "Permission denied")


def test_a_failed_write_leaves_nothing(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    check_refused(call("compress", source, "-o", tmp_path / "out.vlae", "-m", TINY), tmp_path, "No space left")


def test_a_picture_that_comes_back_different_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "part.png"
    with Image.open(EXAMPLES / "lake.png") as image:
        image.crop((200, 150, 300, 250)).save(source)
    original = api.from_planes
    monkeypatch.setattr(api, "from_planes", lambda planes, *rest: original(planes ^ 1, *rest))
    result = call("compress", source, "-o", tmp_path / "out.vlae")
    check_refused(result, tmp_path, "does not decode to the image given")


def test_version_and_help() -> None:
    assert "0.1.0" in call("--version").output
    for command in ("compress", "decompress", "info", "train", "export"):
        assert call(command, "--help").exit_code == 0
        assert command in call("--help").output


def test_the_limit_of_pixels(tmp_path: Path, source: Path, packed: Path) -> None:
    for command, path, out in (("compress", source, "out.vlae"), ("decompress", packed, "out.png")):
        refused = call(command, path, "-o", tmp_path / out, "-m", TINY, "--max-pixels", "1999")
        check_refused(refused, tmp_path, "50 x 40 pixels, more than 1999; --max-pixels raises the limit")
        assert call(command, path, "-o", tmp_path / out, "-m", TINY, "--max-pixels", "2000").exit_code == 0
        (tmp_path / out).unlink()


def test_learning_is_left_out_where_asked(tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "lake.png") as image:
        image.crop((0, 0, 160, 128)).save(tmp_path / "a.png")
    quick = ("compress", tmp_path / "a.png", "--no-verify", "--quick", "-m", "photo")
    assert call(*quick, "-o", tmp_path / "one.vlae", "--no-adapt").exit_code == 0
    assert call(*quick, "-o", f"{tmp_path}/many/", "--no-adapt", "--jobs", "0").exit_code == 0
    assert call(*quick, "-o", tmp_path / "learned.vlae").exit_code == 0
    for name, adapts in (("one.vlae", False), ("many/a.png.vlae", False), ("learned.vlae", True)):
        assert vlae_codec.info((tmp_path / name).read_bytes())["adapts"] is adapts
    result = call("compress", tmp_path / "a.png", "-o", tmp_path / "b.vlae", "--no-adapt", "-m", "static-mnist")
    assert result.exit_code == 2
    assert "--no-adapt is for photographs, and model static-mnist is for binary images" in result.stderr
