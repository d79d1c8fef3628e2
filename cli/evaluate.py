"""``vlae-codec eval``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .options import complete_path, gather, progress_bar, use_threads


@dataclass(frozen=True)
class Share:
    """What of the data is measured, and how closely."""

    split: str
    images: int | None
    samples: int
    limit: int | None
    particles: int


@click.command("eval")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-m", "--model", "model_name", required=True, metavar="NAME|PATH", shell_complete=complete_path,
              help="Model for binary images, or a training checkpoint (.pt): floats, and no archive.")  # fmt: skip
@click.option("--split", default="valid", show_default=True, help="The array to take from a .npz file.")
@click.option("--images", type=click.IntRange(1), help="Only the first so many images.")
@click.option("--samples", type=click.IntRange(0), default=0, show_default=True,
              help="Draws for the importance-weighted likelihood; the paper takes 4096.")  # fmt: skip
@click.option("--particles", type=click.IntRange(1, 64), default=1, show_default=True, metavar="K",
              help="Of the archive, as for compress.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Only the first so many images for that.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where networks run.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@gather(share=Share)
def evaluate(
    data: Path, model_name: str, share: Share, seed: int, as_json: bool, device: str, threads: int | None
) -> None:
    """Measure a model on binary images: ELBO in parts, importance-weighted likelihood, bytes of a real archive.

    DATA is a .npz, a .npy or a folder of images, as for `train`. Grey images are binarised once, with --seed.

    \b
    Example:
      vlae-codec eval static_mnist.npz --model static-mnist --samples 4096 --limit 100
    """
    import numpy as np
    from vlae_codec.models.training.binary import binarise, load_binary
    from vlae_codec.models.training.evaluate import checkpoint_elbo
    from vlae_codec.models.training.export import load_average

    from vlae_codec.evaluate import evaluate as measure
    from vlae_codec.registry import choose_device, load_model

    if share.particles > 1 and model_name.endswith(".pt"):
        raise click.UsageError("--particles is of an archive, and a checkpoint makes none: export it first")
    use_threads(threads)
    device = choose_device(device)
    checkpoint = load_average(Path(model_name))[0] if model_name.endswith(".pt") else None
    model = None if checkpoint else load_model(model_name, device)
    config = checkpoint.config if checkpoint else model.coder.config  # type: ignore[union-attr]
    chosen = load_binary(data, config.image_size, share.split)[: share.images]
    if chosen.max() > 1:
        chosen = binarise(chosen, np.random.default_rng(seed))
    result: dict[str, Any]
    with progress_bar(False, "eval") as update:
        if checkpoint:
            result = checkpoint_elbo(checkpoint, chosen, share.samples, share.limit, seed, device, update)
        else:
            assert model is not None
            result = measure(
                model, chosen, samples=share.samples, limit=share.limit, seed=seed, particles=share.particles,
                progress=update,
            )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    nats = result["nats"]
    rows = [("pixels", nats["pixels"], ""), ("KL", nats["kl"], f"{result['kl_bits']:.2f} bits")]
    rows.append(("ELBO", nats["elbo"], f"{result['bits_per_dim']:.4f} bits/dim"))
    if result["importance"]:
        found = result["importance"]
        about = f"+- {found['standard_error']:.2f}, {found['samples']} draws, {found['images']} images"
        rows.append(("-log p(x)", found["nats"], about))
    if result["archive"]:
        found = result["archive"]
        about = (
            f"{found['bytes']} bytes, {found['bits']:.2f} bits an image, {100 * found['over_elbo']:.3f} % over the ELBO"
        )
        rows.append(("archive", found["nats"], about))
    click.echo(f"{result['images']} images, model {result['model']}; nats per image")
    for name, value, about in rows:
        click.echo(f"{name:<10} {value:>9.3f}  {about}".rstrip())
