"""Image files to Pillow images and planes, and back."""

from __future__ import annotations

import io
import zlib
from enum import IntEnum
from pathlib import PurePath
from typing import Any

from PIL import Image

from vlae_codec.errors import UnsupportedImage, VlaeError
from vlae_codec.fields import MAGIC

from .fallback import jxl_plugin, saved, sizes_checked_here
from .metadata import (
    ANIMATION_CHUNKS,
    DEPTH_CHUNKS,
    PNG_CHUNKS,
    TIFF_COMPRESSIONS,
    encode_options,
    insert_chunks,
    metadata_of_file,
    png_chunks,
    restore_metadata,
)
from .pixels import MAX_PIXELS, check_size, digest_of

#: Formats whose files are written anew when they are restored; others are kept as they are.
RESTORED = ("PNG", "BMP", "DIB", "PPM", "TIFF", "TGA", "WEBP", "GIF", "PCX", "SGI", "QOI")
#: Formats that lose pixels, always or mostly.
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF", "BLP")
#: How files of JPEG XL begin, which Pillow reads by a plugin.
JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
#: Side of the part of an image on which it is tried whether its file can be written anew.
PROBE = 256


class Reason(IntEnum):
    """Why a source file is stored as it is."""

    LOSSY = 0
    SMALLEST = 1
    DEPTH = 2
    FRAMES = 3
    FORMAT = 4
    METADATA = 5

    @property
    def text(self) -> str:
        """For people."""
        return (
            "its format loses pixels, and their exact values would take more bytes than the file",
            "nothing smaller was found",
            "it has more than 8 bits per channel",
            "it has several frames",
            "its format cannot be written anew exactly",
            "a file written anew would not hold all of its metadata",
        )[self]


class NotWhole(UnsupportedImage):
    """Pillow reads only part of what the file holds; ``reason`` says which."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def open_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a still image completely.

    Raises
    ------
    NotWhole
        If Pillow would read one frame of several, or round more than 8 bits per channel to 8.
    UnsupportedImage
        If Pillow cannot read it, or it has more than ``max_pixels``.
    """
    if not data:
        raise UnsupportedImage(f"{name} is empty, expected an image")
    if data.startswith(JXL_STARTS):
        jxl_plugin()
    if data.startswith(MAGIC):
        raise UnsupportedImage(f"{name} is already a .vlae file, expected an image of another format")
    try:
        with sizes_checked_here():
            image = Image.open(io.BytesIO(data))
            check_size(image.size, name, max_pixels)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise NotWhole(f"{name} has {frames} frames, expected one", Reason.FRAMES)
            if image.format == "PNG" and any(chunk in ANIMATION_CHUNKS for chunk, _ in png_chunks(data)):
                raise NotWhole(f"{name} is an animation, expected a still image", Reason.FRAMES)
            if _is_rounded(image):
                message = f"{name} has more than 8 bits per channel, which Pillow would round to 8"
                raise NotWhole(message, Reason.DEPTH)
            image.load()
    except UnsupportedImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnsupportedImage(f"{name} is not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, zlib.error) as error:
        raise UnsupportedImage(f"{name} cannot be read as an image: {error}") from None
    return image


def formats_by_suffix() -> dict[str, str]:
    """Pillow's formats, without the one of `plugins.pillow`: its import shall not change what a folder's images are."""
    return {suffix: fmt for suffix, fmt in Image.registered_extensions().items() if fmt != "VLAE"}


def _is_rounded(image: Image.Image) -> bool:
    """Whether Pillow will read more bits per channel from the file than the image's mode holds."""
    if image.mode.startswith(("I", "F")):
        return False
    tiles = getattr(image, "tile", None) or []
    arguments = [part for tile in tiles for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    # Raw modes such as RGB;16B, and the largest value of a PPM.
    return any(";16" in part if isinstance(part, str) else tiles[0][0] == "ppm" and part > 255 for part in arguments)


def is_lossy(image: Image.Image, data: bytes) -> bool:
    """Whether an image's file holds its pixels with a loss, as far as can be told."""
    if image.format == "WEBP":
        return _has_lossy_webp(data)
    if image.format == "TIFF":
        return "jpeg" in str(image.info.get("compression"))
    return image.format in LOSSY


def _has_lossy_webp(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == b"VP8 ":
            return True
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return False


def reason_to_keep(image: Image.Image, data: bytes, metadata: dict[str, Any]) -> Reason | None:
    """Why an image's file should be kept as it is, whatever its size; None if it can be written anew."""
    if is_lossy(image, data):
        return Reason.LOSSY
    if image.format not in RESTORED:
        return Reason.FORMAT
    if image.format == "TIFF" and image.info.get("compression") not in TIFF_COMPRESSIONS:
        return Reason.FORMAT
    spread = image.format == "PNG" and data[24] in (2, 4) and data[25] == 0
    if spread and any(name in DEPTH_CHUNKS for name, _ in png_chunks(data)):
        # Pillow spreads the values of 2 and 4 bits over 8, which these would no longer fit.
        return Reason.METADATA
    return None if _comes_back(image, metadata) else Reason.METADATA


def _comes_back(image: Image.Image, metadata: dict[str, Any]) -> bool:
    """Whether a file of the image's format gives back its mode, its palette and its metadata."""
    whole = image.mode in ("1", "P", "PA")
    probe = image.copy() if whole else image.crop((0, 0, min(image.width, PROBE), min(image.height, PROBE)))
    digest = digest_of(probe)
    probe.info = {}
    assert image.format is not None
    try:
        restore_metadata(probe, metadata)
        data = encode_file(probe, image.format, metadata)
        again = open_image(data, "the file")
        return digest_of(again) == digest and metadata_of_file(again, data) == metadata
    except VlaeError:
        return False


def format_of(name: str) -> str:
    """Pillow's name of the format that a file name's suffix stands for; empty if there is none."""
    return formats_by_suffix().get(PurePath(name).suffix.lower(), "")


def has_format(name: str, fmt: str | None) -> bool:
    """Whether a file's name tells its format."""
    return bool(fmt) and format_of(name) == fmt


def encode_output(image: Image.Image, suffix: str, metadata: dict[str, Any] | None = None) -> bytes:
    """An image as a file of the format that a suffix names; see `encode_file`."""
    fmt = formats_by_suffix().get(suffix.lower())
    if fmt is None or fmt not in Image.SAVE:
        raise UnsupportedImage(f"no image format for the suffix {suffix!r}; use one such as .png, .webp or .tiff")
    return encode_file(image, fmt, metadata or {})


def encode_file(image: Image.Image, fmt: str, metadata: dict[str, Any]) -> bytes:
    """An image and its metadata as a file of a format, which reads back as the same image.

    Parameters
    ----------
    image : PIL.Image.Image
        Its ``info`` holds what `restore_metadata` puts there.
    fmt : str
        Pillow's name of the format.
    metadata : dict
        What `metadata.metadata_of_file` gave, for what only this format has; may be empty.

    Raises
    ------
    UnsupportedImage
        If the format cannot hold the image exactly.
    """
    with_chunks = fmt == "PNG" and PNG_CHUNKS in metadata
    try:
        options = encode_options(image, fmt, metadata)
        if with_chunks:
            options = {key: value for key, value in options.items() if key == "transparency"}
            # Pillow would write these from the image's info as well.
            options |= {"icc_profile": None, "exif": b""}
        elif fmt == "WEBP":
            options.update(lossless=True, quality=100, method=4, exact=True)
        data = saved(image, fmt, **options)
        if with_chunks:
            data = insert_chunks(data, metadata)
        with sizes_checked_here(), Image.open(io.BytesIO(data)) as again:
            same = again.mode == image.mode and digest_of(again) == digest_of(image)
    except MemoryError:
        raise
    except Exception as error:
        raise UnsupportedImage(f"an image of mode {image.mode} cannot be written as {fmt}: {error}") from None
    if not same:
        raise UnsupportedImage(
            f"{fmt} does not keep an image of mode {image.mode} exactly; use another such as .png or .tiff"
        )
    return data
