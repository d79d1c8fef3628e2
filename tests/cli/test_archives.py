"""Archives, lossy files and models for binary images on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, binary_images, picture
from PIL import Image
from test_cli import call, check_refused

from vlae_codec import archive_array, load_model
from vlae_codec.errors import VlaeError
from vlae_codec.formats import lossy

MODEL = str(GOLDEN / "tiny-binary.safetensors")
IMAGES = binary_images(30, 8)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image * 255).save(folder / f"{i:02}.png")
    return folder


def run(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays(tmp_path: Path, suffix: str) -> None:
    source, packed, again = tmp_path / f"in{suffix}", tmp_path / "set.vlae", tmp_path / f"out{suffix}"
    if suffix == ".npz":
        np.savez(source, digits=IMAGES, labels=np.arange(30))
        check_refused(call("compress", source, "-o", packed, "-m", MODEL), tmp_path, "holds digits, labels")
    else:
        np.save(source, IMAGES)
    run(
        "compress",
        source,
        "-o",
        packed,
        "-m",
        MODEL,
        "--segment",
        7,
        *(["--key", "digits"] if suffix == ".npz" else []),
    )
    run("decompress", packed, "-o", again)
    loaded = np.load(again)["digits"] if suffix == ".npz" else np.load(again)
    assert np.array_equal(loaded, IMAGES)
    assert loaded.dtype == IMAGES.dtype
    assert run("list", packed, "--names").split() == [str(i) for i in range(30)]
    assert json.loads(run("info", packed, "--json"))["segments"] == 5
    assert "30 images in 5 segments" in run("info", packed)


def test_a_folder_there_and_back(digits: Path, tmp_path: Path) -> None:
    packed = tmp_path / "set.vlae"
    run("compress", digits, "-o", packed, "-m", MODEL, "--embed-model")
    assert json.loads(run("list", packed, "--json"))["images"] == [f"{i:02}.png" for i in range(30)]
    run("decompress", packed, "-o", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 30
    for i, image in enumerate(IMAGES):
        with Image.open(tmp_path / "out" / f"{i:02}.png") as again:
            assert again.mode == "L"
            assert np.array_equal(np.asarray(again), image * 255)
    run("decompress", packed, "-o", tmp_path / "one.png", "--select", "07.png")
    with Image.open(tmp_path / "one.png") as again:
        assert np.array_equal(np.asarray(again), IMAGES[7] * 255)
    check_refused(call("decompress", packed, "-o", tmp_path / "x.png", "--select", "no"), tmp_path, "no image 'no'")
    check_refused(call("decompress", packed, "-o", tmp_path / "out"), tmp_path, "exists")


def test_particles(tmp_path: Path) -> None:
    source, packed, again = tmp_path / "in.npy", tmp_path / "set.vlae", tmp_path / "out.npy"
    np.save(source, IMAGES)
    run("compress", source, "-o", packed, "-m", MODEL, "--particles", 3)
    assert json.loads(run("info", packed, "--json"))["particles"] == 3
    assert "one of 3 draws of each z is coded" in run("info", packed)
    run("decompress", packed, "-o", again)
    assert np.array_equal(np.load(again), IMAGES)
    refused = call("decompress", packed, "-o", tmp_path / "drawn.npy", "--mode", "mean")
    check_refused(refused, tmp_path, "for lossy files, and this is an archive")
    for model, message in (("tiny-binary-no-z", "has no z"), ("tiny", "is for photographs")):
        chosen = "-m", GOLDEN / f"{model}.safetensors", "--particles", 3
        check_refused(call("compress", source, "-o", tmp_path / "out.vlae", *chosen), tmp_path, message)
    chosen = "-m", GOLDEN / "tiny-binary-no-z.safetensors", "--particles", 3
    check_refused(call("eval", source, *chosen), tmp_path, "has no z")
    refused = call("eval", source, "-m", tmp_path / "checkpoint.pt", "--particles", 3)
    assert (refused.exit_code, "a checkpoint makes none" in refused.stderr) == (2, True)
    with pytest.raises(VlaeError, match=r"65 particles, expected 1\.\.64"):
        archive_array(IMAGES, load_model(MODEL), particles=65)


def test_one_binary_image_is_an_archive_of_one(digits: Path, tmp_path: Path) -> None:
    run("compress", digits / "03.png", "-o", tmp_path / "one.vlae", "-m", MODEL)
    run("decompress", tmp_path / "one.vlae", "-o", tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        assert np.array_equal(np.asarray(again), IMAGES[3] * 255)


def test_an_archive_of_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(picture("smooth", 30, 20 + i)).save(folder / f"{i}.png")
    run("compress", folder, "-o", tmp_path / "set.vlae", "-m", GOLDEN / "tiny.safetensors")
    run("decompress", tmp_path / "set.vlae", "-o", tmp_path / "out")
    for i in range(2):
        with Image.open(tmp_path / "out" / f"{i}.png") as again:
            assert np.array_equal(np.asarray(again), picture("smooth", 30, 20 + i))


def test_the_intact_part_of_a_damaged_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", IMAGES)
    packed = tmp_path / "set.vlae"
    run("compress", tmp_path / "in.npy", "-o", packed, "-m", MODEL, "--segment", 10)
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 4
    packed.write_bytes(data)
    result = call("decompress", packed, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "20 images restored; damaged: images 10 to 19: checksum of the section" in result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 20
    check_refused(call("decompress", packed, "-o", tmp_path / "out.npy"), tmp_path, "checksum of the section")


def test_nothing_is_written_through_a_link(digits: Path, tmp_path: Path) -> None:
    (digits / "sub").mkdir()
    (digits / "00.png").rename(digits / "sub" / "00.png")
    run("compress", digits, "-o", tmp_path / "set.vlae", "-m", MODEL)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    result = call("decompress", tmp_path / "set.vlae", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "symbolic link" in result.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


def test_lossy(digits: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", IMAGES)
    run("lossy", tmp_path / "in.npy", "-o", tmp_path / "set.vlae", "-m", MODEL)
    for i in range(2):
        run("decompress", tmp_path / "set.vlae", "-o", tmp_path / f"{i}.npy", "--seed", 5)
    drawn = np.load(tmp_path / "0.npy")
    assert drawn.shape == IMAGES.shape
    assert set(np.unique(drawn)) == {0, 1}
    assert np.array_equal(drawn, np.load(tmp_path / "1.npy"))
    run("decompress", tmp_path / "set.vlae", "-o", tmp_path / "three.npy", "--samples", 3, "--seed", 4)
    three = np.load(tmp_path / "three.npy")
    assert three.shape == (3, 30, 8, 8)
    assert np.array_equal(three[1], drawn)
    assert not np.array_equal(three[0], drawn)
    run("decompress", tmp_path / "set.vlae", "-o", tmp_path / "mean.npy", "--mode", "mean", "--samples", 3, "--seed", 4)
    assert np.array_equal(np.load(tmp_path / "mean.npy"), np.rint(three.mean(0) * 255))
    run("lossy", digits, "-o", tmp_path / "files.vlae", "-m", MODEL)
    run("decompress", tmp_path / "files.vlae", "-o", tmp_path / "drawn", "--samples", 2)
    assert len(list((tmp_path / "drawn").iterdir())) == 60
    assert "kl" in json.loads(run("info", tmp_path / "files.vlae", "--json"))["bits"]


def test_lossy_photograph(tmp_path: Path) -> None:
    Image.fromarray(picture("smooth", 40, 50)).save(tmp_path / "in.png")
    model = GOLDEN / "tiny.safetensors"
    run("lossy", tmp_path / "in.png", "-o", tmp_path / "z.vlae", "-m", model)
    run("decompress", tmp_path / "z.vlae", "-o", tmp_path / "y.png", "-m", model)
    with Image.open(tmp_path / "y.png") as y:
        assert (y.size, y.mode) == ((50, 40), "RGB")
        y.load()
    run("decompress", tmp_path / "z.vlae", "-o", tmp_path / "drawn", "-m", model, "--mode", "sample", "--samples", 2)
    run("decompress", tmp_path / "z.vlae", "-o", tmp_path / "x.png", "-m", model, "--mode", "sample", "--seed", 1)
    with Image.open(tmp_path / "drawn" / "in-2.png") as second, Image.open(tmp_path / "x.png") as drawn:
        assert (drawn.size, drawn.mode) == ((50, 40), "RGB")
        assert second.tobytes() == drawn.tobytes() != y.tobytes()
    # A file that holds the picture without loss serves as the picture, and has nothing to draw.
    run("compress", tmp_path / "in.png", "-o", tmp_path / "whole.vlae", "-m", model)
    for more in (["--mode", "sample"], ["--seed", 1], ["--samples", 2]):
        refused = call("decompress", tmp_path / "whole.vlae", "-o", tmp_path / "out.png", "-m", model, *more)
        check_refused(refused, tmp_path, "are for lossy files, and this is a file of one image")
        refused = call("decompress", tmp_path / "whole.vlae", "-o", f"{tmp_path}/out/", "-m", model, *more)
        assert (refused.exit_code, "for a single lossy file" in refused.stderr) == (2, True)
    run("lossy", tmp_path / "whole.vlae", "-o", tmp_path / "again.vlae", "-m", model)
    again, once = ((tmp_path / name).read_bytes() for name in ("again.vlae", "z.vlae"))
    assert lossy.LossyFile.from_bytes(again).bits == lossy.LossyFile.from_bytes(once).bits
    result = call("lossy", tmp_path / "in.png", "-o", tmp_path / "x.vlae", "-m", model, "--bytes", 9, "--quality", 9)
    assert result.exit_code == 2
    assert "give one of them" in result.stderr
    check_refused(
        call("lossy", tmp_path / "in.png", "-o", tmp_path / "x.vlae", "-m", GOLDEN / "tiny-no-z.safetensors"),
        tmp_path, "has no z",
    )  # fmt: skip


def test_eval_holds_theory_and_files_side_by_side(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", valid=np.packbits(IMAGES.reshape(30, -1), axis=1))
    result = json.loads(run("eval", tmp_path / "set.npz", "-m", MODEL, "--samples", 300, "--limit", 3, "--json"))
    run("compress", _array(tmp_path), "-o", tmp_path / "set.vlae", "-m", MODEL)
    assert result["archive"]["bytes"] == (tmp_path / "set.vlae").stat().st_size
    assert result["nats"]["elbo"] == pytest.approx(result["nats"]["pixels"] + result["nats"]["kl"])
    assert result["importance"]["images"] == 3
    text = run("eval", tmp_path / "set.npz", "-m", MODEL)
    assert "ELBO" in text
    assert "over the ELBO" in text


def _array(folder: Path) -> Path:
    np.save(folder / "set.npy", IMAGES)
    return folder / "set.npy"


def test_train_export_use(tmp_path: Path) -> None:
    """A few steps on 28x28 images: the commands fit together, and the loss falls."""
    grey = (binary_images(200, 28) * 200 + 20).astype(np.uint8)
    np.savez(tmp_path / "set.npz", train=grey, valid=grey[:20])
    run_ = tmp_path / "run"
    common = ["train", "--config", "vlae", "--data", tmp_path / "set.npz", "-o", run_, "--steps", 60, "--decay", 10,
              "--batch", 16, "--z-hidden", 32]  # fmt: skip
    first = call(*common, "--until", 50)
    assert first.exit_code == 0, first.stderr
    run(*common)
    before = json.loads(
        run("eval", tmp_path / "set.npz", "-m", run_ / "checkpoint.pt", "--samples", 8, "--limit", 2, "--json")
    )
    assert before["nats"]["elbo"] < 784 * np.log(2)
    run("export", run_ / "checkpoint.pt", "--data", tmp_path / "set.npz", "-o", tmp_path / "mine.safetensors")
    after = json.loads(run("eval", tmp_path / "set.npz", "-m", tmp_path / "mine.safetensors", "--json"))
    assert after["nats"]["elbo"] == pytest.approx(before["nats"]["elbo"], rel=0.02)
    assert "soft-free-bits" in run("train", "--config", "help")
    assert "no configuration 'x'" in call("train", "--config", "x", "--data", tmp_path, "-o", run_).stderr
