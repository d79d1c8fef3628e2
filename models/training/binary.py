"""Training sets of small binary images: packed arrays, grey ones that are binarised anew each time, or a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.errors import UnsupportedImage

from .data import find_pictures


def binarise(grey: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw each pixel as Bernoulli(v / 255); the same shape, zeros and ones."""
    return (rng.random(grey.shape, np.float32) * 255.0 < grey).astype(np.uint8)


def load_binary(path: Path, size: int, split: str = "train") -> NDArray[np.uint8]:
    """Images of a training set.

    Parameters
    ----------
    path : Path
        A .npz file with an array named ``split``: uint8 (N, S, S), or (N, S * S / 8) as `numpy.packbits` packs rows; a
        .npy file of uint8 (N, S, S); or a folder of pictures of S x S pixels.
    size : int
        S, the side of the images.
    split : str
        ``train`` or ``valid``; for .npz files only.

    Returns
    -------
    Array of uint8, shape (N, S, S): of zeros and ones, or of 0..255 where some values lie between: grey images, to be
    binarised by `binarise`.

    Raises
    ------
    UnsupportedImage
        If the file has another content.
    """
    array = _load_folder(path, size) if path.is_dir() else _load_array(path, split)
    if array.dtype == np.uint8 and array.ndim == 2 and array.shape[1] == -(-size * size // 8):
        array = np.unpackbits(array, axis=1)[:, : size * size].reshape(-1, size, size)
    if array.dtype != np.uint8 or array.shape[1:] != (size, size) or not len(array):
        raise UnsupportedImage(
            f"{path}: array of {array.dtype}, shape {array.shape}; expected uint8 (N, {size}, {size})"
        )
    values = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    if set(values.tolist()) <= {0, 255}:
        array = array // 255
    return array


def _load_array(path: Path, split: str) -> NDArray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if split not in loaded.files:
                raise UnsupportedImage(f"{path} holds {', '.join(loaded.files)}; expected an array named {split}")
            return loaded[split]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnsupportedImage(f"{path}: not a file of arrays: {error}") from None


def _load_folder(path: Path, size: int) -> NDArray[np.uint8]:
    pictures = []
    for file in find_pictures([path]):
        with Image.open(file) as image:
            if image.size != (size, size):
                raise UnsupportedImage(f"{file} has {image.width} x {image.height} pixels, expected {size} x {size}")
            pictures.append(np.asarray(image.convert("L")))
    return np.stack(pictures)


def binary_batches(
    images: NDArray[np.uint8], batch: int, seed: int, first: int, last: int, share: slice = slice(None)
) -> Iterator[torch.Tensor]:
    """Batches ``first`` to ``last - 1``, (B, 1, S, S) float32: each epoch in an order of its own.

    Batch number i is the same for the same seed, wherever the stream begins; of each, the images in ``share`` are
    given. Grey images are binarised as they are drawn, so anew in each epoch.
    """
    grey = int(images.max()) > 1
    each = max(1, len(images) // batch)
    epoch, order = -1, np.empty(0, np.int64)
    for index in range(first, last):
        if index // each != epoch:
            epoch = index // each
            order = np.random.default_rng([seed, epoch]).permutation(len(images))
        part = images[order[index % each * batch : (index % each + 1) * batch]]
        if grey:
            part = binarise(part, np.random.default_rng([seed, epoch, index]))
        yield torch.from_numpy(part[share])[:, None].float()
