"""``vlae-codec train``: fit a model to a folder of photographs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--data", "folders", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True,
              required=True, help="Folder of RGB photographs; may be given more than once.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder for the checkpoint; a run that was stopped goes on from it.")  # fmt: skip
@click.option("--start", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Checkpoint of another run to begin from.")  # fmt: skip
@click.option("--steps", default=20000, show_default=True, help="Optimiser steps in all.")
@click.option("--until", type=int, help="Stop after this step, keeping the schedule of --steps.")
@click.option("--decay", default=6000, show_default=True, help="Steps over which the rate falls to zero at the end.")
@click.option("--batch", default=8, show_default=True, help="Crops per step.")
@click.option("--crop", default=64, show_default=True, help="Side of a crop in pixels, a multiple of 16.")
@click.option("--blocks", default=6, show_default=True, help="Residual blocks of the decoder.")
@click.option("--channels", default=64, show_default=True, help="Width of the decoder.")
@click.option("--pointwise", is_flag=True, help="Only 1x1 layers after the first (NeLLoC).")
@click.option("--z-channels", default=8, show_default=True, help="Channels of z; 0 for a decoder alone.")
@click.option("--z-from", default=0, show_default=True, help="Step at which z joins.")
@click.option("--free-bits", default=0.1, show_default=True, help="Nats per patch and channel of z that are free.")
@click.option("--kl-warmup", default=0, show_default=True, help="Steps over which the KL's weight rises to one.")
@click.option("--freeze-decoder", is_flag=True, help="Train only what belongs to z; needs --start.")
@click.option("--rate", default=2e-3, show_default=True, help="Learning rate of Adam.")
@click.option("--matrix-rate", default=4e-3, show_default=True, help="Learning rate of Muon.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, crops and noise.")
@click.option("--bf16/--fp32", default=True, show_default=True, help="Precision of the decoder's layers in training.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(
    folders: tuple[Path, ...],
    output: Path,
    start: Path | None,
    steps: int,
    until: int | None,
    decay: int,
    batch: int,
    crop: int,
    blocks: int,
    channels: int,
    pointwise: bool,
    z_channels: int,
    z_from: int,
    free_bits: float,
    kl_warmup: int,
    freeze_decoder: bool,
    rate: float,
    matrix_rate: float,
    seed: int,
    bf16: bool,
    device: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Train a model on photographs.

    The checkpoint in the output folder is written every 500 steps; the same command goes on from there. Turn it into
    a model with `vlae-codec export`.
    """
    import torch

    from ..models.config import VLAEConfig
    from ..models.training.loop import Progress, Schedule, Trainer

    if freeze_decoder and start is None:
        raise click.UsageError("--freeze-decoder keeps a trained decoder as it is: name its checkpoint with --start")
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = VLAEConfig(blocks=blocks, channels=channels, spatial=not pointwise, z_channels=z_channels)
    schedule = Schedule(
        steps=steps, decay=decay, batch=batch, crop=crop, rate=rate, matrix_rate=matrix_rate, seed=seed,
        z_from=z_from, free_bits=free_bits, kl_warmup=kl_warmup, freeze_decoder=freeze_decoder,
        z_dropout=0.0 if freeze_decoder else 0.1, bfloat16=bf16,
    )  # fmt: skip
    trainer = Trainer(config, schedule, output, start, device)

    def report(progress: Progress) -> None:
        if not quiet and progress.step % 50 == 0:
            click.echo(
                f"step {progress.step}/{steps}  pixels {progress.pixels:.4f}  KL {progress.kl:.5f} bits/subpixel  "
                f"{progress.crops_per_second:.1f} crops/s",
                err=True,
            )

    trainer.run(list(folders), report, until=until)
