"""What is dropped on the page: pictures that are read, and photographs beside what z alone tells of them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

from PIL import Image

from vlae_codec.errors import UnsupportedImage
from vlae_codec.formats import lossy
from vlae_codec.images.fallback import saved, sizes_checked_here
from vlae_codec.images.io import open_image
from vlae_codec.registry import Model

#: Bytes of the largest file that the page takes, and pixels of the largest picture.
MAX_BYTES, MAX_PIXELS = 64 << 20, 16_000_000
#: Formats that every browser shows, by Pillow's names.
SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "BMP")


def open_picture(data: bytes, name: str) -> Image.Image:
    """Read an image file; `UnsupportedImage` if it is none, or too large for the page."""
    width = height = 0
    # What else may be wrong with the file is said when it is read.
    with contextlib.suppress(Exception), sizes_checked_here(), Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnsupportedImage(
            f"{name} has {width} x {height} pixels, and this page takes at most {MAX_PIXELS // 10**6} megapixels"
        )
    return open_image(data, name)


def of_size(image: Image.Image, fmt: str, most: int, **options: int) -> bytes:
    """The file of the highest quality that has at most so many bytes; that of the lowest if none has."""

    def encode(quality: int) -> bytes:
        return saved(image, fmt, quality=quality, **options)

    best = encode(0)
    low, high = 0, 101 if len(best) <= most else 1
    while high - low > 1:
        middle = (low + high) // 2
        data = encode(middle)
        if len(data) <= most:
            best, low = data, middle
        else:
            high = middle
    return best


@dataclass(frozen=True)
class Photograph:
    """A photograph's lossy code, what it shows, and another codec's file beside it.

    Attributes
    ----------
    size : tuple of int
        Width and height.
    file : bytes
        What ``vlae-codec lossy --quality N`` makes.
    shown : bytes
        A PNG of what z alone tells.
    webp : bytes
        The best WebP of at most as many bytes, or the smallest there is.
    original : bytes
        A PNG of the photograph if browsers do not show its own file; else empty.
    """

    size: tuple[int, int]
    file: bytes
    shown: bytes
    webp: bytes
    original: bytes


def look_at(data: bytes, name: str, model: Model, quality: int) -> Photograph:
    """A photograph's file as the page shows it; `UnsupportedImage` unless it is an RGB or grey image."""
    image = open_picture(data, name)
    file = lossy.encode_photograph(image, model, name, quality=quality)
    packed = file.to_bytes()
    shown = Image.fromarray(lossy.reconstruct(file, model, mean=True)[0, 0])
    webp = of_size(image, "WEBP", len(packed))
    original = b"" if image.format in SHOWN_BY_BROWSERS else saved(image, "PNG", compress_level=1)
    return Photograph(image.size, packed, saved(shown, "PNG", compress_level=1), webp, original)
