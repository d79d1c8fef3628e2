"""The float model's ELBO over a folder of photographs, to be held against the integer model's.

python tests/benchmarks/elbo.py CHECKPOINT FOLDER
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from vlae_codec.models.training.evaluate import folder_elbo
from vlae_codec.models.training.export import load_average


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(checkpoint: Path, folder: Path) -> None:
    """Print mean bits per subpixel with and without z."""
    model, about = load_average(checkpoint)
    print(f"{checkpoint}: step {about['step']}, {about['seconds']:.0f} s of training")
    for with_z in (True, False):
        torch.manual_seed(0)
        pixels, kl = np.mean(list(folder_elbo(model, folder, with_z).values()), axis=0)
        name = "with z" if with_z else "without z"
        print(f"{folder.name}, {name}: pixels {pixels:.5f} + KL {kl:.6f} = {pixels + kl:.5f} bits per subpixel")


if __name__ == "__main__":
    main()
