"""Lossy codes: z alone, so that the global structure is kept and local detail is drawn anew from p(x | z).

z is rounded to a coarse lattice around the prior's mean and coded under the prior, value by value: each choice weighs
its bits against how likely q(z | x) finds the result. Relative entropy coding, which draws z from q by shared random
numbers, was the other choice: its general bound is KL + log2(KL + 1) + 5 bits an image (Li and El Gamal 2018), and it
searches some 2^KL candidates. FORMAT.md is the specification.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec import files
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import CorruptFile, EmptyMessage, UnknownModel, UnsupportedImage, VlaeError
from vlae_codec.fields import Reader, check_names, inflate_json, write_varint
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import MAX_PIXELS, check_size, to_planes
from vlae_codec.images.sets import Source, array_bytes, is_array
from vlae_codec.registry import Model, Models, find_model
from vlae_codec.stages import MAX_EXPONENT, Costs, Progress, no_progress

from . import header as container
from . import single
from .header import FileKind
from .request import Request

if TYPE_CHECKING:
    from vlae_codec.coding import latent
    from vlae_codec.coding.binary import BinaryCoder
    from vlae_codec.coding.photo import PhotoCoder
    from vlae_codec.entropy.codecs import Gaussians

#: How much a nat of log q(z | x) counts against a nat of code length when the lattice's steps are chosen.
FIDELITY = 2.5
#: How much more it counts when a place on the lattice is chosen: on a coarse lattice the nearest place costs little
#: more than the cheapest, and more digits are recognised.
CLOSENESS = 4.0
#: Quality of a photograph's lossy code when none is given, and the largest.
QUALITY, MAX_QUALITY = 50, 100
#: Steps of the lattice, in standard deviations of q(z | x), of the lowest quality and of the highest.
SPACINGS = (16.0, 0.5)
#: How close a search for a file of some size comes to the spacing that just fits.
PRECISION = 0.02
#: Draws that `mean` averages when no number is given.
MEAN_SAMPLES = 16


@dataclass
class LossyFile:
    """All of a lossy file.

    Attributes
    ----------
    head : dict
        ``source`` (see `Source`), ``names``, ``size`` (width and height) and ``count``.
    model_id : bytes
    exponents : array of int64, shape (z_channels,)
        Steps of the lattice are 2^(exponent / 4) bins of the grid of z, see `latent.Lattice`.
    kl, bits : float
        KL of the posterior and achieved code length of z, in bits, over all images.
    words : array of uint32
        The message, one lane.
    """

    head: dict[str, Any]
    model_id: bytes
    exponents: NDArray[np.int64]
    kl: float
    bits: float
    words: NDArray[np.uint32]

    def to_bytes(self) -> bytes:
        """The file."""
        out = bytearray(container.MAGIC) + bytes([container.VERSION, FileKind.LOSSY]) + self.model_id
        head = zlib.compress(json.dumps(self.head, sort_keys=True, separators=(",", ":")).encode(), 9)
        out += write_varint(len(head)) + head
        out += write_varint(len(self.exponents)) + bytes(self.exponents.astype(np.uint8))
        out += write_varint(round(self.kl)) + write_varint(round(self.bits))
        payload = self.words.astype("<u4").tobytes()
        out += write_varint(len(payload)) + payload
        return bytes(out + zlib.crc32(out).to_bytes(4, "little"))

    def info(self) -> dict[str, Any]:
        """What the file holds, and where its bits went."""
        size = len(self.to_bytes())
        return {
            "file_bytes": size, "mode": "lossy", "images": self.head["count"], "width": self.head["size"][0],
            "height": self.head["size"][1], "model_id": self.model_id.hex(),
            "bits": {"z": round(self.bits), "kl": round(self.kl), "file": 8 * size},
        }  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, max_pixels: int = MAX_PIXELS) -> LossyFile:
        """The inverse of `to_bytes`, every field checked.

        Raises
        ------
        NotAVlaeFile, UnsupportedVersion, CorruptFile
            If the data are no lossy file, or one that is damaged.
        UnsupportedImage
            If its images have more than ``max_pixels`` in all.
        """
        if container.kind_of(data) is not FileKind.LOSSY or len(data) < 14:
            raise CorruptFile("not a lossy .vlae file")
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise CorruptFile("checksum of the file is not the stored one: damaged, cut short or lengthened")
        reader = Reader(data[:-4])
        reader.take(10, "the magic")
        model = reader.take(8, "the model id")
        head = inflate_json(reader.take(reader.varint("the head's length", 0, 1 << 24), "the head"), "the head")
        exponents = np.frombuffer(reader.take(reader.varint("the channels of z", 1, 64), "the steps"), np.uint8)
        kl, bits = (float(reader.varint("a code length", 0, 1 << 56)) for _ in range(2))
        payload = reader.take(reader.varint("the payload's length", 8, len(data)), "the payload")
        if reader.at != len(reader.data) or len(payload) % 4 or (exponents > MAX_EXPONENT).any():
            raise CorruptFile("a lossy file whose fields do not add up")
        _check_head(head, max_pixels)
        return cls(head, model, exponents.astype(np.int64), kl, bits, np.frombuffer(payload, "<u4"))


def _check_head(head: Any, max_pixels: int) -> None:
    if not isinstance(head, dict) or set(head) != {"source", "names", "size", "count"}:
        raise CorruptFile("the head of a lossy file has other fields than expected")
    Source.from_json(head["source"])
    count, size, names = head["count"], head["size"], head["names"]
    whole = (
        all(type(n) is int and n > 0 for n in [count, *size]) if isinstance(size, list) and len(size) == 2 else False
    )
    if not whole:
        raise CorruptFile(f"a lossy file of {str(count)[:20]} images of {str(size)[:40]} pixels")
    check_size((count * size[0], size[1]), "the file", max_pixels)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) not in (0, count):
        raise CorruptFile(f"the names are not {count} pieces of text")
    check_names(names, CorruptFile)


def encode_images(
    images: NDArray[np.uint8], model: Model, source: Source, names: list[str], *, fidelity: float = FIDELITY,
) -> LossyFile:  # fmt: skip
    """The z of binary images (N, S, S) of zeros and ones."""
    size = model.config.image_size
    head = {"source": source.to_json(), "names": names, "size": [size, size], "count": len(images)}
    coder = model.binary
    if not coder.config.z_channels:
        raise UnknownModel(f"model {model.name} has no z, so it has no lossy code")
    space, posterior = _space(head, coder), coder.posterior(images)
    return _encode(head, model, space, posterior, closeness=CLOSENESS * fidelity, fidelity=fidelity)


def open_photograph(data: bytes, name: str) -> Image.Image:
    """The picture of an image file, or of a .vlae file that holds one image without loss."""
    if not data.startswith(container.MAGIC):
        return imaging.open_image(data, name)
    if container.kind_of(data) in (FileKind.ARCHIVE, FileKind.SHORT_ARCHIVE, FileKind.LOSSY):
        raise UnsupportedImage(f"{name} is an archive or a lossy file, expected a .vlae file of one image")
    image = single.decompress(data)
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def encode_photograph(
    image: Image.Image, model: Model, name: str, *, quality: int = QUALITY, most_bytes: int | None = None
) -> LossyFile:
    """The z of an RGB or grey photograph.

    Parameters
    ----------
    image : Image
    model : Model
    name : str
        The file's name, to be kept in the file; may be empty.
    quality : int
        1 to 100: how fine the lattice of z is.
    most_bytes : int, optional
        Instead of a quality, the size that the file may have: the finest lattice that keeps below it.

    Raises
    ------
    UnsupportedImage
        If the image is of another mode, or no lattice gives so small a file.
    UnknownModel
        If the model has no z, or its z holds hardly anything of a picture.
    """
    from vlae_codec.coding import latent

    if image.mode not in ("RGB", "L"):
        raise UnsupportedImage(f"an image of mode {image.mode} has no lossy code, expected RGB or L")
    head = {
        "source": Source(mode=image.mode).to_json(),
        "names": [name] if name else [],
        "size": list(image.size),
        "count": 1,
    }
    coder = model.photographs
    if not coder.config.z_channels:
        raise UnknownModel(f"model {model.name} has no z, so it has no lossy code")
    space, posterior = _space(head, coder), coder.posterior(to_planes(np.asarray(image))[0])

    def spaced(spacing: float) -> LossyFile:
        # The nearest place, always: weighing its bits against log q made files smaller and pictures worse, on balance.
        return _encode(head, model, space, posterior, lattice=latent.Lattice.spaced(posterior, spacing))

    coarsest, finest = SPACINGS
    if most_bytes is None:
        return spaced(coarsest * (finest / coarsest) ** ((quality - 1) / (MAX_QUALITY - 1)))
    best, low, high = spaced(coarsest), math.log(finest), math.log(coarsest)
    if (size := len(best.to_bytes())) > most_bytes:
        raise UnsupportedImage(f"the smallest lossy code of the picture takes {size} bytes, more than {most_bytes}")
    while high - low > PRECISION:
        middle = (low + high) / 2
        file = spaced(math.exp(middle))
        if len(file.to_bytes()) <= most_bytes:
            best, high = file, middle
        else:
            low = middle
    return best


def _encode(head: dict[str, Any], model: Model, space: latent.Space, posterior: Gaussians, **options: Any) -> LossyFile:
    """Z of images on a lattice that `latent.choose` takes with some options."""
    from vlae_codec.coding import latent

    z, lattice = latent.choose(space, posterior, **options)
    message, costs = Message(1), Costs()
    latent.coarse(space, lattice, costs).push(message, z)
    kl = max(0.0, latent.expected_kl(space, posterior))
    return LossyFile(head, model.id, lattice.exponents, kl, costs.z_prior, message.flatten())


def _space(head: dict[str, Any], coder: PhotoCoder | BinaryCoder) -> latent.Space:
    """Where z of a file's images lies; `CorruptFile` if the model codes others."""
    from vlae_codec.coding.binary import BinaryCoder

    width, height = head["size"]
    if isinstance(coder, BinaryCoder):
        if [width, height] != [coder.config.image_size] * 2:
            raise CorruptFile(f"the file holds images of {[width, height]} pixels, its model codes others")
        return coder.space(head["count"])
    if head["count"] != 1:
        raise CorruptFile(f"the file holds {head['count']} images, its model codes one photograph at a time")
    return coder.space((height, width))


def decode_z(file: LossyFile, coder: PhotoCoder | BinaryCoder) -> NDArray[np.int64]:
    """Z, (N, h, w, z_channels); `CorruptFile` if it is damaged, or of another model's shape."""
    from vlae_codec.coding import latent

    space, channels = _space(file.head, coder), coder.config.z_channels
    if len(file.exponents) != channels:
        raise CorruptFile(f"the file codes {len(file.exponents)} channels of z, its model has {channels}")
    message = Message.unflatten(file.words, 1)
    try:
        z = latent.coarse(space, latent.Lattice(file.exponents), Costs()).pop(message)
    except EmptyMessage:
        raise CorruptFile("the coded z ends too soon") from None
    if not message.empty:
        raise CorruptFile("bits are left over after the last z")
    return z


def reconstruct(
    file: LossyFile, model: Model | None = None, *, samples: int = 1, seed: int = 0, mean: bool = False,
    progress: Progress = no_progress,
) -> NDArray[np.uint8]:  # fmt: skip
    """Draw the images of a lossy file anew.

    Parameters
    ----------
    file : LossyFile
    model : Model, optional
    samples : int
        How many draws of each image.
    seed : int
        Of the draws; the same seed gives the same pixels on every machine.
    mean : bool
        No draws: of a photograph the reconstruction y that z alone tells of; of binary images the average of so many
        draws (16 with ``samples`` 1), which are grey, 0..255. Draws of a photograph stay near y, see `coding.sample`.

    Returns
    -------
    uint8, (samples, N, S, S) of zeros and ones for binary images, (samples, 1, H, W, 3) for a photograph, without the
    last dimension for a grey one; with ``mean`` the first dimension is 1.
    """
    from vlae_codec.coding.binary import sample_images
    from vlae_codec.coding.sample import sample_photograph

    model = model or find_model(file.model_id)
    draws = MEAN_SAMPLES if mean and samples == 1 else samples
    coder = model.coder
    z = decode_z(file, coder)
    if not model.config.image_size:
        width, height = file.head["size"]
        if mean:
            return _as_was(file, model.photographs.synthesis.reconstruction(z[0], height, width)[None, None])
        channels = 1 if file.head["source"]["mode"] == "L" else 3
        shown = [
            sample_photograph(model.photographs, z[0], (height, width), seed + i, channels, progress)
            for i in range(draws)
        ]
        return _as_was(file, np.stack(shown)[:, None])
    drawn: list[NDArray[np.uint8]] = []
    for i in range(draws):
        drawn.append(sample_images(model.binary, z, len(z), seed + i))
        progress(drawn[-1].size)
    if not mean:
        return np.stack(drawn)
    return np.rint(np.mean(drawn, 0)[None] * 255).astype(np.uint8)


def _as_was(file: LossyFile, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey photographs as grey, (..., H, W), from (..., H, W, 3); all others as they are."""
    if file.head["source"]["mode"] != "L":
        return drawn
    return np.rint(drawn @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


# -- as a kind of file -----------------------------------------------------------------------------------------------


def info(data: bytes) -> dict[str, Any]:
    """See `LossyFile.info`."""
    return LossyFile.from_bytes(data).info()


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound lossy file holds, in words."""
    file = LossyFile.from_bytes(data, max_pixels)
    decode_z(file, models.find(file.model_id).coder)
    width, height = file.head["size"]
    return f"lossy, {file.head['count']} images of {width} x {height}"


def restore(data: bytes, request: Request) -> str:
    """Draw the images of a lossy file and write them, as image files or as an array, and say what was written."""
    if request.select:
        raise VlaeError("--select is for archives, and this is a lossy file")
    output, draws = request.needed_output("a lossy file"), request.draws
    file = LossyFile.from_bytes(data, request.max_pixels)
    model = request.models.find(file.model_id)
    mean = draws.mean if draws.mean is not None else not model.config.image_size
    drawn = reconstruct(file, model, samples=draws.samples, seed=draws.seed, mean=mean, progress=request.progress)
    if is_array(output):
        array: NDArray[np.uint8] = drawn[0] if len(drawn) == 1 else drawn
        request.write(output, array_bytes(array, Path(output), Source.from_json(file.head["source"]).key))
        return f"{output}: array of {array.dtype}, shape {array.shape}"
    names = file.head["names"] or [str(i) for i in range(file.head["count"])]
    one = request.is_one_file(len(names) * len(drawn))
    scale = 255 if model.config.image_size and not mean else 1
    for number, draw in enumerate(drawn):
        for name, pixels in zip(names, draw * np.uint8(scale), strict=True):
            part = f"-{number + 1}" if len(drawn) > 1 else ""
            path = output if one else str(files.below(Path(output), f"{Path(name).with_suffix('')}{part}.png"))
            request.write(path, imaging.encode_output(Image.fromarray(pixels), Path(path).suffix))
    return f"{output}: {drawn.shape[0] * drawn.shape[1]} images drawn"
