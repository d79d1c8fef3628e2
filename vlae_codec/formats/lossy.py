"""Lossy codes: z alone, so that the global structure is kept and local detail is drawn anew from p(x | z).

z is rounded to a coarse lattice around the prior's mean and coded under the prior, value by value: each choice weighs
its bits against how likely q(z | x) finds the result. Relative entropy coding, which draws z from q by shared random
numbers, was the other choice: its general bound is KL + log2(KL + 1) + 5 bits an image (Li and El Gamal 2018), and it
searches some 2^KL candidates. FORMAT.md is the specification.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.coding.binary import MAX_BATCH, ImageCoder, gaussian_bits
from vlae_codec.coding.photo import Alphabet, Coder, Progress, no_progress
from vlae_codec.entropy import cdf, kernels
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import CorruptFile, EmptyMessage, UnknownModel, UnsupportedImage
from vlae_codec.images import io as imaging
from vlae_codec.models.config import VLAEConfig
from vlae_codec.registry import Model, find_model
from vlae_codec.stages import wavefront

from . import archive
from . import header as container
from .header import MAX_PIXELS, Mode, Reader, write_varint

#: How much a nat of log q(z | x) counts against a nat of code length when the lattice's steps are chosen.
FIDELITY = 2.5
#: How much more it counts when a place on the lattice is chosen: on a coarse lattice the nearest place costs little
#: more than the cheapest, and more digits are recognised.
CLOSENESS = 4.0
#: Draws that `mean` averages when no number is given.
MEAN_SAMPLES = 16
#: Images whose prior is computed together.
PART = 4096
#: Largest exponent of a lattice's step: a bin then is as wide as the grid.
MAX_EXPONENT = 8


@dataclass
class LossyFile:
    """All of a lossy file.

    Attributes
    ----------
    head : dict
        ``source`` (see `archive.Source`), ``names``, ``size`` (width and height) and ``count``.
    model_id : bytes
    exponents : array of int64, shape (z_channels,)
        Steps of the lattice are 2^exponent bins of the grid of z.
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
        out = bytearray(container.MAGIC) + bytes([container.VERSION, Mode.LOSSY]) + self.model_id
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
        if container.mode_of(data) is not Mode.LOSSY or len(data) < 14:
            raise CorruptFile("not a lossy .vlae file")
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise CorruptFile("checksum of the file is not the stored one: damaged, cut short or lengthened")
        reader = Reader(data[:-4])
        reader.take(10, "the magic")
        model = reader.take(8, "the model id")
        head = archive.inflate_json(reader.take(reader.varint("the head's length", 0, 1 << 24), "the head"), "the head")
        exponents = np.frombuffer(reader.take(reader.varint("the channels of z", 1, 64), "the steps"), np.uint8)
        kl, bits = (float(reader.varint("a code length", 0, 1 << 56)) for _ in range(2))
        payload = reader.take(reader.varint("the payload's length", 8, len(data)), "the payload")
        if reader.at != len(reader.data) or len(payload) % 4 or (exponents > MAX_EXPONENT).any():
            raise CorruptFile("a lossy file whose fields do not add up")
        _check_head(head, max_pixels)
        return cls(head, model, exponents.astype(np.int64), kl, bits, np.frombuffer(payload, "<u4").astype(np.uint32))


def _check_head(head: Any, max_pixels: int) -> None:
    if not isinstance(head, dict) or set(head) != {"source", "names", "size", "count"}:
        raise CorruptFile("the head of a lossy file has other fields than expected")
    archive.Source.from_json(head["source"])
    count, size, names = head["count"], head["size"], head["names"]
    whole = (
        all(type(n) is int and n > 0 for n in [count, *size]) if isinstance(size, list) and len(size) == 2 else False
    )
    if not whole:
        raise CorruptFile(f"a lossy file of {str(count)[:20]} images of {str(size)[:40]} pixels")
    container.check_size((count * size[0], size[1]), "the file", max_pixels)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) not in (0, count):
        raise CorruptFile(f"the names are not {count} pieces of text")
    archive.check_names(names, CorruptFile)


Gaussians = tuple[NDArray[np.int64], NDArray[np.int64]]


class _Lattice:
    """Chooses, pushes and pops z value by value; shared by vectors and grids of z."""

    def __init__(self, exponents: NDArray[np.int64]) -> None:
        self.steps = 1 << exponents

    @staticmethod
    def centre(mean: NDArray[np.int64]) -> NDArray[np.int64]:
        """The grid's value nearest to a prior's mean."""
        nearest = (mean + cdf.Z_MEAN_STEPS // 2) // cdf.Z_MEAN_STEPS
        return nearest.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def value(self, symbols: NDArray[np.int64], centre: NDArray[np.int64], channel: int) -> NDArray[np.int64]:
        """Z for symbols of the lattice."""
        return (centre + symbols * self.steps[channel]).clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def intervals(
        self, symbols: NDArray[np.int64], prior: Gaussians, channel: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and freqs of symbols (N,) under prior means and scales (N,)."""
        starts, freqs = np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64)
        mean, scale = prior
        kernels.coarse_intervals(symbols, mean, scale, self.centre(mean), int(self.steps[channel]), starts, freqs)
        return starts, freqs

    def choose(
        self, prior: Gaussians, posterior: Gaussians, channel: int, fidelity: float
    ) -> tuple[NDArray[np.int64], float]:
        """The symbol with the least bits and loss of log q for each value, int64 (N,), and the sum of those losses."""
        centre, step = self.centre(prior[0]), int(self.steps[channel])
        mean = posterior[0] / cdf.Z_MEAN_STEPS
        std = np.exp(cdf.Z_SCALE_LOWEST + posterior[1] / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
        nearest = np.rint((mean - centre) / step).astype(np.int64)
        best, least = np.zeros_like(nearest), np.full(len(nearest), np.inf)
        for candidate in (np.zeros_like(nearest), nearest, nearest - np.sign(nearest)):
            freqs = self.intervals(candidate, prior, channel)[1]
            bits = cdf.PRECISION - np.log2(np.maximum(freqs, 1e-9))
            away = (self.value(candidate, centre, channel) - mean) / std
            loss = bits + fidelity * 0.5 * away**2 / np.log(2.0)
            best = np.where(loss < least, candidate, best)
            least = np.minimum(loss, least)
        return best, float(least.sum())

    def fit(self, prior: Gaussians, posterior: Gaussians, channel: int, fidelity: float) -> None:
        """Take the step for a channel with which `choose` loses least."""
        losses = []
        for exponent in range(MAX_EXPONENT + 1):
            self.steps[channel] = 1 << exponent
            losses.append(self.choose(prior, posterior, channel, fidelity)[1])
        self.steps[channel] = 1 << int(np.argmin(losses))

    @property
    def exponents(self) -> NDArray[np.int64]:
        """Exponents of the steps."""
        return np.rint(np.log2(self.steps)).astype(np.int64)

    def pop(self, message: Message, prior: Gaussians, channel: int) -> NDArray[np.int64]:
        """Pop z (N,)."""
        mean, scale = prior
        symbols, centre = np.empty(len(mean), np.int64), self.centre(mean)
        size = kernels.pop_coarse(
            message.heads, message.words, message.size, symbols, mean, scale, centre, int(self.steps[channel])
        )
        if size < 0:
            raise CorruptFile("the coded z ends too soon")
        message.size = size
        return self.value(symbols, centre, channel)


def _column(pair: Gaussians, channel: int) -> Gaussians:
    """One channel of means and scales."""
    mean, scale = pair
    return np.ascontiguousarray(mean[..., channel]), np.ascontiguousarray(scale[..., channel])


def _push(intervals: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[NDArray[np.uint32], float]:
    """A message of intervals, vector after vector, that pop in this order; and its ideal length in bits."""
    message, bits = Message(1), 0.0
    for starts, freqs in reversed(intervals):
        message.reserve(len(starts))
        message.size = kernels.push_intervals(message.heads, message.words, message.size, starts, freqs)
        bits += float((cdf.PRECISION - np.log2(freqs)).sum())
    return message.flatten(), bits


def _expected_kl(posterior: Gaussians, prior: Callable[[NDArray[np.int64]], Gaussians], seed: int = 0) -> float:
    """KL(q || p) in bits, from one draw of z for each image; ``prior`` maps z to means and scales."""
    mean, scale = posterior
    std = np.exp(cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    z = np.rint(mean / cdf.Z_MEAN_STEPS + std * noise).astype(np.int64)
    z = z.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
    return float((gaussian_bits(z, *prior(z)) - gaussian_bits(z, mean, scale)).sum())


def encode_images(
    images: NDArray[np.uint8], model: Model, source: archive.Source, names: list[str], *, fidelity: float = FIDELITY,
) -> LossyFile:  # fmt: skip
    """The z of binary images (N, S, S) of zeros and ones."""
    coder = model.coder
    assert isinstance(coder, ImageCoder)
    if not coder.config.z_channels:
        raise UnknownModel(f"model {model.name} has no z, so it has no lossy code")
    parts = [coder.networks.posterior(part) for part in np.split(images, range(256, len(images), 256))]
    mean, scale = (np.concatenate(each) for each in zip(*parts, strict=True))
    z, intervals = np.zeros_like(mean), []
    lattice = _Lattice(np.zeros(z.shape[1], np.int64))
    for c in range(z.shape[1]):
        prior, posterior = _column(coder.networks.prior(z), c), _column((mean, scale), c)
        lattice.fit(prior, posterior, c, fidelity)
        symbols, _ = lattice.choose(prior, posterior, c, CLOSENESS * fidelity)
        intervals.append(lattice.intervals(symbols, prior, c))
        z[:, c] = lattice.value(symbols, lattice.centre(prior[0]), c)
    words, bits = _push(intervals)
    size = coder.config.image_size
    head = {"source": source.to_json(), "names": names, "size": [size, size], "count": len(images)}
    kl = max(0.0, _expected_kl((mean, scale), coder.networks.prior))
    return LossyFile(head, model.id, lattice.exponents, kl, bits, words)


def decode_z(file: LossyFile, coder: ImageCoder) -> NDArray[np.int64]:
    """Z of every binary image, (N, z_channels); `CorruptFile` if it is damaged, or of another model's shape."""
    if file.head["size"] != [coder.config.image_size] * 2:
        raise CorruptFile(f"the file holds images of {file.head['size']} pixels, its model codes others")
    if len(file.exponents) != coder.config.z_channels:
        raise CorruptFile(
            f"the file codes {len(file.exponents)} channels of z, its model has {coder.config.z_channels}"
        )
    message, lattice = Message.unflatten(file.words, 1), _Lattice(file.exponents)
    z = np.zeros((file.head["count"], coder.config.z_channels), np.int64)
    for c in range(z.shape[1]):
        # In parts, so that a count that is only claimed takes no memory before the message runs dry.
        for first in range(0, len(z), PART):
            part = z[first : first + PART]
            part[:, c] = lattice.pop(message, _column(coder.networks.prior(part), c), c)
    if not message.empty:
        raise CorruptFile("bits are left over after the last z")
    return z


def random_message(seed: int, words: int) -> Message:
    """A message of random words: what is popped from it is a sample of the distribution that it is popped under."""
    rng = np.random.Generator(np.random.PCG64(seed))
    message = Message(1)
    message.words = rng.integers(0, 1 << 32, words, np.uint32)
    message.size = words
    message.heads[0] = np.uint64(rng.integers(1 << 31, 1 << 63, dtype=np.int64))
    return message


def sample_images(coder: ImageCoder, z: NDArray[np.int64] | None, count: int, seed: int) -> NDArray[np.uint8]:
    """Draw images (N, S, S) of zeros and ones from p(x | z), or from a model without z."""
    size, parts = coder.config.image_size, []
    for first in range(0, count, MAX_BATCH):
        images = np.zeros((min(MAX_BATCH, count - first), size, size), np.uint8)
        features = coder.networks.features(z[first : first + len(images)]) if z is not None else None
        # Almost always far more than enough; if not, more of the same.
        words = images.size // 8 + 64
        while True:
            try:
                coder.pop_pixels(random_message(hash_seed(seed, first), words), images, features)
                break
            except EmptyMessage:
                words *= 2
        parts.append(images)
    return np.concatenate(parts)


def hash_seed(seed: int, first: int) -> int:
    """A seed for the batch that begins with image number ``first``."""
    return (seed << 32) + first


def sample_prior(coder: ImageCoder, count: int, seed: int) -> NDArray[np.int64]:
    """Draw z (N, z_channels) from the prior."""
    z = np.zeros((count, coder.config.z_channels), np.int64)
    message = random_message(hash_seed(seed, (1 << 32) - 1), z.size + 64)
    symbols = np.empty(count, np.int64)
    for c in range(z.shape[1]):
        mean, scale = coder.networks.prior(z)
        message.size = kernels.pop_gaussians(
            message.heads, message.words, message.size, symbols, mean[:, c], scale[:, c], np.zeros(1)
        )
        z[:, c] = symbols + cdf.Z_MIN
    return z


def encode_photograph(image: Image.Image, model: Model, name: str, *, fidelity: float = FIDELITY) -> LossyFile:
    """The z of an RGB or grey photograph."""
    coder = model.photographs
    if image.mode not in ("RGB", "L"):
        raise UnsupportedImage(f"an image of mode {image.mode} has no lossy code, expected RGB or L")
    if not coder.config.z_channels:
        raise UnknownModel(f"model {model.name} has no z, so it has no lossy code")
    mean, scale = coder.parallel.posterior(imaging.to_planes(np.asarray(image))[0])
    # Steps that suit the prior as it is where nothing is known, as the real ones come to light only on the way.
    lattice = _Lattice(np.zeros(coder.config.z_channels, np.int64))
    assert coder.prior is not None
    start = coder.prior(np.zeros((mean.shape[0] * mean.shape[1], coder.prior.weights[0].shape[0]), np.float32))
    flat = mean.reshape(-1, mean.shape[2]), scale.reshape(-1, mean.shape[2])
    for c in range(coder.config.z_channels):
        lattice.fit(_column(start, c), _column(flat, c), c, fidelity)

    def choose(prior: Gaussians, y: Any, x: Any, c: int) -> tuple[NDArray[np.int64], Any]:
        symbols, _ = lattice.choose(prior, (mean[y, x, c], scale[y, x, c]), c, CLOSENESS * fidelity)
        return lattice.value(symbols, lattice.centre(prior[0]), c), lattice.intervals(symbols, prior, c)

    _, intervals = _walk_grid(coder, mean.shape, choose)
    words, bits = _push(intervals)
    drawn = _grid_kl(coder, mean, scale)
    source = archive.Source(mode="L").to_json()
    head = {"source": source, "names": [name], "size": list(image.size), "count": 1}
    return LossyFile(head, model.id, lattice.exponents, max(0.0, drawn), bits, words)


def _walk_grid(coder: Coder, shape: tuple[int, ...], visit: Any) -> tuple[NDArray[np.int64], list[Any]]:
    """Go over a grid of z as the prior does; ``visit`` gives the values of a step and something to collect."""
    assert coder.prior is not None
    reach, (rows, columns, channels) = VLAEConfig.Z_WINDOW, shape
    padded, collected = np.zeros((rows + reach, columns + 2 * reach, channels), np.int64), []
    for y, x in wavefront(rows, columns, reach + 1):
        inputs = coder.prior.inputs(padded, y, x)
        for c in range(channels):
            values, what = visit(_column(coder.prior(inputs), c), y, x, c)
            collected.append(what)
            padded[y + reach, x + reach, c] = inputs[:, c - channels] = values
    return padded[reach:, reach : reach + columns], collected


def _grid_kl(coder: Coder, mean: NDArray[np.int64], scale: NDArray[np.int64]) -> float:
    std = np.exp(cdf.Z_SCALE_LOWEST + scale / cdf.Z_SCALE_STEPS) * cdf.Z_STEPS
    noise = np.random.default_rng(0).standard_normal(mean.shape)
    z = np.rint(mean / cdf.Z_MEAN_STEPS + std * noise).astype(np.int64)
    z = z.clip(cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)

    def visit(prior: Gaussians, y: Any, x: Any, c: int) -> tuple[NDArray[np.int64], float]:
        values = z[y, x, c]
        bits = gaussian_bits(values, *prior) - gaussian_bits(values, mean[y, x, c], scale[y, x, c])
        return values, float(bits.sum())

    return sum(_walk_grid(coder, mean.shape, visit)[1])


def decode_grid(file: LossyFile, coder: Coder) -> NDArray[np.int64]:
    """Z of a photograph, (rows, columns, z_channels); `CorruptFile` if it is damaged, or of another model's shape."""
    width, height = file.head["size"]
    if file.head["count"] != 1:
        raise CorruptFile(f"the file holds {file.head['count']} images, its model codes one photograph at a time")
    channels, patch = coder.config.z_channels, VLAEConfig.Z_PATCH
    if len(file.exponents) != channels:
        raise CorruptFile(f"the file codes {len(file.exponents)} channels of z, its model has {channels}")
    message, lattice = Message.unflatten(file.words, 1), _Lattice(file.exponents)

    def pop(prior: Gaussians, y: Any, x: Any, c: int) -> tuple[NDArray[np.int64], None]:
        return lattice.pop(message, prior, c), None

    z, _ = _walk_grid(coder, (-(-height // patch), -(-width // patch), channels), pop)
    if not message.empty:
        raise CorruptFile("bits are left over after the last z")
    return z


def sample_photograph(file: LossyFile, coder: Coder, seed: int, progress: Progress = no_progress) -> NDArray[np.uint8]:
    """Draw a photograph (H, W, 3) from p(x | z)."""
    width, height = file.head["size"]
    z = decode_grid(file, coder)
    alphabet = Alphabet(np.ones((3, 256), np.bool_))
    # A pop takes at most 24 bits, so a word for each subpixel is always enough.
    return coder.sample(z, (height, width), alphabet, random_message(seed, 3 * width * height + 64), progress)


def find_lossy_model(file: LossyFile, model: Model | None, device: str = "auto") -> Model:
    """The model that made a file; `UnknownModel` if it is not here or ``model`` is another."""
    if model is not None and model.id != file.model_id:
        raise UnknownModel(f"the file was made with model {file.model_id.hex()}, not with {model.name}")
    return model or find_model(file.model_id, device)


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
        The average of the draws instead; binary images become grey, 0..255. With ``samples`` 1, of 16 draws.

    Returns
    -------
    uint8, (samples, N, S, S) of zeros and ones for binary images, (samples, 1, H, W, 3) for a photograph; with ``mean``
    the first dimension is 1.
    """
    model = find_lossy_model(file, model)
    draws = MEAN_SAMPLES if mean and samples == 1 else samples
    coder = model.coder
    drawn: list[NDArray[np.uint8]] = []
    if isinstance(coder, ImageCoder):
        z = decode_z(file, coder)
        for i in range(draws):
            drawn.append(sample_images(coder, z, len(z), seed + i))
            progress(drawn[-1].size)
    else:
        drawn += [sample_photograph(file, coder, seed + i, progress)[None] for i in range(draws)]
    if not mean:
        return np.stack(drawn)
    scale = 255 if isinstance(coder, ImageCoder) else 1
    return np.rint(np.mean(drawn, 0)[None] * scale).astype(np.uint8)
