"""An archive as a dataset for training.

>>> from torch.utils.data import DataLoader
>>> dataset = ImageDataset("digits.vlae")  # doctest: +SKIP
>>> loader = DataLoader(dataset, batch_size=64, sampler=SegmentSampler(dataset))  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Sampler

from vlae_codec.formats.archive import KEPT_SEGMENTS, Archive


class ImageDataset(Dataset[Any]):
    """The images of an archive, decoded as they are asked for; works with the workers of a `DataLoader`.

    A segment decodes as a whole, and those that were used last are kept, so a set of ``kept`` segments is decoded once
    in each process, in whatever order it is read. Read a larger one in order, or by a `SegmentSampler`. Each process
    opens the file for itself. Workers should be started by ``spawn``, as the compiled loops' threads do not
    survive a fork.

    Parameters
    ----------
    path : path of the archive
    transform : function, optional
        Applied to each image: an array for archives of arrays, a PIL image for archives of files. Without it images
        come as arrays (H, W[, C]), as `as_array` makes them.
    device : str
        Where the networks run.
    kept : int
        Decoded segments that each process keeps; a pixel takes a byte.
    """

    def __init__(
        self, path: str | os.PathLike[str], transform: Callable[[Any], Any] | None = None, device: str = "auto",
        kept: int = KEPT_SEGMENTS,
    ) -> None:  # fmt: skip
        self.path = path
        self.transform = transform
        self.device = device
        self.kept = kept
        with Archive.open(path) as archive:
            #: Numbers of the images that decode together.
            self.segments = [range(s.first, s.first + s.count) for s in archive.segments]
        self._opened: tuple[int, Archive] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def __getitem__(self, index: int | str) -> Any:
        """The image of a number or a name; raises as `Archive.__getitem__` does."""
        # A forked worker must not move the file's place under its parent's feet.
        if self._opened is None or self._opened[0] != os.getpid():
            archive = Archive.open(self.path, device=self.device)
            archive.kept = self.kept
            self._opened = os.getpid(), archive
        image = self._opened[1][index]
        return self.transform(image) if self.transform else as_array(image)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


class SegmentSampler(Sampler[int]):
    """Every image once in an order drawn anew for each epoch, in which few segments are in use at a time.

    Segments come in random order, and the images of as many of them as the dataset keeps are shuffled together, so each
    segment is decoded once an epoch, in each process that reads it.

    Parameters
    ----------
    dataset : ImageDataset
    seed : int
        Of all epochs' orders; the same seed gives the same orders.
    """

    def __init__(self, dataset: ImageDataset, seed: int = 0) -> None:
        self.dataset = dataset
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        segments = self.dataset.segments
        order = self.rng.permutation(len(segments))
        for first in range(0, len(order), self.dataset.kept):
            together = [i for number in order[first : first + self.dataset.kept] for i in segments[number]]
            yield from self.rng.permutation(together).tolist()


def as_array(image: Image.Image | NDArray) -> NDArray:
    """An image as an array (H, W[, C]) that may be written to, palettes resolved into RGB, or RGBA if they need it."""
    if isinstance(image, Image.Image) and image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.array(image)
