"""Training in two processes, as torchrun starts them, against the same training in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import binary_images
from vlae_codec.models.training.loop import Schedule, Trainer
from vlae_codec.models.training.presets import preset
from vlae_codec.models.training.processes import Processes

from vlae_codec.errors import VlaeError

PHOTO = ("--config", "photo", "--blocks", "1", "--channels", "16", "--crop", "32")


def train(processes: int, output: Path, *arguments: object) -> dict[str, torch.Tensor]:
    """The averaged weights after a run of the command in so many processes."""
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes) if processes > 1 else ()
    command = [
        sys.executable, *start, "-m", "vlae_codec.cli", "train", "-o", output, "--fp32", "--threads", "1",
        "--device", "cpu", *arguments,
    ]  # fmt: skip
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(output / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("kind", ["photographs", "binary"])
def test_two_processes_train_as_one(kind: str, folder: Path, tmp_path: Path) -> None:
    # Three crops, two for the one and one for the other.
    arguments = (*PHOTO, "--z-channels", "0", "--data", folder, "--steps", "6", "--batch", "3")
    if kind == "binary":
        np.save(tmp_path / "digits.npy", binary_images(20, 28))
        arguments = ("--config", "pixelcnn", "--data", tmp_path / "digits.npy", "--steps", "6", "--batch", "5")
    one, two = (train(count, tmp_path / str(count), *arguments) for count in (1, 2))
    assert two["step"] == one["step"] == 6
    for name, value in one["average"].items():
        torch.testing.assert_close(two["average"][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_train_z_and_go_on_from_their_checkpoint(folder: Path, tmp_path: Path) -> None:
    arguments = (*PHOTO, "--z-channels", "4", "--z-width", "24", "--data", folder, "--steps", "6", "--batch", "4")
    whole = train(2, tmp_path / "whole", *arguments)
    train(2, tmp_path / "parts", *arguments, "--until", "3")
    parts = train(2, tmp_path / "parts", *arguments)
    for name, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_other_launchers_change_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "none of ours")
    arguments = (*PHOTO, "--z-channels", "0", "--data", folder, "--steps", "1", "--batch", "1")
    assert train(1, tmp_path / "run", *arguments)["step"] == 1


def test_a_batch_has_something_for_every_process(tmp_path: Path) -> None:
    with pytest.raises(VlaeError, match="batch is 2, expected one for each of 3"):
        Trainer(preset("photo").config, Schedule(batch=2, crop=32), tmp_path, processes=Processes(0, 3))
