"""``vlae-codec train``: fit a model to a folder of photographs, or to a set of binary images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from .options import complete_path, gather, use_threads

#: Options that replace a value of the preset's configuration or schedule.
CONFIG = ("blocks", "channels", "z_channels", "z_hidden", "z_width")
SCHEDULE = (
    "steps", "decay", "batch", "crop", "z_from", "free_bits", "kl_warmup", "word_dropout", "rate", "matrix_rate",
    "seed", "distortion", "changed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run begins, ends and is done."""

    output: Path | None
    start: str | None
    decoder: str | None
    until: int | None
    bf16: bool | None
    device: str
    threads: int | None
    quiet: bool


@dataclasses.dataclass(frozen=True)
class Parts:
    """What of a model is there, and trained."""

    pointwise: bool
    freeze_decoder: bool
    z_alone: bool
    rounded: bool
    freeze_z: bool


@click.command()
@click.option("--config", "preset_name", default="photo", show_default=True, metavar="NAME",
              help="What to train; `--config help` lists the names.")  # fmt: skip
@click.option("--data", "sources", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="Folder of RGB photographs; for binary images .npz, .npy or folder. Repeatable.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for the checkpoint; a run that was stopped goes on from it.")  # fmt: skip
@click.option("--start", metavar="NAME|PATH", shell_complete=complete_path,
              help="Model to begin from, by name or file, or checkpoint (.pt) of another run.")  # fmt: skip
@click.option("--decoder", metavar="NAME|PATH", shell_complete=complete_path,
              help="With --start: the model whose decoder takes the place of that one's; photographs.")  # fmt: skip
@click.option("--steps", type=int, help="Optimiser steps in all.")
@click.option("--until", type=int, help="Stop after this step, keeping the schedule of --steps.")
@click.option("--decay", type=int, help="Steps over which the rate falls to zero at the end.")
@click.option("--batch", type=int, help="Crops or images per step.")
@click.option("--crop", type=int, help="Side of a photograph's crop in pixels, a multiple of 16.")
@click.option("--changed", type=float,
              help="Share of the usual changes of crops, such as noise and JPEG, 0 to 1; photographs.")  # fmt: skip
@click.option("--blocks", type=int,
              help="Residual blocks of the decoder; more than a model to begin from has make it deeper.")  # fmt: skip
@click.option("--channels", type=int, help="Width of the decoder.")
@click.option("--pointwise", is_flag=True, help="Only 1x1 layers after the decoder's first (NeLLoC).")
@click.option("--z-channels", type=int, help="Channels of z; 0 for a decoder alone.")
@click.option("--z-hidden", type=int, help="Width of the prior and of the layers next to z.")
@click.option("--z-width", type=int, help="Width of the networks between photographs and z.")
@click.option("--distortion", type=float,
              help="Bits per pixel that a unit of squared error of what z tells costs.")  # fmt: skip
@click.option("--z-from", type=int, help="Step at which z joins.")
@click.option("--free-bits", type=float, help="Nats per channel of z (and per patch of a photograph) that are free.")
@click.option("--kl-warmup", type=int, help="Steps over which the KL's weight rises to one.")
@click.option("--word-dropout", type=float, help="Share of pixels kept from the window; binary images only.")
@click.option("--freeze-decoder", is_flag=True, help="Train only what belongs to z; needs --start.")
@click.option("--z-alone", is_flag=True, help="Train what lies between photographs and z, without the decoder.")
@click.option("--rounded", is_flag=True, help="With --z-alone: train z for lossy codes, not for bits-back.")
@click.option("--freeze-z", is_flag=True, help="Train only the decoder and what it sees of z; photographs.")
@click.option("--rate", type=float, help="Learning rate of Adam.")
@click.option("--matrix-rate", type=float, help="Learning rate of Muon.")
@click.option("--seed", type=int, help="Seed of weights, order of the data and noise.")
@click.option("--bf16/--fp32", default=None, help="Precision of the layers in training.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@gather(run=Run, parts=Parts)
def train(preset_name: str, sources: tuple[Path, ...], run: Run, parts: Parts, **changes: Any) -> None:
    """Train a model on photographs or on binary images.

    The checkpoint in the output folder is written every 500 steps and on Ctrl-C; the same command goes on from there.
    Turn it into a model with `vlae-codec export`. What is not given comes from the configuration.

    \b
    Examples:
      vlae-codec train --data my/photographs -o run
      vlae-codec train --config vlae --data static_mnist.npz -o run
      vlae-codec train --start photo --data my/camera -o run --steps 1000 --decay 800 --rate 5e-4
    """
    import torch
    from vlae_codec.models.training.loop import Report, Trainer
    from vlae_codec.models.training.presets import PRESETS, preset
    from vlae_codec.models.training.processes import joined
    from vlae_codec.models.training.start import to_floats, with_blocks, with_decoder
    from vlae_codec.models.vlae import VLAE

    from vlae_codec.errors import UnknownModel
    from vlae_codec.registry import load_model

    if preset_name == "help":
        for name, each in PRESETS.items():
            click.echo(f"{name:<16} {each.about}")
        return
    if not sources or run.output is None:
        raise click.UsageError("name the data with --data and a folder for the checkpoint with --output")
    if parts.z_alone and (parts.freeze_z or parts.freeze_decoder):
        raise click.UsageError("--z-alone leaves out the decoder: there is nothing to freeze")
    if parts.rounded and not parts.z_alone:
        raise click.UsageError("--rounded is for training z alone: give --z-alone too")
    if parts.freeze_decoder and run.start is None:
        raise click.UsageError("--freeze-decoder keeps a trained decoder as it is: name it with --start")
    use_threads(run.threads)
    device = run.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = preset(preset_name)
    given = {name: value for name, value in changes.items() if value is not None}
    config, begin = chosen.config, None
    if run.start:
        begin = Path(run.start) if run.start.endswith(".pt") else to_floats(load_model(run.start, "cpu").coder.model)
    if isinstance(begin, VLAE):
        begin = with_blocks(begin, given.get("blocks", 0))
        config = begin.config
        if config.image_size != chosen.config.image_size:
            kind = "binary images: give --config vlae" if config.image_size else "photographs: give --config photo"
            raise UnknownModel(f"--start {run.start} is a model for {kind}")
    if run.decoder:
        if not isinstance(begin, VLAE):
            raise click.UsageError("--decoder changes a model to begin from: name one with --start, not a checkpoint")
        begin = with_decoder(begin, to_floats(load_model(run.decoder, "cpu").coder.model))
    shape = {name: given[name] for name in CONFIG if name in given}
    if shape.get("z_channels", 0) % max(config.z_groups, 1):
        shape["z_groups"] = 0
    if parts.pointwise:
        shape |= {"spatial": False, "depthwise": False}
    config = dataclasses.replace(config, **shape)
    schedule = dataclasses.replace(chosen.schedule, **{name: given[name] for name in SCHEDULE if name in given})
    if run.bf16 is not None:
        schedule = dataclasses.replace(schedule, bfloat16=run.bf16)
    if parts.freeze_decoder:
        schedule = dataclasses.replace(schedule, freeze_decoder=True, z_dropout=0.0)
    if parts.z_alone or parts.freeze_z:
        schedule = dataclasses.replace(schedule, z_alone=parts.z_alone, freeze_z=parts.freeze_z, rounded=parts.rounded)
    unit = "nats/image" if config.image_size else "bits/subpixel"
    with joined(device) as processes:
        trainer = Trainer(config, schedule, run.output, begin, processes)

        def show(report: Report) -> None:
            if not run.quiet and not processes.number and report.step % 50 == 0:
                click.echo(
                    f"step {report.step}/{schedule.steps}  pixels {report.pixels:.4f}  KL {report.kl:.5f} {unit}  "
                    f"error {report.error:.1f}  {report.images_per_second:.1f} images/s",
                    err=True,
                )

        trainer.run(list(sources), show, until=run.until)
