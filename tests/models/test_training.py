from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import picture, vlae_file
from PIL import Image
from vlae_codec.cli import main
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.likelihood import BEYOND, gradient_predictor, log_likelihood
from vlae_codec.models.training.data import CropStream, bin_edges, load_pictures, stretch
from vlae_codec.models.training.evaluate import folder_elbo, picture_elbo
from vlae_codec.models.training.export import export_model, load_average, without_z
from vlae_codec.models.training.loop import Report, Schedule, Trainer
from vlae_codec.models.vlae import VLAE, log_cell

import vlae_codec
from vlae_codec.errors import UnknownModel, UnsupportedImage, VlaeError
from vlae_codec.stages import StageKind

SMALL = VLAEConfig(channels=8, blocks=1, mixtures=2, z_channels=2, z_hidden=8)
SHORT = Schedule(steps=30, warmup=3, decay=10, batch=2, crop=32, z_from=10, bfloat16=False, average=0.9)


def train(
    folder: Path, output: Path, until: int | None = None, schedule: Schedule = SHORT
) -> tuple[Trainer, list[Report]]:
    reports: list[Report] = []
    trainer = Trainer(SMALL, schedule, output)
    trainer.run([folder], reports.append, until=until)
    return trainer, reports


def test_training_lowers_the_rate_and_z_joins(folder: Path, tmp_path: Path) -> None:
    trainer, reports = train(folder, tmp_path / "run")
    assert [r.step for r in reports] == list(range(1, 31))
    assert reports[-1].pixels < reports[2].pixels - 0.15
    assert reports[9].kl == 0.0
    assert reports[-1].kl > 0.0
    assert trainer.path.exists()


def test_a_resumed_run_is_the_run_that_was_never_stopped(folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, _ = train(folder, tmp_path / "whole")
    train(folder, tmp_path / "parts", until=14)
    parts, _ = train(folder, tmp_path / "parts")
    for a, b in zip(whole.average.parameters(), parts.average.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_decoder_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    start, _ = train(folder, tmp_path / "start", schedule=dataclasses.replace(SHORT, z_from=30))
    schedule = dataclasses.replace(SHORT, steps=40, z_from=30, kl_warmup=5, freeze_decoder=True, z_dropout=0.0)
    trainer = Trainer(SMALL, schedule, tmp_path / "z", start.path)
    trainer.run([folder], lambda report: None)
    for name, parameter in trainer.model.named_parameters():
        same = torch.equal(parameter, dict(start.model.named_parameters())[name])
        assert same == name.startswith("decoder."), name


def test_z_is_trained_as_lossy_codes_round_it(folder: Path, tmp_path: Path) -> None:
    schedule = dataclasses.replace(
        SHORT, steps=100, z_from=0, z_alone=True, rounded=True, distortion=1e-3, rate=5e-3, matrix_rate=5e-3
    )
    _, reports = train(folder, tmp_path / "run", schedule=schedule)
    assert reports[-1].error < 0.8 * reports[5].error


def test_cells_of_a_lattice_sum_to_one() -> None:
    away = torch.arange(-40, 41) * 0.75 + 0.3
    logs = log_cell(away, torch.tensor(0.4), torch.tensor(0.75))
    assert abs(float(logs.exp().sum()) - 1.0) < 1e-5
    # A wide cell around the mean is all but certain, and costs next to nothing.
    assert -1e-3 < float(log_cell(torch.tensor(0.1), torch.tensor(-2.0), torch.tensor(2.0))) <= 1e-6


def test_a_checkpoint_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", until=5)
    with pytest.raises(UnknownModel, match=r"checkpoint.pt: steps was 30, is 31 now; go on with .*, or choose another"):
        Trainer(SMALL, dataclasses.replace(SHORT, steps=31), tmp_path / "run")
    with pytest.raises(UnknownModel, match=r"z_hidden was 8, is 4 now; crop was 32, is 48 now; go on"):
        Trainer(dataclasses.replace(SMALL, z_hidden=4), dataclasses.replace(SHORT, crop=48), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(UnknownModel, match="not a checkpoint"):
        Trainer(SMALL, SHORT, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"crop": 50}, "crop is 50, expected a multiple of 16"), ({"batch": 0}, "batch is 0, expected 1.."),
     ({"steps": -1}, "steps is -1"), ({"word_dropout": 1.5}, r"word_dropout is 1.5, expected 0..1")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(tmp_path: Path, change: dict, match: str) -> None:
    with pytest.raises(VlaeError, match=match):
        Trainer(SMALL, dataclasses.replace(SHORT, **change), tmp_path)


def test_crops_need_no_squares_without_z(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(dataclasses.replace(SMALL, z_channels=0), dataclasses.replace(SHORT, crop=50), tmp_path)
    trainer.run([folder], lambda report: None, until=1)
    assert trainer.step == 1


def test_an_interrupted_run_is_saved_and_goes_on(folder: Path, tmp_path: Path) -> None:
    whole, _ = train(folder, tmp_path / "whole")
    trainer = Trainer(SMALL, SHORT, tmp_path / "run")

    def interrupt(report: Report) -> None:
        if report.step == 7:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="step 7 is saved"):
        trainer.run([folder], interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = Trainer(SMALL, SHORT, tmp_path / "run")
    assert resumed.step == 7
    resumed.run([folder], lambda report: None)
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_interruption_does_not_wait(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, SHORT, tmp_path / "run")

    def interrupt(report: Report) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="^$"):
        trainer.run([folder], interrupt)
    assert not trainer.path.exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_ctrl_c_in_a_terminal_saves(folder: Path, tmp_path: Path) -> None:
    """It goes to all processes of a group: the one that makes batches must not die of it before the step is done."""
    arguments = ["train", "--data", folder, "-o", tmp_path / "run", "--batch", 1, "--crop", 32, "--channels", 8,
                 "--blocks", 1, "--z-channels", 0, "--device", "cpu", "--threads", 1]  # fmt: skip
    command = [sys.executable, "-m", "vlae_codec.cli", *map(str, arguments)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stderr is not None
    assert running.stderr.readline().startswith("step 50/")
    os.killpg(running.pid, signal.SIGINT)
    rest = running.communicate(timeout=60)[1].splitlines()
    assert running.returncode == 130
    assert re.fullmatch(r"vlae-codec: interrupted; step \d+ is saved, the same command goes on from it", rest[-1])
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] >= 50


def test_integers_code_as_short_as_the_float_model(folder: Path, tmp_path: Path) -> None:
    trainer, _ = train(folder, tmp_path / "run")
    model, about = load_average(trainer.path)
    assert about["step"] == 30
    name = tmp_path / "mine.safetensors"
    image = Image.fromarray(picture("smooth", 96, 96, seed=9))
    pixels, kl = picture_elbo(model, np.asarray(image), with_z=False)
    assert kl == 0.0
    for variant, kind in ((model, StageKind.WITHOUT_Z), (without_z(model), StageKind.WITHOUT_Z)):
        name.write_bytes(export_model(variant, [folder]).to_bytes())
        what = vlae_codec.info(vlae_file(image, kind, vlae_codec.load_model(name, "cpu")))
        assert what["elbo_bits"] / what["pixels"] == pytest.approx(pixels, rel=0.003)
    assert set(folder_elbo(model, folder)) == {"0.png", "1.png", "2.png"}


def test_train_and_export_commands(folder: Path, tmp_path: Path) -> None:
    run, name, out = tmp_path / "run", tmp_path / "mine.safetensors", tmp_path / "x.vlae"
    runner = CliRunner()
    arguments = ["train", "--data", folder, "-o", run, "--steps", 50, "--decay", 10, "--batch", 1, "--crop", 32,
                 "--channels", 8, "--blocks", 1, "--z-channels", 2, "--device", "cpu"]  # fmt: skip
    result = runner.invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "step 50/50" in result.output
    result = runner.invoke(main, ["export", str(run / "checkpoint.pt"), "-o", str(name), "--data", str(folder)])
    assert result.exit_code == 0, result.output
    result = runner.invoke(main, ["compress", str(folder / "1.png"), "-o", str(out), "-m", str(name)])
    assert result.exit_code == 0, result.output
    result = runner.invoke(main, ["train", "--data", str(folder), "-o", str(tmp_path / "c"), "--freeze-decoder"])
    assert result.exit_code == 2
    assert "--start" in result.output
    result = runner.invoke(main, ["train", "--data", str(folder), "-o", str(tmp_path / "c"), "--rounded"])
    assert result.exit_code == 2
    assert "--z-alone" in result.output
    result = runner.invoke(main, ["train", "--data", str(tmp_path / "run"), "-o", str(tmp_path / "b")])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "no pictures found" in result.output
    arguments[arguments.index("--steps") + 1] = 60
    for changed, match in (
        (arguments, "steps was 50, is 60 now"),
        ([*arguments, "--crop", 50], "crop is 50, expected"),
    ):
        result = runner.invoke(main, [str(a) for a in changed])
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert match in result.output


def test_likelihoods_of_all_values_sum_to_one() -> None:
    torch.manual_seed(0)
    values = np.array([0, 3, 4, 100, 101, 255])
    low, high = (torch.from_numpy(edges)[torch.from_numpy(values)] for edges in bin_edges(values))
    params = torch.randn(len(values), 24, 1, 1)
    params[:] = params[:1]
    params[:, 12:18] += 3
    for channel in range(3):
        x = torch.full((len(values), 3, 1, 1), 90.0)
        x[:, channel, 0, 0] = torch.from_numpy(values).float()
        edges = [torch.full_like(x, sign * BEYOND) for sign in (-1, 1)]
        for edge, bound in zip(edges, (low, high), strict=True):
            edge[:, channel, 0, 0] = bound
        logs = log_likelihood(params, x, torch.full_like(x, 80.0), *edges)
        assert float(logs[:, channel].exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_gradient_predictor() -> None:
    x = torch.tensor([[10.0, 20.0, 30.0], [12.0, 22.0, 50.0]])[None, None]
    assert gradient_predictor(x)[0, 0].tolist() == [[128, 10, 20], [10, 20, 30]]
    x = torch.tensor([[10.0, 90.0], [15.0, 0.0]])[None, None]
    assert gradient_predictor(x)[0, 0, 1, 1] == 90


def test_batches_depend_on_seed_and_number_alone(folder: Path) -> None:
    pictures = load_pictures([folder], 32)
    whole = list(CropStream(pictures, 32, range(4), 7, 0, 6))
    later = list(CropStream(pictures, 32, range(4), 7, 4, 6))
    other = list(CropStream(pictures, 32, range(4), 8, 4, 6))
    (share,) = CropStream(pictures, 32, range(1, 4, 2), 7, 4, 5)
    assert torch.equal(share.x, whole[4].x[1::2])
    assert torch.equal(whole[4].x, later[0].x)
    assert torch.equal(whole[5].low, later[1].low)
    assert not torch.equal(other[0].x, later[0].x)


def test_a_run_that_diverges_ends_and_keeps_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, SHORT, tmp_path)
    trainer.run([folder], lambda report: None, until=2)
    before = trainer.path.read_bytes()
    with torch.no_grad():
        trainer.model.decoder.head_bias2 += torch.inf
    with pytest.raises(VlaeError, match=r"step 3 gave nan for the pixels.*--rate and --matrix-rate"):
        trainer.run([folder], lambda report: None, save_every=1)
    assert trainer.path.read_bytes() == before


def test_crops_that_are_not_changed_are_parts_of_pictures(folder: Path) -> None:
    def turned(x: np.ndarray) -> set[bytes]:
        ways = (x, x[:, ::-1], x.transpose(1, 0, 2), x.transpose(1, 0, 2)[:, ::-1])
        return {np.ascontiguousarray(way).tobytes() for way in ways}

    pictures = load_pictures([folder], 32)
    views = [np.lib.stride_tricks.sliding_window_view(each, (32, 32, 3))[:, :, 0] for each in pictures]
    parts = {part.tobytes() for view in views for row in view for part in row}
    batches = [next(iter(CropStream(pictures, 32, range(16), 7, 0, 1, changed))) for changed in (0.0, 1.0)]
    same = [sum(bool(turned(x.numpy().transpose(1, 2, 0)) & parts) for x in batch.x) for batch in batches]
    assert same[0] == 16
    assert 0 < same[1] < 16


def test_stretched_crops_only_hold_the_values_they_name() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop, values = stretch(picture("noise", 20, 20), rng)
        for c in range(3):
            assert set(np.unique(crop[..., c])) <= set(values[c].tolist())


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedImage, match="no pictures found"):
        load_pictures([tmp_path], 32)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    with pytest.raises(UnsupportedImage, match="32 pixels a side"):
        load_pictures([tmp_path], 32)


def test_z_changes_what_the_decoder_expects() -> None:
    torch.manual_seed(0)
    model = VLAE(SMALL)
    with torch.no_grad():
        model.features.weights[5].normal_()
    x = torch.from_numpy(picture("smooth", 32, 32)).permute(2, 0, 1)[None].float()
    edges = torch.full_like(x, -BEYOND), torch.full_like(x, BEYOND)
    low, high = x - 0.5, x + 0.5
    with_z, kl, error = model.parts(x, low, high)
    without, no_kl, _ = model.parts(x, low, high, torch.tensor([False]))
    assert not torch.allclose(with_z, without)
    assert kl.sum().item() > 0
    assert error.item() > 0
    assert no_kl.sum().item() == 0
    assert model(x, *edges, torch.tensor([3])).pixels.item() == pytest.approx(0.0, abs=1e-3)
