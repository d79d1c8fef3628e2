"""What the window leaves to z, for photographs: bits in z and in pixels, from a folder of pictures.

python tests/benchmarks/photo_window.py FOLDER... [--model NAME]

z is drawn from q(z | x), the same for both lines. *Window 0* is a factorised p0(x | z): a discretised logistic around
the synthesis' reconstruction y, with one scale for each picture, about the best. *Full* is the model. Bits per subpixel
in all are KL and pixels, without what ANS and the file's head add.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from vlae_codec.models.plan import PIXEL_CENTRE, Y_STEPS

import vlae_codec
from vlae_codec.coding import latent, wavefront
from vlae_codec.coding.photo import PhotoCoder
from vlae_codec.entropy import cdf


def logistic_bits(picture: NDArray[np.uint8], middles: NDArray[np.float64], scale: float) -> float:
    """Code length of a picture under discretised logistics, the ends of 0..255 taking what lies beyond."""
    edges = picture - 0.5 - middles, picture + 0.5 - middles
    edges = np.where(picture == 0, -np.inf, edges[0]), np.where(picture == 255, np.inf, edges[1])
    # Mirrored where both are above the middle, so that the difference keeps its digits.
    flip = edges[0] + edges[1] > 0
    low, high = np.where(flip, -edges[1], edges[0]) / scale, np.where(flip, -edges[0], edges[1]) / scale
    with np.errstate(over="ignore"):
        mass = 1 / (1 + np.exp(-high)) - 1 / (1 + np.exp(-low))
    return float(-np.log2(mass + 2.0**-cdf.PRECISION).sum())


def measure(picture: NDArray[np.uint8], coder: PhotoCoder) -> dict[str, float]:
    """KL, and bits of the pixels under each likelihood."""
    height, width = picture.shape[:2]
    space, posterior = coder.space((height, width)), coder.posterior(picture)
    # The draw that `expected_kl` makes.
    z = latent.draw_posterior(posterior, np.random.default_rng(0))[0]
    y = np.concatenate([strip.y for strip in coder.synthesis.strips(z, False)])[:height, :width]
    y = y / Y_STEPS + PIXEL_CENTRE
    found = {"kl": latent.expected_kl(space, posterior)}
    every = np.exp(cdf.SCALE_LOWEST + np.arange(0, cdf.SCALE_COUNT, 4) / cdf.SCALE_STEPS)
    # Chosen by a ninth of the pixels, which tells neighbouring scales apart well enough.
    best = min(every, key=lambda scale: logistic_bits(picture[::3, ::3], y[::3, ::3], scale))
    found["window 0"] = logistic_bits(picture, y, best)
    alphabet, found["full"] = wavefront.Alphabet.of(picture, 3), 0.0
    for top, params in coder.parallel.bands(picture, 0, height, coder.synthesis.features(z, height, width)):
        starts, freqs = np.empty((2, len(params), width, 3), np.uint32)
        wavefront.pixel_intervals(params, picture, top, alphabet, starts, freqs)
        found["full"] += float(cdf.PRECISION * freqs.size - np.log2(freqs, dtype=np.float64).sum())
    return {name: bits / picture.size for name, bits in found.items()}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", "model_name", default="photo-global", show_default=True)
def main(folders: tuple[Path, ...], model_name: str) -> None:
    """Measure all RGB pictures in the folders."""
    model = vlae_codec.load_model(model_name)
    paths = sorted(path for folder in folders for path in folder.iterdir())
    pictures = [np.asarray(image.convert("RGB")) for path in paths if (image := Image.open(path)).mode == "RGB"]
    each = [measure(picture, model.photographs) for picture in pictures]
    means = {name: float(np.mean([found[name] for found in each])) for name in each[0]}
    click.echo(f"{len(each)} pictures; bits per subpixel")
    for name in ("window 0", "full"):
        click.echo(f"{name:<8} z {means['kl']:.4f}, pixels {means[name]:.4f}, all {means['kl'] + means[name]:.4f}")


if __name__ == "__main__":
    main()
