"""What the decoder's window sees, z need not hold: bits in z against bits in pixels, configuration by configuration.

vlae-codec eval mnist_gray.npz --model runs/window-1/checkpoint.pt --json > window-1.json
python examples/latent_accuracy.py mnist_gray.npz -m runs/window-1/checkpoint.pt --json > accuracy.json
python examples/window.py vae.json window-1.json window-2.json window-4.json vlae.json full-window.json -o window.png

Each file becomes a bar, named by the file and in the order given, and a row of the table that is printed. Its height is
the ELBO. With --accuracy the table has what latent_accuracy.py found for models of the same names.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import WIDTH, run, save
from matplotlib.figure import Figure

from vlae_codec.errors import VlaeError


class Result(NamedTuple):
    """A configuration and its bits per image."""

    name: str
    kl: float
    pixels: float


def load_result(path: Path) -> Result:
    """Read what ``vlae-codec eval --json`` printed; `VlaeError` on anything else."""
    try:
        nats = json.loads(path.read_text())["nats"]
        return Result(path.stem, float(nats["kl"]) / math.log(2.0), float(nats["pixels"]) / math.log(2.0))
    except (ValueError, KeyError, TypeError):
        raise VlaeError(f"{path}: not what `vlae-codec eval --json` prints") from None


def plot(results: list[Result]) -> Figure:
    """Stacked bars: the KL below, the pixels above it, and the sum on top."""
    figure = Figure((WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names, kl, pixels = zip(*results, strict=True)
    below = axes.bar(range(len(names)), kl, 0.65, color="#fdae6b", label="z: KL(q(z | x) || p(z))")
    above = axes.bar(range(len(names)), pixels, 0.65, bottom=kl, color="#9ecae1", label="pixels: -log p(x | z, window)")
    total = np.add(kl, pixels)
    axes.bar_label(above, [f"{value:.1f}" for value in total], padding=2, fontweight="bold")
    for bars, values in ((below, kl), (above, pixels)):
        # A number in a bar lower than its own height would lie across the edge.
        axes.bar_label(bars, [f"{v:.1f}" if v > 0.06 * total.max() else "" for v in values], label_type="center")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("bits per image")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def load_accuracies(path: Path) -> dict[str, tuple[float, float]]:
    """Class accuracies from means of z and from draws, by name; `VlaeError` unless latent_accuracy.py printed it."""
    try:
        return {each["model"]: (float(each["linear"]), float(each["drawn"])) for each in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError):
        raise VlaeError(f"{path}: not what `latent_accuracy.py --json` prints") from None


def table(results: list[Result], accuracies: dict[str, tuple[float, float]]) -> str:
    """Bits per image as a table of Markdown, and class accuracies where they are known."""
    columns = ["bits in z", "bits in pixels", "ELBO"]
    if accuracies:
        columns += ["class from z: means", "draws"]
    lines = [f"| | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    for name, kl, pixels in results:
        found = [f"{100 * share:.1f} %" for share in accuracies.get(name, ())]
        row = [f"{kl:.2f}", f"{pixels:.2f}", f"{kl + pixels:.2f}", *found]
        lines.append(f"| `{name}` | {' | '.join(row + [''] * (len(columns) - len(row)))} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json", help="what eval --json printed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--accuracy", type=Path, metavar="ACCURACY.json", help="what latent_accuracy.py --json printed")
    given = parser.parse_args()
    results = [load_result(path) for path in given.results]
    save(plot(results), given.output)
    print(table(results, load_accuracies(given.accuracy) if given.accuracy else {}))


if __name__ == "__main__":
    run(main)
