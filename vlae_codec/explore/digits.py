"""Binary images of 28x28 pixels seen by one model: bits in z and in pixels, draws from p(x | z), and the real file."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vlae_codec.coding.binary import draw_images
from vlae_codec.coding.latent import draw_posterior
from vlae_codec.entropy import cdf
from vlae_codec.entropy.codecs import Gaussians
from vlae_codec.errors import UnknownModel, UnsupportedImage
from vlae_codec.evaluate import channel_parts
from vlae_codec.formats import kinds
from vlae_codec.formats.archive_writer import archive_files
from vlae_codec.images.io import encode_output
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import NEIGHBOURS
from vlae_codec.registry import Model, load_model

from .pictures import open_picture

#: Side of the images.
SIDE = 28
#: Side of the square into which a picture's digit is fitted, as MNIST's digits are.
INNER = 20
#: Draws of z over which bits are averaged; the same ones each time.
BIT_DRAWS = 32
#: Draws from p(x | z) that are averaged, and how many of them are shown.
DRAWS, SHOWN = 16, 4
#: Grid steps of z, and units of a mean, in 1.
Z_UNIT, MEAN_UNIT = cdf.Z_STEPS, cdf.Z_STEPS * cdf.Z_MEAN_STEPS
#: The name of a digit's file, which its archive holds.
NAME = "digit.png"


@dataclass(frozen=True)
class Choice:
    """A model that the page offers: how it is called there, and its name or path."""

    label: str
    name: str


#: Those that ship, by window.
CHOICES = (Choice("0", "explore-0"), Choice("VLAE", "static-mnist"), Choice("full", "explore-full"))


def load_choice(choice: Choice, device: str) -> Model:
    """A model of the page's; `UnknownModel` if it is not one for digits with a z."""
    model = load_model(choice.name, device)
    size, channels = model.config.image_size, model.config.z_channels
    if size != SIDE or not channels:
        what = f"binary images of {size} x {size} pixels" if size else "photographs"
        raise UnknownModel(
            f"model {model.name} is for {what}{'' if channels else ' and has no z'}; "
            f"expected one for binary images of {SIDE} x {SIDE} pixels that has a z"
        )
    return model


# -- images as text --------------------------------------------------------------------------------------------------


def to_text(image: NDArray[np.uint8]) -> str:
    """The pixels of a binary image, four in a hexadecimal digit."""
    return np.packbits(image).tobytes().hex()


def from_text(text: str) -> NDArray[np.uint8]:
    """The inverse of `to_text`, uint8 (28, 28); `UnsupportedImage` on anything else."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) * 8 != SIDE * SIDE:
        raise UnsupportedImage(f"a digit of {len(text)} characters, expected {SIDE * SIDE // 4} hexadecimal digits")
    return np.unpackbits(np.frombuffer(data, np.uint8)).reshape(SIDE, SIDE)


# -- images ----------------------------------------------------------------------------------------------------------


@functools.cache
def shelf() -> NDArray[np.uint8]:
    """The shelf's digits (N, 28, 28), two of each class in order."""
    with Image.open(Path(__file__).parent / "shelf.png") as strip:
        pixels = np.asarray(strip, np.uint8)
    return pixels.reshape(SIDE, -1, SIDE).transpose(1, 0, 2)


def shelf_labels() -> NDArray[np.int64]:
    """Their classes."""
    return np.arange(len(shelf())) // 2


def digit_of(data: bytes, name: str) -> NDArray[np.uint8]:
    """The digit in an image file, uint8 (28, 28), ones its ink.

    A picture of 28 x 28 pixels of two values is taken as it is. Of another, what differs from its border becomes the
    ink, and is fitted into the middle as MNIST's digits are.

    Raises
    ------
    UnsupportedImage
        If the file is no image, or nothing is on it.
    """
    image = open_picture(data, name)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    grey = np.asarray(image.convert("L"))
    if grey.shape == (SIDE, SIDE) and len(np.unique(grey)) == 2:
        return (grey == grey.max()).astype(np.uint8)
    border = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    away = np.abs(grey - border)
    ink = away > away.max() / 2
    if away.max() < 32 or ink.mean() > 0.6:
        raise UnsupportedImage(f"{name} shows no digit that stands out from its background")
    drawn = Image.fromarray((ink * 255).astype(np.uint8))
    fitted = ImageOps.contain(drawn.crop(drawn.getbbox()), (INNER, INNER), Image.Resampling.BOX)
    whole = Image.new("L", (SIDE, SIDE))
    whole.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
    return (np.asarray(whole) > 96).astype(np.uint8)


def file_of(image: NDArray[np.uint8], model: Model, verify: bool = True) -> bytes:
    """What ``vlae-codec compress digit.png --no-attributes`` makes of a digit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        path.write_bytes(png_of(image))
        return archive_files([(NAME, path)], model, attributes=False, verify=verify)


def png_of(image: NDArray[np.uint8]) -> bytes:
    """A digit's file."""
    return encode_output(Image.fromarray(image * np.uint8(255)).convert("1"), ".png")


# -- models ----------------------------------------------------------------------------------------------------------


def window_of(config: VLAEConfig) -> dict[str, Any]:
    """What a decoder sees of the pixels: offsets (dx, dy) of its window, and of what its blocks add to that.

    Nearest pixels alone, as nobody looks at more.
    """
    window = {(dy, dx) for dy, dx in config.window_offsets if dy >= -8 and abs(dx) <= 8}
    seen = set(window)
    for _ in range(config.blocks if config.spatial else 0):
        seen |= {(y + dy, x + dx) for y, x in seen for dy, dx in NEIGHBOURS}
    near = {(dy, dx) for dy, dx in seen - window if dy >= -8 and abs(dx) <= 8}
    return {
        "pixels": len(config.window_offsets),
        "rows": config.window_rows,
        "window": sorted((dx, dy) for dy, dx in window),
        "beyond": sorted((dx, dy) for dy, dx in near),
    }


def means_of(model: Model, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means of q(z | x) of images (N, 28, 28), (N, z_channels)."""
    return model.binary.networks.posterior(images)[0] / MEAN_UNIT


def view(image: NDArray[np.uint8], model: Model, seed: int) -> dict[str, Any]:
    """All that the page shows of a digit and a model, as JSON holds it.

    Bits are averages over draws of z that are always the same; the draws of x, each with a z of its own from q(z | x),
    and their mean depend on the seed.
    """
    coder = model.binary
    prior, posterior, pixels = channel_parts(coder, np.repeat(image[None], BIT_DRAWS, 0), np.random.default_rng(0))
    given = Gaussians(*coder.networks.posterior(image[None]))
    rng = np.random.default_rng(seed)
    chances = rng.random((DRAWS, SIDE, SIDE))
    z = draw_posterior(Gaussians(*(np.repeat(part, DRAWS, 0) for part in given)), rng)
    drawn = draw_images(coder, z, chances)
    file = file_of(image, model, verify=False)
    kl = (prior - posterior).mean(0)
    return {
        "bits": {"z": float(kl.sum()), "pixels": float(pixels.mean())},
        "z": {
            "mean": (given.mean[0] / MEAN_UNIT).round(4).tolist(),
            "std": (given.std()[0] / Z_UNIT).round(4).tolist(),
            "kl": kl.round(4).tolist(),
        },
        "draws": [to_text(each) for each in drawn[:SHOWN]],
        "mean": np.rint(255 * drawn.mean(0)).astype(np.uint8).tobytes().hex(),
        "file": {"bytes": len(file), "header_bits": kinds.info(file)["bits"]["header"]},
    }


def draw_at(model: Model, z: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """Draw images (N, 28, 28) from p(x | z) at values of z (N, z_channels); they share the chances of their pixels."""
    steps = np.rint(z * Z_UNIT).astype(np.int64).clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
    return draw_images(model.binary, steps, np.random.default_rng(seed).random((1, SIDE, SIDE)))


def mix(one: NDArray[np.uint8], other: NDArray[np.uint8], model: Model, steps: int, seed: int) -> NDArray[np.uint8]:
    """Draws (steps, 28, 28) from p(x | z), z on the way from one digit's mean to another's."""
    ends = means_of(model, np.stack([one, other]))
    shares = np.linspace(0.0, 1.0, steps)[:, None]
    return draw_at(model, (1 - shares) * ends[0] + shares * ends[1], seed)
