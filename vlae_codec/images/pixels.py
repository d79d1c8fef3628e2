"""Pixels: what the coded channels mean, their limits and their checksum, and planes for the model."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.errors import UnsupportedImage

#: Largest image that is read or written unless a caller gives another limit, in pixels.
MAX_PIXELS = 1 << 28
#: Largest width and height that the format holds.
MAX_SIDE = (1 << 31) - 1
#: Rows that are looked at together.
STRIP = 256


class PixelKind(IntEnum):
    """What the coded channels mean."""

    RGB = 0
    #: RGB whose three channels are equal: one is coded.
    GREY_AS_RGB = 1
    #: Pillow's mode L.
    GREY = 2
    #: The same three with an alpha channel, which is coded by itself; `GREY_ALPHA` is Pillow's mode LA.
    RGBA = 3
    GREY_AS_RGBA = 4
    GREY_ALPHA = 5

    @property
    def image_mode(self) -> str:
        """Pillow's mode of the image."""
        return ("RGB", "RGB", "L", "RGBA", "RGBA", "LA")[self]

    @property
    def has_alpha(self) -> bool:
        """Whether an alpha channel is coded by itself."""
        return self >= PixelKind.RGBA


def pixel_digest(mode: str, size: tuple[int, int], parts: Iterable[bytes | memoryview]) -> bytes:
    """The first 8 bytes of BLAKE2b over the Pillow mode, the size and the bytes of the pixels, part by part."""
    state = hashlib.blake2b(f"{mode} {size[0]} {size[1]}\n".encode(), digest_size=8)
    for part in parts:
        state.update(part)
    return state.digest()


def check_size(size: tuple[int, int], name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image without pixels or with too many; `UnsupportedImage` says how to raise the limit."""
    if size[0] * size[1] < 1 or max(size) > MAX_SIDE:
        raise UnsupportedImage(f"{name} has {size[0]} x {size[1]} pixels, expected sides of 1 to {MAX_SIDE}")
    if size[0] * size[1] > max_pixels:
        raise UnsupportedImage(
            f"{name} has {size[0]} x {size[1]} pixels, more than {max_pixels}; --max-pixels raises the limit"
        )


def digest_of(image: Image.Image) -> bytes:
    """`pixel_digest` of an image; a palette counts as part of its pixels."""
    return pixel_digest(image.mode, image.size, itertools.chain([palette_of(image)], strips_of(image)))


def values_of(image: Image.Image) -> NDArray[np.uint8]:
    """What `numpy.asarray` gives of an image of 8 bits per channel, (H, W[, C]), without a second copy on the way."""
    channels = len(image.getbands())
    values = np.empty((image.height, image.width, *([channels] if channels > 1 else [])), np.uint8)
    for top in range(0, image.height, STRIP):
        values[top : top + STRIP] = np.asarray(image.crop((0, top, image.width, min(top + STRIP, image.height))))
    return values


def strips_of(image: Image.Image) -> Iterator[bytes]:
    """The bytes of the pixels, some rows at a time: those of a whole large image would take as much memory again."""
    for top in range(0, image.height, STRIP):
        yield image.crop((0, top, image.width, min(top + STRIP, image.height))).tobytes()


def palette_of(image: Image.Image) -> bytes:
    """The palette's mode, a line end, and its bytes; nothing for images without one."""
    if image.mode not in ("P", "PA") or image.palette is None:
        return b""
    return image.palette.mode.encode() + b"\n" + bytes(image.palette.tobytes())


def to_planes(values: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], PixelKind]:
    """What the VLAE codes of an image's values: uint8 (H, W, 3), and its kind; an alpha channel is not part of it.

    Values are uint8 (H, W) or (H, W, C), of Pillow's modes L, LA, RGB and RGBA.
    """
    channels = values.shape[2] if values.ndim == 3 else 1
    if channels < 3:
        first = values.reshape(*values.shape[:2], channels)[..., :1]
        return np.repeat(first, 3, axis=2), PixelKind.GREY if channels == 1 else PixelKind.GREY_ALPHA
    planes = np.ascontiguousarray(values[..., :3])
    grey = np.array_equal(planes[..., 0], planes[..., 1]) and np.array_equal(planes[..., 0], planes[..., 2])
    if channels == 4:
        return planes, PixelKind.GREY_AS_RGBA if grey else PixelKind.RGBA
    return planes, PixelKind.GREY_AS_RGB if grey else PixelKind.RGB


def from_planes(
    planes: NDArray[np.uint8], kind: PixelKind, alpha: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The inverse of `to_planes`, as `PIL.Image.fromarray` takes it; ``alpha`` is (H, W), for kinds that have one."""
    values = planes[..., 0] if kind in (PixelKind.GREY, PixelKind.GREY_ALPHA) else planes
    return np.ascontiguousarray(values) if alpha is None else np.dstack([values, alpha])
