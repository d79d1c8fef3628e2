"""Measure bytes on disk over a folder of photographs, ours beside the peers'.

python tests/benchmarks/rates.py FOLDER [--model NAME|PATH]... [--effort N]...

Prints a table of mean bits per subpixel (mean over the pictures), with versions. JPEG XL needs the package imagecodecs.
Every file of ours is decoded and compared.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import PIL
from PIL import Image, features

import vlae_codec


def saved(image: Image.Image, fmt: str, **options: object) -> int:
    """Bytes of an image in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return len(buffer.getvalue())


def peers(efforts: tuple[int, ...]) -> dict[str, Callable[[Image.Image], int]]:
    """Coders by name and version."""
    result: dict[str, Callable[[Image.Image], int]] = {
        f"PNG -9 (Pillow {PIL.__version__}, zlib {zlib.ZLIB_VERSION})": lambda im: saved(im, "PNG", compress_level=9),
        f"WebP lossless, method 6 (libwebp {features.version('webp')})": lambda im: saved(
            im, "WEBP", lossless=True, quality=100, method=6
        ),
    }
    if efforts:
        import imagecodecs

        for effort in efforts:

            def jxl(image: Image.Image, effort: int = effort) -> int:
                return len(imagecodecs.jpegxl_encode(np.asarray(image), effort=effort, lossless=True))

            result[f"JPEG XL effort {effort} ({imagecodecs.jpegxl_version()})"] = jxl
    return result


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-m", "--model", "models", multiple=True, help="Model of ours; may be given more than once.")
@click.option("--effort", "efforts", type=int, multiple=True, help="JPEG XL effort; may be given more than once.")
@click.option("--adapt/--no-adapt", default=True, show_default=True)
@click.option("--peers/--no-peers", "with_peers", default=True, show_default=True)
@click.option("--each", is_flag=True, help="Also print every picture.")
def main(
    folder: Path, models: tuple[str, ...], efforts: tuple[int, ...], with_peers: bool, each: bool, adapt: bool
) -> None:
    """Print mean bits per subpixel of FOLDER's pictures."""
    coders = peers(efforts) if with_peers else {}
    ideal: dict[str, list[float]] = {}
    parts: dict[str, list[tuple[float, float, float]]] = {}
    for name in models:
        model = vlae_codec.load_model(name, "cpu", adapt)
        label = f"vlae-codec {vlae_codec.__version__}, {model.name} ({model.id.hex()}){'' if adapt else ', --no-adapt'}"
        ideal[label], parts[label] = [], []

        def ours(image: Image.Image, model: vlae_codec.Model = model, label: str = label) -> int:
            data = vlae_codec.compress(image, model, verify=True)
            what = vlae_codec.info(data)
            if what["elbo_bits"] is not None:
                n = what["pixels"]
                ideal[label].append(what["elbo_bits"] / n)
                bits = what["bits"]
                parts[label].append((bits["z_prior"] / n, bits["z_posterior"] / n, bits["pixels"] / n))
            return len(data)

        coders[label] = ours
    rates: dict[str, list[float]] = {name: [] for name in coders}
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".png", ".webp"})
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for name, coder in coders.items():
            rates[name].append(8 * coder(image) / math.prod((*image.size, 3)))
        if each:
            print(path.name, *(f"{values[-1]:.4f}" for values in rates.values()), flush=True)
    print(f"{len(paths)} pictures of {folder.name}, mean bits per subpixel")
    for name, values in rates.items():
        print(f"| {name} | {np.mean(values):.4f} |")
    for name, values in ideal.items():
        if values:
            prior, posterior, pixels = np.mean(parts[name], axis=0)
            print(
                f"{name}: {len(values)} coded by the model, ELBO {np.mean(values):.4f} = z prior {prior:.5f} "
                f"- z posterior {posterior:.5f} + pixels {pixels:.4f}"
            )


if __name__ == "__main__":
    main()
