"""Training pictures: crops of photographs, changed in the ways that users' photographs differ from clean ones.

Clean crops alone make a model that loses on pictures with gaps in the histogram, decoded from JPEG, upscaled or noisy,
so some crops are rescaled, noised, recompressed, stretched, made grey, or have their channels exchanged.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from vlae_codec.models.likelihood import BEYOND

from vlae_codec.errors import UnsupportedImage

#: What Pillow can open without a plugin and what a folder of photographs holds.
SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm"}


@dataclass
class Crops:
    """Crops and the edges of the bins that hold their values.

    ``x``: (B, 3, H, W) uint8. ``low``, ``high``: (B, 3, H, W) float32, `BEYOND` at the ends of the values that
    occur. ``channels``: (B,) how many channels are coded: 1 for grey crops, else 3.
    """

    x: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    channels: torch.Tensor


def find_pictures(folders: list[Path]) -> list[Path]:
    """All pictures below the folders, sorted; `UnsupportedImage` where there are none."""
    found = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        names = ", ".join(str(folder) for folder in folders)
        raise UnsupportedImage(f"no pictures found in {names}; expected files such as .png, .webp or .jpg")
    return found


def load_pictures(folders: list[Path], smallest: int) -> list[np.ndarray]:
    """Read all RGB pictures of at least ``smallest`` pixels a side, as arrays (H, W, 3) uint8."""
    pictures = []
    for path in find_pictures(folders):
        with Image.open(path) as image:
            if image.mode == "RGB" and min(image.size) >= smallest:
                pictures.append(np.asarray(image))
    if not pictures:
        raise UnsupportedImage(f"no RGB picture has {smallest} pixels a side or more, as training crops need")
    return pictures


def bin_edges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of each value's bin: midway between neighbouring values that occur, `BEYOND` at the ends.

    Parameters
    ----------
    values : array of uint8
        The values that occur, sorted and distinct.

    Returns
    -------
    Two float32 arrays of 256; only the entries of the given values mean anything.
    """
    low = np.full(256, -BEYOND, np.float32)
    high = np.full(256, BEYOND, np.float32)
    middle = (values[1:].astype(np.float32) + values[:-1]) / 2
    low[values[1:]] = middle
    high[values[:-1]] = middle
    return low, high


class CropStream(IterableDataset[Crops]):
    """Batches of random crops; batch number i is the same for the same seed, wherever the stream begins.

    ``share`` are the numbers of the crops of each batch that are made. ``changed`` multiplies the shares of crops that
    are changed in any way but flips.
    """

    def __init__(
        self, pictures: list[np.ndarray], crop: int, share: range, seed: int, first: int, last: int,
        changed: float = 1.0,
    ) -> None:  # fmt: skip
        self.pictures = pictures
        self.crop = crop
        self.share = share
        self.seed = seed
        self.first = first
        self.last = last
        self.changed = changed

    def __iter__(self) -> Iterator[Crops]:
        for index in range(self.first, self.last):
            generators = [np.random.default_rng([self.seed, index, i]) for i in self.share]
            crops, lows, highs, channels = zip(*(self._sample(rng) for rng in generators), strict=True)
            yield Crops(
                torch.from_numpy(np.stack(crops)),
                torch.from_numpy(np.stack(lows)),
                torch.from_numpy(np.stack(highs)),
                torch.tensor(channels),
            )

    def _sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        crop = self._cut(rng)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.transpose(1, 0, 2)
        if rng.random() < 0.1 * self.changed:
            crop = crop[..., rng.permutation(3)]
        kind = rng.random() / self.changed if self.changed else 1.0
        channels = 3
        if kind < 0.10:
            crop = recompress(crop, int(rng.integers(60, 99)))
        elif kind < 0.18:
            sigma = 4.0 * rng.random() ** 2 + 0.3
            noise = rng.normal(0.0, sigma, crop.shape)
            crop = np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)
        values = [np.arange(256)] * 3
        if 0.18 < kind < 0.28:
            crop, values = stretch(crop, rng)
        elif 0.28 < kind < 0.33:
            crop = np.repeat(luma(crop)[..., None], 3, axis=2)
            channels = 1
        x = np.ascontiguousarray(crop.transpose(2, 0, 1))
        low, high = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
        for c in range(3):
            edges_low, edges_high = bin_edges(values[c])
            low[c], high[c] = edges_low[x[c]], edges_high[x[c]]
        return x, low, high, channels

    def _cut(self, rng: np.random.Generator) -> np.ndarray:
        """A crop at its own resolution, or rescaled by a factor between 0.5 and 2."""
        picture = self.pictures[rng.integers(len(self.pictures))]
        height, width = picture.shape[:2]
        factor = float(2.0 ** rng.uniform(-1.0, 1.0)) if rng.random() < 0.3 * self.changed else 1.0
        size = min(int(np.ceil(self.crop / factor)), height, width)
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        part = picture[top : top + size, left : left + size]
        if size == self.crop:
            return part
        filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
        image = Image.fromarray(part).resize((self.crop, self.crop), filters[rng.integers(len(filters))])
        return np.asarray(image)


def recompress(crop: np.ndarray, quality: int) -> np.ndarray:
    """What remains of the crop after a JPEG of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(crop)).save(buffer, "JPEG", quality=quality, subsampling=0)
    with Image.open(buffer) as image:
        return np.asarray(image)


def stretch(crop: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Stretch the contrast by a curve, which leaves gaps in the histogram; also the values that can occur."""
    out = np.empty_like(crop)
    values = []
    gain, gamma = rng.uniform(1.05, 2.2), float(np.exp(rng.normal(0.0, 0.2)))
    low = rng.uniform(0.0, 1.0 - 1.0 / gain)
    for c in range(3):
        level = np.clip((np.arange(256) / 255.0 - low) * gain, 0.0, 1.0) ** gamma
        table = np.rint(level * 255.0).astype(np.uint8)
        out[..., c] = table[crop[..., c]]
        values.append(np.unique(table))
    return out, values


def luma(crop: np.ndarray) -> np.ndarray:
    """Rec. 601 luma, rounded, (H, W) uint8."""
    return np.rint(crop @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def crop_loader(stream: CropStream) -> Iterator[Crops]:
    """The stream's batches, made in a process beside the training."""
    return iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4, worker_init_fn=_bear_interrupts))


def _bear_interrupts(worker: int) -> None:
    """Ctrl-C goes to all processes; this one ends with its parent, which finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
