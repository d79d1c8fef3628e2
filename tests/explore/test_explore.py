"""``vlae-codec explore``: what the page is told, and the command."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import GOLDEN, binary_images
from PIL import Image, ImageDraw
from vlae_codec.cli import main

from vlae_codec import Model, load_model
from vlae_codec.coding.binary import draw_images, sample_images
from vlae_codec.entropy import cdf
from vlae_codec.errors import UnknownModel, UnsupportedImage
from vlae_codec.evaluate import image_parts

pytest.importorskip("starlette", reason="explore needs the extra 'explore'")
pytest.importorskip("uvicorn", reason="explore needs the extra 'explore'")

from serving import ask, get, refusal, served

from vlae_codec.explore import digits, pictures, plane


@pytest.fixture(scope="module")
def page(digit_models: list[Path]) -> Iterator[str]:
    with served(digit_models) as address:
        yield address


@pytest.fixture(scope="module")
def model(digit_models: list[Path]) -> Model:
    return load_model(digit_models[1], "cpu")


def shelf_text(number: int) -> str:
    return digits.to_text(digits.shelf()[number])


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# -- digits ----------------------------------------------------------------------------------------------------------


def test_a_pixel_is_drawn_where_its_chance_is_above_that_of_zero(binary_model: Model) -> None:
    coder, rng = binary_model.binary, np.random.default_rng(0)
    z = coder.posterior(binary_images(50, 8)).nearest()[:, 0, 0]
    chances = rng.random((50, 8, 8))
    drawn = draw_images(coder, z, chances)
    zeros = cdf.bernoulli_cdf(coder.networks.logits(drawn, coder.networks.features(z))) / (1 << cdf.PRECISION)
    assert np.array_equal(drawn, chances >= zeros)
    assert 0 < drawn.mean() < 1


def test_draws_are_those_of_the_coder(binary_model: Model) -> None:
    coder = binary_model.binary
    z = np.repeat(coder.posterior(binary_images(1, 8)).nearest(), 3000, 0)
    one = draw_images(coder, z[:, 0, 0], np.random.default_rng(0).random((3000, 8, 8))).mean(0)
    other = sample_images(coder, z, 3000, 0).mean(0)
    assert np.abs(one - other).max() < 0.06


def test_bits_are_what_evaluation_finds(page: str, model: Model) -> None:
    bits = ask(page, "digit", model=1, pixels=shelf_text(6))["bits"]
    copies = np.repeat(digits.shelf()[6:7], 1000, 0)
    prior, posterior, pixels = image_parts(model.binary, copies, np.random.default_rng(5))
    kl = prior - posterior
    assert bits["z"] == pytest.approx(kl.mean(), abs=4 * kl.std() / np.sqrt(digits.BIT_DRAWS))
    assert bits["pixels"] == pytest.approx(pixels.mean(), abs=4 * pixels.std() / np.sqrt(digits.BIT_DRAWS) + 0.01)


def test_the_bits_of_the_values_are_those_of_z(page: str) -> None:
    found = ask(page, "digit", model=2, pixels=shelf_text(3))
    assert len(found["z"]["kl"]) == len(found["z"]["mean"]) == len(found["z"]["std"]) == 8
    assert sum(found["z"]["kl"]) == pytest.approx(found["bits"]["z"], abs=0.01)
    assert len(found["draws"]) == digits.SHOWN


def test_the_seed_changes_draws_and_nothing_else(page: str) -> None:
    one, same, other = (ask(page, "digit", model=0, pixels=shelf_text(0), seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one["draws"] != other["draws"]
    assert one["mean"] != other["mean"]
    for key in ("bits", "z", "file", "place"):
        assert one[key] == other[key]


@pytest.mark.parametrize("number", [0, 2])
def test_bytes_are_those_of_compress(page: str, digit_models: list[Path], tmp_path: Path, number: int) -> None:
    query = {"model": number, "pixels": shelf_text(11)}
    _, image, _ = get(page, "/api/png", **query)
    _, file, headers = get(page, "/api/vlae", **query)
    (tmp_path / "digit.png").write_bytes(image)
    arguments = ["compress", tmp_path / "digit.png", "-o", tmp_path / "digit.vlae", "--no-attributes"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--model", str(digit_models[number])])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "digit.vlae").read_bytes() == file
    assert ask(page, "digit", **query)["file"]["bytes"] == len(file)
    assert headers["content-disposition"] == 'attachment; filename="digit.vlae"'


def test_on_the_way_from_one_digit_to_another(page: str, model: Model) -> None:
    found = ask(page, "mix", model=1, **{"from": shelf_text(2), "to": shelf_text(9)}, seed=4)["images"]
    means = digits.means_of(model, digits.shelf())
    ends = [digits.to_text(digits.draw_at(model, means[i : i + 1], 4)[0]) for i in (2, 9)]
    assert [found[0], found[-1]] == ends
    assert len(found) == 9


def test_what_a_decoder_sees(page: str) -> None:
    none, one, blocks = (each["window"] for each in ask(page, "about")["models"])
    assert (none["pixels"], none["window"], none["beyond"]) == (0, [], [])
    assert sorted(map(tuple, one["window"])) == [(-1, -1), (-1, 0), (0, -1), (1, -1)]
    assert not one["beyond"]
    assert blocks["pixels"] == 12
    # A block looks one pixel farther, and never at a pixel that is not known yet.
    assert [-3, -3] in blocks["beyond"]
    assert [3, -3] in blocks["beyond"]
    assert not [each for each in blocks["beyond"] if each[1] > 0 or (each[1] == 0 and each[0] >= 0)]


def test_what_the_decoder_sees_is_what_changes_it(digit_models: list[Path]) -> None:
    """A pixel outside the marked ones changes no logit, whatever it is; one inside does."""
    coder = load_model(digit_models[2], "cpu").binary
    window = digits.window_of(coder.config)
    marked = {tuple(each) for each in window["window"] + window["beyond"]}
    z = np.zeros((2, 8), np.int64)
    changed = set()
    rng = np.random.default_rng(0)
    for dy in range(-5, 1):
        for dx in range(-5, 6):
            for _ in range(3):
                images = np.repeat(rng.integers(0, 2, (1, 28, 28), np.uint8), 2, 0)
                images[1, 14 + dy, 14 + dx] ^= 1
                one, two = coder.networks.logits(images, coder.networks.features(z))[:, 14, 14]
                if one != two:
                    changed.add((dx, dy))
    assert changed <= marked
    assert len(changed) > 0.7 * len(marked)


# -- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_taken_as_it_is(page: str) -> None:
    image = Image.fromarray(digits.shelf()[4] * np.uint8(255))
    assert ask(page, "picture", png(image))["pixels"] == shelf_text(4)


@pytest.mark.parametrize(("paper", "pen"), [("white", "black"), ("#102030", "#ffee88")])
def test_what_stands_out_of_a_picture_is_fitted_into_the_middle(page: str, paper: str, pen: str) -> None:
    image = Image.new("RGB", (300, 200), paper)
    ImageDraw.Draw(image).rectangle((40, 20, 69, 139), fill=pen)
    found = digits.from_text(ask(page, "picture", png(image))["pixels"])
    y, x = np.nonzero(found)
    assert (y.min(), y.max(), x.min(), x.max()) == (4, 23, 11, 15)
    assert found.sum() == 100


def test_what_is_transparent_is_paper(page: str) -> None:
    image = Image.new("RGBA", (50, 50))
    ImageDraw.Draw(image).rectangle((20, 5, 29, 44), fill="black")
    assert 80 < digits.from_text(ask(page, "picture", png(image))["pixels"]).sum() < 120


def test_bad_uploads_get_one_sentence(page: str) -> None:
    assert refusal(page, "picture", b"hello", name="a.txt") == "a.txt is not an image that Pillow can read"
    assert refusal(page, "photograph", b"", name="a.png") == "a.png is empty, expected an image"
    assert refusal(page, "picture", png(Image.new("L", (40, 40), 90)), name="grey.png") == (
        "grey.png shows no digit that stands out from its background"
    )
    large = png(Image.new("1", (5000, 4000)))
    for name in ("picture", "photograph"):
        assert refusal(page, name, large, name="large.png") == (
            "large.png has 5000 x 4000 pixels, and this page takes at most 16 megapixels"
        )
    assert "mode RGBA has no lossy code" in refusal(page, "photograph", png(Image.new("RGBA", (40, 40))))


def test_files_that_are_too_large_are_refused(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 1 << 20)
    assert refusal(page, "picture", bytes((1 << 20) + 1), name="a.png") == (
        "a.png is larger than the 1 MiB that this page takes"
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photograph_is_that_of_lossy(page: str, tmp_path: Path, mode: str) -> None:
    with Image.open(GOLDEN / "lake.png") as image:
        image.convert(mode).save(tmp_path / "lake.png")
    found = ask(page, "photograph", (tmp_path / "lake.png").read_bytes(), name="lake.png", quality=70)
    file, shown, webp = (base64.b64decode(found[key]) for key in ("file", "shown", "webp"))
    arguments = ["lossy", tmp_path / "lake.png", "-o", tmp_path / "a.vlae", "--quality", 70]
    arguments += ["--model", GOLDEN / "tiny.safetensors"]
    assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    assert (tmp_path / "a.vlae").read_bytes() == file
    arguments = ["decompress", tmp_path / "a.vlae", "-o", tmp_path / "seen.png", "--mode", "mean"]
    assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    with Image.open(io.BytesIO(shown)) as one, Image.open(tmp_path / "seen.png") as two:
        assert one.mode == two.mode == mode
        assert one.tobytes() == two.tobytes()
        size = one.size
    with Image.open(io.BytesIO(webp)) as other:
        assert other.format == "WEBP"
        assert other.size == tuple(found["size"]) == size
    assert found["original"] == ""


def test_formats_that_browsers_do_not_show_are_shown_as_png() -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    image.save(buffer, "TIFF")
    found = pictures.look_at(buffer.getvalue(), "a.tiff", load_model(GOLDEN / "tiny.safetensors", "cpu"), 50)
    with Image.open(io.BytesIO(found.original)) as original:
        assert original.tobytes() == image.tobytes()


@pytest.mark.parametrize("most", [300, 900, 2500, 10**6])
def test_the_other_codec_gets_as_many_bytes(most: int) -> None:
    with Image.open(GOLDEN / "lake.png") as opened:
        image = opened.convert("RGB").resize((96, 96))

    def size(quality: int) -> int:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality)
        return buffer.tell()

    best = max((size(quality) for quality in range(101) if size(quality) <= most), default=size(0))
    assert len(pictures.of_size(image, "WEBP", most)) == pytest.approx(best, rel=0.05)


# -- the map ---------------------------------------------------------------------------------------------------------


def test_a_plane_holds_the_two_directions_that_differ_most() -> None:
    rng = np.random.default_rng(0)
    means = rng.standard_normal((500, 6)) * np.array([0.1, 3.0, 0.1, 0.1, 2.0, 0.1]) + 1.0
    found = plane.Plane.through(means, np.zeros(500, np.int64))
    assert np.abs(found.axes[:, [1, 4]]) == pytest.approx(np.eye(2), abs=0.1)
    assert found.places.std(0) == pytest.approx([3.0, 2.0], rel=0.1)
    place = np.array([0.7, -1.2])
    assert found.place_of(found.z_at(place)) == pytest.approx(place)


def test_planes_are_stored_by_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model) -> None:
    means = np.random.default_rng(0).standard_normal((30, 8))
    found = plane.Plane.through(means, np.arange(30) % 10)
    (tmp_path / "maps.npz").write_bytes(plane.to_bytes([(model.id, found), (b"other", found)]))
    monkeypatch.setattr(plane, "FILE", tmp_path / "maps.npz")
    plane._stored.cache_clear()
    stored = plane.stored(model)
    plane._stored.cache_clear()
    assert stored is not None
    assert stored.places == pytest.approx(found.places, abs=0.01)
    assert stored.axes == pytest.approx(found.axes, abs=1e-6)
    assert np.array_equal(stored.labels, found.labels)


def test_the_draw_at_the_place_of_a_digit(page: str, model: Model) -> None:
    """The shelf makes the plane of a model without a stored one, so its digits lie where they are said to."""
    places = ask(page, "map", model=1)
    assert places["labels"] == [number // 2 for number in range(20)]
    own = ask(page, "digit", model=1, pixels=shelf_text(5))["place"]
    assert own == pytest.approx(places["places"][5], abs=0.001)
    one, other = (ask(page, "point", model=1, x=x, y=0.1)["pixels"] for x in (-1.5, 1.5))
    assert one != other


# -- the server ------------------------------------------------------------------------------------------------------


def test_the_page_is_for_itself_alone(page: str) -> None:
    status, body, headers = get(page, "/")
    assert status == 200
    assert b"vlae-codec explore" in body
    assert "default-src 'self'" in headers["content-security-policy"]
    assert get(page, "/", None, {"Host": "elsewhere.example"})[0] == 400
    assert get(page, "/api/about", None, {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert get(page, "/api/about", None, {"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert get(page, "/../server.py")[0] == 404


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("digit", {"pixels": "zz"}, "a digit of 2 characters, expected 196"),
        ("digit", {"model": 3, "pixels": "0" * 196}, "model 3, expected one of 3"),
        ("digit", {"model": -1}, "model is '-1', expected a whole number"),
        ("digit", {"pixels": "0" * 196, "seed": "1e3"}, "seed is '1e3', expected a whole number"),
        ("point", {"x": "nan"}, "x is 'nan', expected a number"),
    ],
)
def test_wrong_questions_are_refused(page: str, name: str, query: dict[str, object], message: str) -> None:
    assert message in refusal(page, name, **query)


def test_models_that_are_not_for_digits_are_refused() -> None:
    with pytest.raises(UnknownModel, match="tiny-binary is for binary images of 8 x 8 pixels; expected"):
        digits.load_choice(digits.Choice("a", str(GOLDEN / "tiny-binary.safetensors")), "cpu")
    with pytest.raises(UnknownModel, match="tiny is for photographs; expected"):
        digits.load_choice(digits.Choice("a", str(GOLDEN / "tiny.safetensors")), "cpu")


def test_no_image_is_taken_from_a_number() -> None:
    assert np.array_equal(digits.from_text(shelf_text(0)), digits.shelf()[0])
    with pytest.raises(UnsupportedImage, match="a digit of 4 characters"):
        digits.from_text("0f0f")


# -- the command -----------------------------------------------------------------------------------------------------


def explore(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vlae_codec.cli", "explore", "--no-browser", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_serves_until_ctrl_c(digit_models: list[Path]) -> None:
    with explore("--port", 0, "-m", digit_models[0]) as running:
        assert running.stdout is not None
        address = running.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert b"<h1>" in answer.read()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=300)
    assert (running.returncode, out, err) == (0, "", "")


def test_ctrl_c_does_not_wait_for_a_photograph(digit_models: list[Path]) -> None:
    with Image.open(GOLDEN / "lake.png") as image:
        large = png(image.resize((2400, 1600)))
    with explore("--port", 0, "-m", digit_models[0]) as running:
        assert running.stdout is not None
        address = running.stdout.readline().split()[0].rstrip("/")

        answers: list[tuple[int, bytes, object]] = []

        def upload() -> None:
            with contextlib.suppress(OSError):
                answers.append(get(address, "/api/photograph", large, quality=50))

        thread = threading.Thread(target=upload)
        thread.start()
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=300)
        thread.join()
    assert (running.returncode, out, err) == (0, "", "")
    # The photograph takes longer: no answer, or that there will be none.
    assert all(status != 200 for status, _, _ in answers)


def test_what_nobody_expected_is_one_sentence(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "digit_of", lambda data, name: 1 // 0)
    status, body, _ = get(page, "/api/picture", b"a")
    assert (status, json.loads(body)) == (
        500,
        {"error": "unexpected ZeroDivisionError: integer division or modulo by zero"},
    )


def test_a_port_that_is_taken_is_one_line(digit_models: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with explore("--port", port, "-m", digit_models[0]) as running:
            _, err = running.communicate(timeout=300)
    assert running.returncode == 1
    assert err == f"vlae-codec: port {port}: Address already in use\n"


def test_a_model_that_is_not_here_is_one_line() -> None:
    done = CliRunner().invoke(main, ["explore", "--no-browser", "-m", "nothing"])
    assert done.exit_code == 1
    assert done.output.startswith("vlae-codec: no model 'nothing': not a file")
    assert done.output.count("\n") == 1
