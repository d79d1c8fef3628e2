"""What the examples share: arguments, images and labels of a data set, the z of images, and figures of one style."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.training.binary import binarise, load_binary
from vlae_codec.models.training.export import load_average
from vlae_codec.models.vlae import VLAE

from vlae_codec import Model, load_model
from vlae_codec.coding.binary import BinaryCoder
from vlae_codec.coding.latent import draw_posterior
from vlae_codec.entropy import cdf
from vlae_codec.entropy.codecs import Gaussians
from vlae_codec.errors import UnknownModel, UnsupportedImage, VlaeError
from vlae_codec.formats import lossy
from vlae_codec.images.sets import Source
from vlae_codec.stages import MAX_BATCH

#: Inches and dots per inch: 1600 pixels, twice the width at which a README shows them.
WIDTH, DPI = 8.0, 200
#: Brightness of the lines between images, 0 white to 1 black.
LINE = 0.25

matplotlib.use("Agg")
matplotlib.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})


def arguments(
    doc: str | None, *, data: bool = False, output: bool = False, models: str = ""
) -> argparse.ArgumentParser:
    """A parser with the arguments that several examples take; ``models`` is the help for ``--model``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument(
            "data", type=Path, metavar="DATA.npz", help="arrays train and valid, as for vlae-codec train"
        )
    if models:
        parser.add_argument("-m", "--model", required=True, help=models)
    if output:
        parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    return parser


def count(text: str) -> int:
    """A number of images, for ``type`` of an argument."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def run(main: Callable[[], None]) -> None:
    """Run a script: errors that users can cause become one line on stderr and exit code 1."""
    try:
        main()
    except (VlaeError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


# -- data ------------------------------------------------------------------------------------------------------------


def load_images(data: Path, size: int, split: str, limit: int | None = None, seed: int = 0) -> NDArray[np.uint8]:
    """The first ``limit`` images of a split, (N, S, S) of zeros and ones; grey ones are binarised with ``seed``."""
    images = load_binary(data, size, split)[:limit]
    return binarise(images, np.random.default_rng(seed)) if images.max() > 1 else images


def load_labels(data: Path, split: str, limit: int | None = None) -> NDArray[np.int64]:
    """Classes of the first ``limit`` images of a split, (N,); `UnsupportedImage` if the file holds none."""
    with np.load(data, allow_pickle=False) as arrays:
        if f"{split}_labels" not in arrays.files:
            raise UnsupportedImage(f"{data} holds {', '.join(arrays.files)}; expected an array named {split}_labels")
        return arrays[f"{split}_labels"][:limit].astype(np.int64)


# -- models ----------------------------------------------------------------------------------------------------------


def open_model(name: str) -> Model:
    """A model for binary images, by name or path."""
    model = load_model(name)
    if not isinstance(model.coder, BinaryCoder):
        raise UnknownModel(f"model {model.name} is for photographs, expected one for binary images")
    return model


def open_encoder(name: str) -> Model | VLAE:
    """A model for binary images, or the averaged weights of a training checkpoint (.pt); one that has a z."""
    encoder = load_average(Path(name))[0] if name.endswith(".pt") else open_model(name)
    if not config_of(encoder).image_size or not config_of(encoder).z_channels:
        raise UnknownModel(f"{name}: expected a model for binary images that has a z")
    return encoder


def config_of(encoder: Model | VLAE) -> VLAEConfig:
    """The configuration of either."""
    return encoder.config if isinstance(encoder, VLAE) else encoder.coder.config


def label_of(name: str) -> str:
    """How a figure names a model: its file, or the run of a checkpoint that has its usual name."""
    path = Path(name)
    return path.parent.name if path.name == "checkpoint.pt" else path.stem


def latents(encoder: Model | VLAE, images: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray:
    """Means of q(z | x), float (N, z_channels), or one draw for each image where ``rng`` is given.

    Where the posterior is a flow, what the flow makes of its base's mean stands for the mean.
    """
    parts = np.split(images, range(MAX_BATCH, len(images), MAX_BATCH))
    return np.concatenate([_latents(encoder, part, rng) for part in parts])


def _latents(encoder: Model | VLAE, images: NDArray[np.uint8], rng: np.random.Generator | None) -> NDArray:
    if not isinstance(encoder, VLAE):
        assert isinstance(encoder.coder, BinaryCoder)
        posterior = Gaussians(*encoder.coder.networks.posterior(images))
        return (
            draw_posterior(posterior, rng) / cdf.Z_STEPS if rng else posterior.mean / (cdf.Z_MEAN_STEPS * cdf.Z_STEPS)
        )
    with torch.inference_mode():
        z, log_std, context = encoder.encoder(2.0 * torch.from_numpy(images)[:, None].float() - 1.0)
        if rng:
            z = z + log_std.exp() * torch.from_numpy(rng.standard_normal(z.shape, np.float32))
        if encoder.config.posterior == "iaf":
            z = encoder.flow(z, context)
        return z[:, :, 0, 0].numpy()


def encode_lossy(images: NDArray[np.uint8], model: Model, fidelity: float = lossy.FIDELITY) -> lossy.LossyFile:
    """What ``vlae-codec lossy`` makes of an array of images."""
    return lossy.encode_images(images, model, Source("array", 1, shape=images.shape), [], fidelity=fidelity)


# -- figures ---------------------------------------------------------------------------------------------------------


def tile(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One picture of images (R, C, S, S): R rows of C, a line of one pixel around each; 0 is white, 1 black."""
    rows, columns, size, _ = images.shape
    picture = np.full((rows, size + 1, columns, size + 1), LINE)
    picture[:, :size, :, :size] = images.transpose(0, 2, 1, 3)
    picture = picture.reshape(rows * (size + 1), columns * (size + 1))
    return np.pad(picture, ((1, 0), (1, 0)), constant_values=LINE)


def show_tiles(images: NDArray[np.uint8], title: str, labels: list[str] | None = None) -> Figure:
    """A figure of `tile`, its rows labelled where ``labels`` are given."""
    picture = tile(images)
    left = 0.08 if labels else 0.0
    inner = WIDTH * (1.0 - left) * picture.shape[0] / picture.shape[1]
    figure = Figure((WIDTH, inner + 0.35))
    axes = figure.add_axes((left, 0.0, 1.0 - left, inner / (inner + 0.35)))
    axes.imshow(picture, cmap="gray_r", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_title(title, fontsize=10)
    axes.set_frame_on(False)
    axes.set_xticks([])
    size = images.shape[2] + 1
    axes.set_yticks([size // 2 + size * i for i in range(len(labels or []))], labels)
    axes.tick_params(length=0)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes do not name the version of matplotlib."""
    figure.savefig(path, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
