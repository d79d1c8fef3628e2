"""Image files to Pillow images and planes, and back."""

from __future__ import annotations

import contextlib
import io
import zlib
from enum import IntEnum
from pathlib import PurePath

from PIL import Image

from vlae_codec.errors import UnsupportedImage
from vlae_codec.fields import MAGIC

from .fallback import jxl_plugin, saved, sizes_checked_here
from .metadata import encode_options
from .pixels import MAX_PIXELS, check_size, digest_of

#: Formats whose files are written anew when they are restored; others are kept as they are.
RESTORED = ("PNG", "BMP", "DIB", "PPM", "TIFF", "TGA", "WEBP", "GIF", "PCX", "SGI", "QOI")
#: Formats that lose pixels, always or mostly.
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF", "BLP")
#: Suffixes of the raw files of cameras.
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
#: How files of JPEG XL begin, which Pillow reads by a plugin.
JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")


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
            "it cannot be made again exactly from its pixels",
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
            if image.format == "PNG" and _is_animated(data):
                raise NotWhole(f"{name} is an animation, expected a still image", Reason.FRAMES)
            if _is_rounded(image) or (image.format == "SGI" and data[3] == 2):
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


def image_suffixes() -> set[str]:
    """Those of files that are images: Pillow's formats, and raw files of cameras, which are kept whole."""
    return {*formats_by_suffix(), *RAW}


def _is_animated(data: bytes) -> bool:
    """Whether a PNG file is an animation, whose later frames Pillow need not count."""
    from .rasters import png

    return any(chunk == b"acTL" for chunk, _, _ in png.chunks(data))


def _is_rounded(image: Image.Image) -> bool:
    """Whether Pillow will read more bits per channel from the file than the image's mode holds."""
    if image.mode.startswith(("I", "F")):
        return False
    tiles = getattr(image, "tile", None) or []
    arguments = [part for tile in tiles for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    # Raw modes such as RGB;16B, and the largest value of a PPM.
    return any(
        ";16" in part if isinstance(part, str) else tiles[0][0].startswith("ppm") and part > 255 for part in arguments
    )


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


def reason_to_keep(data: bytes, name: str, max_pixels: int) -> Reason:
    """Why a file that is not made again of its pixels is kept whole; raises as `open_image` does if it is no image.

    A file that begins as a TIFF, or has a suffix of `RAW`, is kept whatever Pillow thinks of it.
    """
    try:
        image = open_image(data, name, max_pixels)
    except NotWhole as error:
        return error.reason
    except UnsupportedImage:
        from .rasters.tiff import STARTS

        if data.startswith(tuple(STARTS)) or name.lower().endswith(RAW):
            return Reason.FORMAT
        raise
    return Reason.LOSSY if is_lossy(image, data) else Reason.FORMAT


def format_of(name: str) -> str:
    """Pillow's name of the format that a file name's suffix stands for; empty if there is none."""
    return formats_by_suffix().get(PurePath(name).suffix.lower(), "")


def has_format(name: str, fmt: str | None) -> bool:
    """Whether a file's name tells its format."""
    return bool(fmt) and format_of(name) == fmt


def encode_output(image: Image.Image, suffix: str) -> bytes:
    """An image as a file of the format that a suffix names; see `encode_file`."""
    fmt = formats_by_suffix().get(suffix.lower())
    if fmt is None or fmt not in Image.SAVE:
        raise UnsupportedImage(f"no image format for the suffix {suffix!r}; use one such as .png, .webp or .tiff")
    return encode_file(image, fmt)


def encode_file(image: Image.Image, fmt: str) -> bytes:
    """An image and its metadata as a file of a format, which reads back as the same image.

    Parameters
    ----------
    image : PIL.Image.Image
        Its ``info`` holds what `restore_metadata` puts there.
    fmt : str
        Pillow's name of the format.

    Raises
    ------
    UnsupportedImage
        If the format cannot hold the image exactly.
    """
    data = _kept_by(image, fmt)
    if data is None:
        others = [f".{other.lower()}" for other in ("PNG", "TIFF") if other != fmt and _is_kept_by(image, other)]
        advice = f"; use {' or '.join(others)}" if others else ""
        raise UnsupportedImage(f"{fmt} does not keep an image of mode {image.mode} exactly{advice}")
    return data


def _turned(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _is_kept_by(image: Image.Image, fmt: str) -> bool:
    with contextlib.suppress(UnsupportedImage):
        return _kept_by(image, fmt) is not None
    return False


def _kept_by(image: Image.Image, fmt: str) -> bytes | None:
    """An image as a file of a format; None if it does not read back as the same."""
    try:
        options = encode_options(image, fmt)
        if fmt == "WEBP":
            options.update(lossless=True, quality=100, method=4, exact=True)
        data = saved(image, fmt, **options)
        with sizes_checked_here(), Image.open(io.BytesIO(data)) as again:
            # A TIFF's palette cannot be read before its pixels are.
            again.load()
            # Of a TIFF, and of no other, Pillow turns the pixels as the orientation says.
            seen = _turned(image) if fmt == "TIFF" else image
            same = again.mode == image.mode and digest_of(again) == digest_of(seen)
    except MemoryError:
        raise
    except Exception as error:
        raise UnsupportedImage(f"an image of mode {image.mode} cannot be written as {fmt}: {error}") from None
    return data if same else None
