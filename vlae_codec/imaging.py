"""Pillow images to planes and metadata, to the lossless fallbacks, and back."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .container import MAX_PIXELS, FallbackKind, PixelKind, check_size, pixel_digest
from .errors import CorruptFile, UnsupportedImage

#: Entries of ``Image.info`` that are kept, and what they are made of: a PNG may hold text under any of these names.
KEPT: dict[str, tuple[type, ...]] = {
    "icc_profile": (bytes,),
    "exif": (bytes,),
    "xmp": (bytes,),
    "dpi": (tuple,),
    "gamma": (float, int),
    "srgb": (int,),
    "chromaticity": (tuple,),
    "transparency": (bytes, int, tuple),
    "comment": (bytes, str),
}
#: Modes that PNG and WebP hold exactly.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
WEBP_MODES = ("RGB", "RGBA")
#: WebP's limit of each side.
WEBP_SIDE = 16383


@contextmanager
def _sizes_checked_here() -> Iterator[None]:
    """Suspend Pillow's limit of 179 megapixels, which is one for the whole process: `check_size` has a caller's own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def open_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a still image completely.

    Raises
    ------
    UnsupportedImage
        For what Pillow cannot read, or would round or cut, and for more than ``max_pixels``.
    """
    if not data:
        raise UnsupportedImage(f"{name} is empty, expected an image")
    try:
        with _sizes_checked_here():
            image = Image.open(io.BytesIO(data))
            check_size(image.size, name, max_pixels)
            if getattr(image, "n_frames", 1) > 1:
                raise UnsupportedImage(f"{name} has {image.n_frames} frames, expected one")  # type: ignore[attr-defined]
            if _is_rounded(image):
                raise UnsupportedImage(f"{name} has more than 8 bits per channel, which Pillow would round to 8")
            image.load()
    except UnsupportedImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnsupportedImage(f"{name} is not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, zlib.error) as error:
        raise UnsupportedImage(f"{name} cannot be read as an image: {error}") from None
    return image


def _is_rounded(image: Image.Image) -> bool:
    """Whether Pillow will read more bits per channel from the file than the image's mode holds."""
    if image.mode.startswith(("I", "F")):
        return False
    tiles = getattr(image, "tile", None) or []
    arguments = [part for tile in tiles for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    # Raw modes such as RGB;16B, and the largest value of a PPM.
    return any(";16" in part if isinstance(part, str) else tiles[0][0] == "ppm" and part > 255 for part in arguments)


def to_planes(image: Image.Image) -> tuple[NDArray[np.uint8], PixelKind] | None:
    """What the VLAE codes of an image: uint8 (H, W, 3) and its kind; None for modes that only the fallback takes."""
    if image.mode == "L":
        grey = np.asarray(image)
        return np.repeat(grey[..., None], 3, axis=2), PixelKind.GREY
    if image.mode != "RGB":
        return None
    planes = np.ascontiguousarray(np.asarray(image))
    if (planes[..., :1] == planes[..., 1:]).all():
        return planes, PixelKind.GREY_AS_RGB
    return planes, PixelKind.RGB


def from_planes(planes: NDArray[np.uint8], kind: PixelKind) -> Image.Image:
    """The inverse of `to_planes`."""
    return Image.fromarray(planes[..., 0] if kind is PixelKind.GREY else planes)


def digest_of(image: Image.Image) -> bytes:
    """`pixel_digest` of an image; a palette counts as part of its pixels."""
    return pixel_digest(image.mode, image.size, _palette_of(image) + image.tobytes())


def _palette_of(image: Image.Image) -> bytes:
    """The palette's mode, a line end, and its bytes; nothing for images without one."""
    if image.mode not in ("P", "PA") or image.palette is None:
        return b""
    return image.palette.mode.encode() + b"\n" + bytes(image.palette.tobytes())


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """The kept entries of ``Image.info``, and PNG text, as values that JSON holds."""
    encoded = {key: _to_json(image.info[key]) for key, kinds in KEPT.items() if isinstance(image.info.get(key), kinds)}
    text = {key: str(value) for key, value in getattr(image, "text", {}).items() if key not in KEPT}
    if text:
        encoded["text"] = text
    return encoded


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return [v if isinstance(v, int) else float(v) for v in value]
    return value


def restore_metadata(image: Image.Image, metadata: dict[str, Any]) -> None:
    """Put `metadata_of` back into ``Image.info``; `CorruptFile` if it is not of that form."""
    try:
        for key, value in metadata.items():
            if key == "text":
                image.info.update({str(k): str(v) for k, v in value.items()})
            elif key in KEPT:
                if isinstance(value, dict):
                    value = base64.b64decode(value["bytes"], validate=True)
                value = tuple(value) if isinstance(value, list) else value
                if not isinstance(value, KEPT[key]):
                    raise ValueError(f"{key} is {value!r}")
                image.info[key] = value
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CorruptFile(f"the metadata cannot be restored: {error}") from None


def webp_size(image: Image.Image) -> int | None:
    """Bytes of a quick lossless WebP, to judge whether a slow one is worth making; None if WebP cannot hold it."""
    if image.mode not in WEBP_MODES or max(image.size) > WEBP_SIDE:
        return None
    return len(_saved(image, "WEBP", lossless=True, quality=20, method=1, exact=True))


def smallest_fallback(image: Image.Image) -> tuple[FallbackKind, bytes]:
    """The image as the smallest of lossless WebP, PNG and deflated raw bytes, without metadata."""
    bare = image.copy()
    bare.info = {}
    choices = [(FallbackKind.DEFLATE, _raw(bare))]
    if bare.mode in PNG_MODES:
        choices.append((FallbackKind.PNG, _saved(bare, "PNG", optimize=True)))
    if bare.mode in WEBP_MODES and max(bare.size) <= WEBP_SIDE:
        choices.append((FallbackKind.WEBP, _saved(bare, "WEBP", lossless=True, quality=100, method=6, exact=True)))
    digest = digest_of(bare)
    for kind, data in sorted(choices, key=lambda choice: len(choice[1])):
        # Not every build of every library keeps every mode; only what comes back the same is used.
        if digest_of(read_fallback(kind, data, bare.mode, bare.size)) == digest:
            return kind, data
    raise UnsupportedImage(f"no lossless form found for an image of mode {image.mode}")


def read_fallback(kind: FallbackKind, data: bytes, mode: str, size: tuple[int, int]) -> Image.Image:
    """The inverse of `smallest_fallback`; `CorruptFile` if the payload is something else."""
    try:
        if kind is FallbackKind.DEFLATE:
            return _from_raw(data, mode, size)
        formats = ("PNG",) if kind is FallbackKind.PNG else ("WEBP",)
        with _sizes_checked_here():
            image: Image.Image = Image.open(io.BytesIO(data), formats=formats)
            if image.size != size:
                raise CorruptFile(f"the payload is of {image.size} pixels, expected {size}")
            image.load()
        if image.mode != mode and kind is FallbackKind.WEBP and mode in WEBP_MODES:
            # WebP drops an alpha channel that is opaque everywhere.
            image = image.convert(mode)
    except (CorruptFile, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged data.
        raise CorruptFile(f"the payload cannot be read: {error}") from None
    if image.mode != mode:
        raise CorruptFile(f"the payload has mode {image.mode}, expected {mode}")
    image.info = {}
    return image


def _raw(image: Image.Image) -> bytes:
    palette = _palette_of(image)
    body = len(palette).to_bytes(2, "little") + palette + image.tobytes()
    return zlib.compress(body, 9)


def _from_raw(data: bytes, mode: str, size: tuple[int, int]) -> Image.Image:
    image = Image.new(mode, (1, 1))
    expected = len(image.tobytes()) * size[0] * size[1] if mode != "1" else -(-size[0] // 8) * size[1]
    inflater = zlib.decompressobj()
    body = inflater.decompress(data, expected + 2 + 2048)
    length = int.from_bytes(body[:2], "little")
    palette, pixels = body[2 : 2 + length], body[2 + length :]
    if not inflater.eof or inflater.unused_data or len(pixels) != expected:
        raise CorruptFile(f"the payload holds {len(pixels)} bytes of pixels, expected {expected}")
    image = Image.frombytes(mode, size, pixels)
    if palette:
        name, _, colours = palette.partition(b"\n")
        image.putpalette(colours, name.decode("ascii"))
    return image


def _saved(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def encode_output(image: Image.Image, suffix: str) -> bytes:
    """The image and its metadata as a file of the format that a suffix names; refused unless it reads back the same."""
    fmt = Image.registered_extensions().get(suffix.lower())
    if fmt is None or fmt not in Image.SAVE:
        raise UnsupportedImage(f"no image format for the suffix {suffix!r}; use one such as .png, .webp or .tiff")
    options: dict[str, Any] = {}
    for key in ("icc_profile", "exif", "dpi", "transparency", "comment", "xmp"):
        if key in image.info:
            options[key] = image.info[key]
    try:
        if fmt == "PNG":
            options["pnginfo"] = _png_chunks(image)
            options.pop("xmp", None)
        elif fmt == "WEBP":
            options.update(lossless=True, quality=100, method=4, exact=True)
        data = _saved(image, fmt, **options)
        with _sizes_checked_here(), Image.open(io.BytesIO(data)) as again:
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


def _png_chunks(image: Image.Image) -> Any:
    """What Pillow does not write into a PNG by itself: text, XMP and gamma."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    reserved = {*KEPT, "text"}
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str) and key not in reserved:
            chunks.add_itxt(key, value) if not value.isascii() else chunks.add_text(key, value)
    if isinstance(image.info.get("xmp"), bytes):
        chunks.add_itxt("XML:com.adobe.xmp", image.info["xmp"].decode("utf-8", "replace"))
    if isinstance(image.info.get("gamma"), (int, float)):
        chunks.add(b"gAMA", round(image.info["gamma"] * 100000).to_bytes(4, "big"))
    if isinstance(image.info.get("srgb"), int):
        chunks.add(b"sRGB", bytes([image.info["srgb"] & 3]))
    return chunks
