"""The scripts in examples/, on tiny models."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, GOLDEN, binary_images
from PIL import Image
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.training.export import measure_binary_ranges, to_integers
from vlae_codec.models.vlae import VLAE

from vlae_codec import Model
from vlae_codec.errors import UnknownModel, UnsupportedImage, VlaeError

pytest.importorskip("matplotlib", reason="the examples need the extra 'examples'")
pytest.importorskip("sklearn", reason="the examples need the extra 'examples'")

import common
import latent_accuracy
import latent_map
import photograph
import recognised
import reconstructions
import samples
import window

TINY = str(GOLDEN / "tiny-binary.safetensors")


def sides(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 8, 8) of two classes: a square on the left, a square on the right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = (rng.random((count, 8, 8)) < 0.02).astype(np.uint8)
    images[labels == 0, 2:6, :3] ^= 1
    images[labels == 1, 2:6, 5:] ^= 1
    return images, labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set with labels."""
    arrays = {}
    for seed, split in enumerate(("train", "valid")):
        arrays[split], labels = sides(300, seed)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    path = tmp_path / "sides.npz"
    np.savez(path, **arrays)
    return path


def script(monkeypatch: pytest.MonkeyPatch, module: object, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    common.run(module.main)  # type: ignore[attr-defined]


def clouds(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 6) far apart by class, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return 10.0 * np.eye(6)[labels] + rng.standard_normal((count, 6)), labels


# -- common ----------------------------------------------------------------------------------------------------------


def test_grey_images_are_binarised_by_the_seed(tmp_path: Path) -> None:
    grey = np.full((500, 8, 8), 64, np.uint8)
    np.savez(tmp_path / "grey.npz", valid=grey)
    images = common.load_images(tmp_path / "grey.npz", 8, "valid", 400, seed=3)
    assert images.shape == (400, 8, 8)
    assert images.mean() == pytest.approx(64 / 255, abs=0.01)
    assert np.array_equal(images, common.load_images(tmp_path / "grey.npz", 8, "valid", 400, seed=3))
    assert not np.array_equal(images, common.load_images(tmp_path / "grey.npz", 8, "valid", 400, seed=4))
    with pytest.raises(UnsupportedImage, match="expected an array named valid_labels"):
        common.load_labels(tmp_path / "grey.npz", "valid")


@pytest.mark.parametrize("posterior", ["diagonal", "iaf"])
def test_a_checkpoint_gives_the_z_of_its_float_networks(tmp_path: Path, posterior: str) -> None:
    torch.manual_seed(0)
    config = VLAEConfig(
        image_size=8, channels=4, blocks=1, z_channels=4, z_hidden=16, image_width=4, posterior=posterior
    )
    state = {"config": config.to_json(), "average": VLAE(config).state_dict(), "schedule": {}, "step": 1, "seconds": 0}
    path = tmp_path / "window-1" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(state, path)
    encoder = common.open_encoder(str(path))
    images = binary_images(300, 8)
    means = common.latents(encoder, images)
    assert means.shape == (300, 4)
    assert common.label_of(str(path)) == "window-1"
    if posterior == "diagonal":
        assert isinstance(encoder, VLAE)
        exported = tmp_path / "exported.safetensors"
        exported.write_bytes(to_integers(encoder, measure_binary_ranges(encoder, images)).to_bytes())
        assert np.abs(means - common.latents(common.open_encoder(str(exported)), images)).max() < 0.02


def test_draws_scatter_around_the_means(binary_model: Model) -> None:
    image = np.repeat(binary_images(1, 8), 4000, 0)
    drawn = common.latents(binary_model, image, np.random.default_rng(0))
    mean = common.latents(binary_model, image[:1])[0]
    assert (drawn.std(0) > 0).all()
    assert (np.abs(drawn.mean(0) - mean) < 5 * drawn.std(0) / 4000**0.5 + 1 / 512).all()


def test_models_of_another_kind_are_refused() -> None:
    with pytest.raises(UnknownModel, match="for photographs"):
        common.open_model(str(GOLDEN / "tiny.safetensors"))
    with pytest.raises(UnknownModel, match="that has a z"):
        common.open_encoder(str(GOLDEN / "tiny-binary-no-z.safetensors"))


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    with pytest.raises(SystemExit, match=r"^script.py: no model 'nothing'.*$"):
        script(monkeypatch, reconstructions, data, "--model", "nothing", "-o", "out.png")


def test_tiles_lie_in_rows() -> None:
    images = binary_images(6, 8).reshape(2, 3, 8, 8)
    picture = common.tile(images)
    assert picture.shape == (2 * 9 + 1, 3 * 9 + 1)
    assert np.array_equal(picture[10:18, 19:27], images[1, 2])
    assert (picture[[0, 9, 18]] == common.LINE).all()
    assert (picture[:, [0, 9, 18, 27]] == common.LINE).all()


# -- pictures --------------------------------------------------------------------------------------------------------


def test_reconstructions_follow_the_seed(binary_model: Model) -> None:
    images = binary_images(60, 8)
    file = common.encode_lossy(images, binary_model)
    rows = reconstructions.draw_again(binary_model, file, images[:5], 3, seed=4)
    assert rows.shape == (4, 5, 8, 8)
    assert np.array_equal(rows[0], images[:5])
    assert np.array_equal(rows, reconstructions.draw_again(binary_model, file, images[:5], 3, seed=4))
    later = reconstructions.draw_again(binary_model, file, images[:5], 2, seed=5)
    assert np.array_equal(rows[2:], later[1:])
    assert not np.array_equal(rows[1], rows[2])


def test_the_picture_of_reconstructions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, binary_model: Model
) -> None:
    for name in ("a.png", "b.png"):
        script(monkeypatch, reconstructions, data, "-m", TINY, "-o", tmp_path / name, "--images", 50, "--show", 6)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == common.WIDTH * common.DPI
        # Labels left of 6 by 4 squares, a title above.
        assert picture.height == pytest.approx(0.92 * picture.width * 37 / 55 + 0.35 * common.DPI, abs=1)
    file = common.encode_lossy(common.load_images(data, 8, "valid", 50), binary_model)
    assert f"z takes {file.bits / 50:.1f} bits an image" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny-binary", "tiny-binary-no-z"])
def test_the_picture_of_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    path = GOLDEN / f"{name}.safetensors"
    for seed in (1, 1, 2):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        script(monkeypatch, samples, "-m", path, "-o", output, "--rows", 2, "--columns", 5, "--seed", seed)
    first, again, other = (np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(3))
    assert first.shape[1] == common.WIDTH * common.DPI
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bars_are_as_high_as_the_results_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nats = {"vae": (20.0, 70.0), "full-window": (0.01, 80.0)}
    for name, (kl, pixels) in nats.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"nats": {"kl": kl, "pixels": pixels, "elbo": kl + pixels}}))
    results = [window.load_result(tmp_path / f"{name}.json") for name in nats]
    axes = window.plot(results).axes[0]
    below, above = axes.containers
    for i, (kl, pixels) in enumerate(nats.values()):
        assert below[i].get_height() == pytest.approx(kl / math.log(2))
        assert above[i].get_y() == pytest.approx(kl / math.log(2))
        assert above[i].get_height() == pytest.approx(pixels / math.log(2))
    assert [label.get_text() for label in axes.get_xticklabels()] == list(nats)
    written = [text.get_text() for text in axes.texts]
    assert written == ["129.8", "115.4", "28.9", "", "101.0", "115.4"]
    script(monkeypatch, window, *(tmp_path / f"{name}.json" for name in nats), "-o", tmp_path / "window.png")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == ["`vae`", "28.85", "100.99", "129.84"]
    accuracies = [{"model": "full-window", "linear": 0.1234, "drawn": 0.1, "clusters": 0.1}]
    (tmp_path / "accuracy.json").write_text(json.dumps(accuracies))
    given = [window.load_result(tmp_path / f"{name}.json") for name in nats]
    last = window.table(given, window.load_accuracies(tmp_path / "accuracy.json")).splitlines()[-1]
    assert last == "| `full-window` | 0.01 | 115.42 | 115.43 | 12.3 % | 10.0 % |"
    with pytest.raises(VlaeError, match="not what `latent_accuracy.py --json` prints"):
        window.load_accuracies(tmp_path / "vae.json")
    with Image.open(tmp_path / "window.png") as picture:
        assert picture.size == (1600, 720)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nats": {"kl": 1}}', '{"nats": {"kl": null, "pixels": 2}}'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(VlaeError, match="not what `vlae-codec eval --json` prints"):
        window.load_result(tmp_path / "a.json")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_keeps_classes_apart(method: str) -> None:
    z, labels = clouds(200, 3, seed=0)
    places = latent_map.project(z, method, seed=0)
    centres = np.stack([places[labels == label].mean(0) for label in range(3)])
    nearest = ((places[:, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() > 0.99
    axes = latent_map.plot(places, labels, "three clouds").axes[0]
    drawn = np.concatenate([points.get_offsets() for points in axes.collections])
    assert np.array_equal(drawn, np.concatenate([places[labels == label] for label in range(3)]))


# -- figures ---------------------------------------------------------------------------------------------------------


def test_accuracy_is_full_where_classes_lie_apart_and_chance_where_labels_are_permuted() -> None:
    z, labels = clouds(2000, 5, seed=0)
    valid, valid_labels = clouds(1000, 5, seed=1)
    assert latent_accuracy.linear_accuracy(z, labels, valid, valid_labels) == 1.0
    assert latent_accuracy.cluster_accuracy(valid, valid_labels, 0) == 1.0
    rng = np.random.default_rng(2)
    permuted = rng.permutation(labels), rng.permutation(valid_labels)
    assert latent_accuracy.linear_accuracy(z, permuted[0], valid, permuted[1]) == pytest.approx(0.2, abs=0.05)
    assert latent_accuracy.cluster_accuracy(valid, permuted[1], 0) == pytest.approx(0.2, abs=0.08)


def test_clusters_may_have_any_names() -> None:
    z, labels = clouds(500, 4, seed=0)
    assert latent_accuracy.cluster_accuracy(z, np.array([90, 3, 41, 7])[labels], 0) == 1.0


def test_the_table_of_accuracies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    script(monkeypatch, latent_accuracy, data, "-m", TINY, "--images", 200, "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["model"] == "tiny-binary"
    assert found["linear"] > 0.9
    assert 0.5 <= found["clusters"] <= 1.0
    script(monkeypatch, latent_accuracy, data, "-m", TINY, "--images", 200)
    assert f"tiny-binary {100 * found['linear']:.2f} % {100 * found['drawn']:.2f} %" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_digit_is_recognised_by_what_it_shows() -> None:
    images, labels = sides(600)
    classifier = recognised.train_classifier(images, labels, seed=0, epochs=5)
    others, other_labels = sides(200, seed=1)
    assert (recognised.classify(classifier, others) == other_labels).mean() > 0.98
    assert recognised.recognised(classifier, others, others.copy()) == 1.0
    assert recognised.recognised(classifier, others, others[..., ::-1].copy()) < 0.02


def test_the_table_of_fidelities(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path, binary_model: Model
) -> None:
    script(monkeypatch, recognised, data, "-m", TINY, "--fidelity", 0, 50, "--images", 100, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 100
    assert found["classifier"] > 0.9
    images = common.load_images(data, 8, "valid", 100)
    for row, fidelity in zip(found["rows"], (0.0, 50.0), strict=True):
        file = common.encode_lossy(images, binary_model, fidelity)
        assert row["fidelity"] == fidelity
        expected = {"z": file.bits / 100, "kl": file.kl / 100, "file": 8 * len(file.to_bytes()) / 100}
        assert row["bits"] == pytest.approx(expected)
        assert 0.0 <= row["recognised"] <= 1.0


def test_a_photograph_beside_other_codecs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "lake.png") as image:
        part = image.crop((200, 150, 296, 246))
    part.save(tmp_path / "part.png")
    pixels, size = photograph.of_size(part, "WEBP", 900)
    assert pixels.shape == (96, 96, 3)
    assert 0 < size <= 900
    assert np.abs(pixels.astype(int) - np.asarray(part)).mean() < 30
    figure = tmp_path / "figure.png"
    script(
        monkeypatch, photograph, tmp_path / "part.png", "-o", figure, "--bytes", 600, "-m", GOLDEN / "tiny.safetensors"
    )
    with Image.open(figure) as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 100
