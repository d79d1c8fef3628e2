"""Sets of images: arrays in .npy and .npz files, and image files in folders."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec import files
from vlae_codec.errors import CorruptFile, UnsupportedImage

from .io import encode_output, image_suffixes, open_image
from .metadata import metadata_of
from .pixels import MAX_PIXELS
from .rasters import png


@dataclass(frozen=True)
class Source:
    """What the images were before, so that they come back as they came.

    Attributes
    ----------
    kind : str
        ``files`` or ``array``.
    high : int
        The larger of the two values of a binary image: 1 or 255.
    mode : str
        Pillow's mode: ``1`` or ``L`` of binary files, ``L`` or ``RGB`` of a photograph.
    shape : tuple of int
        Of the whole array, its first dimension the number of images; empty for files.
    dtype : str
        Of the array: ``uint8`` or ``bool``.
    key : str
        The array's name in a .npz file; empty for .npy.
    """

    kind: str = "files"
    high: int = 255
    mode: str = "L"
    shape: tuple[int, ...] = ()
    dtype: str = "uint8"
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**self.__dict__, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Any) -> Source:
        """The inverse of `to_json`; `CorruptFile` on anything else."""
        if (
            isinstance(value, dict)
            and set(value) == set(cls().__dict__)
            and value["kind"] in ("files", "array")
            and value["high"] in (1, 255)
            and value["mode"] in ("1", "L", "RGB")
            and value["dtype"] in ("uint8", "bool")
            and isinstance(value["key"], str)
            and isinstance(value["shape"], list)
            and len(value["shape"]) <= 4
            and all(type(n) is int and 0 < n <= MAX_PIXELS for n in value["shape"])
        ):
            return cls(**{**value, "shape": tuple(value["shape"])})
        raise CorruptFile(f"the archive's head describes its source as {str(value)[:80]!r}")


def flat_images(array: NDArray) -> NDArray[np.uint8]:
    """An array of images as uint8, a last dimension of one dropped; `UnsupportedImage` for other shapes and dtypes."""
    if array.dtype not in (np.uint8, np.bool_) or array.ndim not in (3, 4) or not array.size:
        raise UnsupportedImage(
            f"array of {array.dtype}, shape {array.shape}; expected uint8 or bool, (N, H, W) or (N, H, W, C)"
        )
    images = array.astype(np.uint8)
    return images[..., 0] if array.shape[3:] == (1,) else images


def open_binary(paths: Sequence[tuple[str, Path]], side: int) -> tuple[NDArray[np.uint8], Source]:
    """Image files as zeros and ones (N, S, S), and what they were; `UnsupportedImage` unless all are of one kind."""
    images, mode = [], ""
    for name, path in paths:
        content = files.read_bytes(path)
        image = open_image(content, str(path))
        mode = mode or image.mode
        if image.mode not in ("1", "L") or image.mode != mode:
            raise UnsupportedImage(f"{name} has mode {image.mode}, expected {mode if mode in ('1', 'L') else '1 or L'}")
        kept = metadata_of(image)
        if kept:
            raise UnsupportedImage(f"{name} has metadata ({', '.join(kept)}), which a chain of images does not keep")
        if not _is_bare(content, image, path.suffix):
            raise UnsupportedImage(
                f"{name} is laid out in another way, or holds more than pixels, which a chain of images does not keep"
            )
        pixels = np.asarray(image, np.uint8)
        images.append(pixels)
        if pixels.shape != images[0].shape:
            raise UnsupportedImage(f"{name} has {image.width} x {image.height} pixels, others another size")
    bits, high = to_binary(np.stack(images), side)
    return bits, Source("files", 255 if mode == "1" else high, mode)


def _is_bare(content: bytes, image: Image.Image, suffix: str) -> bool:
    """Whether a file written anew of an image's pixels is this one, or a PNG that is deflated otherwise."""
    anew = encode_output(image, suffix)
    if anew == content:
        return True
    one, two = png.read(content), png.read(anew)
    return one is not None and two is not None and (one.before, one.after) == (two.before, two.after)


def to_binary(images: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], int]:
    """Images of a side as zeros and ones, and the value that one stands for."""
    if images.shape[1:] != (side, side):
        raise UnsupportedImage(f"images of shape {images.shape[1:]}, expected {(side, side)} for this model")
    values = set(np.flatnonzero(np.bincount(images.ravel(), minlength=256)).tolist())
    if not (values <= {0, 1} or values <= {0, 255}):
        some = ", ".join(map(str, sorted(values)[:5]))
        raise UnsupportedImage(f"images with {len(values)} values ({some}, ...), expected 0 and 1, or 0 and 255")
    return (images != 0).astype(np.uint8), 255 if 255 in values else 1


def find_images(sources: Iterable[Path]) -> list[tuple[str, Path]]:
    """Names and paths of the image files that are named, and of all below the folders that are, sorted.

    A file below a folder is named by its path from there, another file by its own name. Files that are no images by
    their suffix are passed over in folders; `UnsupportedImage` if nothing is left.
    """
    found = files.find(sources, image_suffixes(), recursive=True)
    if not found:
        raise UnsupportedImage(f"no images found in {', '.join(map(str, sources))}")
    return found


def load_array(path: Path, key: str = "") -> tuple[NDArray, str]:
    """The array in a .npy file, or the one in a .npz file (that of a name, if it holds several), and its name there.

    Raises
    ------
    UnsupportedImage
    """
    try:
        with files.open_unchanged(path) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, ""
            with loaded:
                if not key and len(loaded.files) == 1:
                    key = loaded.files[0]
                if key not in loaded.files:
                    names = ", ".join(loaded.files)
                    raise UnsupportedImage(f"{path} holds {names}; name one of them with --key")
                return loaded[key], key
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnsupportedImage(f"{path}: not a file of arrays: {error}") from None


def is_array(path: str) -> bool:
    """Whether a path names a file of arrays."""
    return path.lower().endswith((".npy", ".npz"))


def array_bytes(array: NDArray, path: Path, key: str) -> bytes:
    """The bytes of a .npy file, or of a .npz file with the array under its name, as the path's suffix says."""
    buffer = io.BytesIO()
    if path.suffix.lower() == ".npz":
        np.savez_compressed(buffer, allow_pickle=False, **{key or "images": array})
    else:
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
