"""Lossless forms that need no model: WebP, PNG, deflated pixels and, where a plugin is installed, JPEG XL."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.errors import CorruptFile, UnsupportedImage
from vlae_codec.stages import Progress, no_progress

from .pixels import STRIP, digest_of, palette_of, strips_of


class FallbackKind(IntEnum):
    """How a fallback's payload is coded."""

    WEBP = 0
    PNG = 1
    DEFLATE = 2
    JXL = 3


#: Modes that PNG holds exactly.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
#: As what WebP holds the modes that it can serve; a palette's indices go as grey, the palette before them.
WEBP_MODES = {"1": "RGB", "L": "RGB", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
#: The same for JPEG XL.
JXL_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "L", "RGB": "RGB", "RGBA": "RGBA"}
#: WebP's limit of each side.
WEBP_SIDE = 16383
#: Pixels of a large image by which the size of its fallbacks is judged.
SAMPLED_PIXELS = 1 << 22
#: A slow WebP is made if the quick size is below the model's times this. Of 42 pictures, 24 of them photographs,
#: the best WebP was 21 % smaller than the quick one at most, and 15 % where few pixels repeat a neighbour; where the
#: quick size was 1 to 1.2 times the model's, 9 % at most, and never smaller than the model's file.
MARGIN = 1.04
#: The same where many pixels repeat a neighbour: there a slow WebP may be half of a quick one.
MARGIN_DRAWN, MANY_REPEATED = 1.33, 0.5
#: The same for JPEG XL, which takes a tenth of WebP's time: of the 42 pictures two of other kinds were smaller as such,
#: by 14 and 2 %, their quick sizes 1.12 and 1.27 times the model's.
MARGIN_JXL = 1.3
#: A picture in which so many pixels repeat a neighbour, and of so few bits per subpixel, is left to the forms without a
#: model: on seven such pictures, pages of text and diagrams, their files were 0.14 to 0.69 of the model's.
MOST_REPEATED, FEW_BITS = 0.85, 0.3
#: Largest image for which WebP and JPEG XL are made: they take some twenty bytes of memory for each pixel.
SLOW_PIXELS = 1 << 25
#: Pillow's names of the formats.
FORMATS = {FallbackKind.PNG: "PNG", FallbackKind.WEBP: "WEBP", FallbackKind.JXL: "JXL"}


@contextlib.contextmanager
def sizes_checked_here() -> Iterator[None]:
    """Suspend Pillow's limit of 179 megapixels, which is one for the whole process; callers check against their own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@functools.cache
def jxl_plugin() -> bool:
    """Whether Pillow reads and writes JPEG XL here, by pillow-jxl-plugin."""
    try:
        importlib.import_module("pillow_jxl")
    except ImportError:
        return False
    return True


class Look(NamedTuple):
    """What is seen of a picture in a moment, to judge which forms are worth making."""

    #: Bytes of a quick lossless WebP or of quickly deflated pixels.
    size: float
    #: Share of the pixels that equal their left or their upper neighbour.
    repeated: float
    subpixels: int


def look_at(values: NDArray[np.uint8]) -> Look:
    """Look at a picture, uint8 (H, W[, C]); of a large one at a few strips, and what its whole would take."""
    height, width = values.shape[:2]
    step = -(-height * width // SAMPLED_PIXELS)
    rows = min(STRIP, height)
    strips = [values[top : top + rows] for top in range(0, height - rows + 1, rows * step)]
    size = sum(_quick_size(Image.fromarray(strip)) for strip in strips) * height / (rows * len(strips))
    return Look(size, sum(map(_repeated, strips)) / len(strips), values.size)


def worth_trying(look: Look, size: int) -> bool:
    """Whether a slow WebP may be smaller than the model's file of so many bytes."""
    return look.size < (MARGIN_DRAWN if look.repeated >= MANY_REPEATED else MARGIN) * size


def jxl_worth_trying(look: Look, size: int) -> bool:
    """Whether a JPEG XL may be, if it is made here."""
    return look.size < MARGIN_JXL * size and jxl_plugin()


def is_drawn(look: Look) -> bool:
    """Whether a picture is of flat areas and sharp edges, such as a screenshot: no model needs to be asked."""
    return look.repeated >= MOST_REPEATED and 8 * look.size <= FEW_BITS * look.subpixels


def _repeated(values: NDArray[np.uint8]) -> float:
    height, width = values.shape[:2]
    pixels = values.reshape(height, width, -1)
    left = np.zeros((height, width), np.bool_)
    up = np.zeros_like(left)
    left[:, 1:] = (pixels[:, 1:] == pixels[:, :-1]).all(2)
    up[1:] = (pixels[1:] == pixels[:-1]).all(2)
    return float((left | up).mean())


def _quick_size(image: Image.Image) -> int:
    size = len(zlib.compress(image.tobytes(), 1))
    if max(image.size) <= WEBP_SIDE:
        plain = _plain(image, WEBP_MODES[image.mode])
        size = min(size, len(saved(plain, "WEBP", lossless=True, quality=20, method=1, exact=True)))
    return size


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """An image as one of another mode that holds all of it; of a palette image the indices."""
    if image.mode == "P":
        image = Image.frombytes("L", image.size, image.tobytes())
    return image.convert(mode)


def _from_plain(plain: Image.Image, mode: str, palette: bytes) -> Image.Image:
    """The inverse of `_plain`."""
    if mode != "P":
        return plain.convert(mode, dither=Image.Dither.NONE) if mode == "1" else plain.convert(mode)
    image = Image.frombytes("P", plain.size, plain.convert("L").tobytes())
    _put_palette(image, palette)
    return image


def _put_palette(image: Image.Image, palette: bytes) -> None:
    if palette:
        name, _, colours = palette.partition(b"\n")
        image.putpalette(colours, name.decode("ascii"))


def _with_palette(image: Image.Image, data: bytes) -> bytes:
    """Data after the length of the image's palette, and the palette."""
    palette = palette_of(image)
    return len(palette).to_bytes(2, "little") + palette + data


def _split_palette(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    length = int.from_bytes(data[:2], "little")
    return bytes(data[2 : 2 + length]), data[2 + length :]


def smallest_fallback(
    image: Image.Image, progress: Progress = no_progress, quick: bool = False, webp: bool = True
) -> tuple[FallbackKind, bytes]:
    """The image in the smallest of the forms, without metadata; WebP takes most of the time.

    With ``quick`` neither WebP nor JPEG XL is tried, without ``webp`` no WebP.
    """
    bare = image
    if image.info:
        bare = image.copy()
        bare.info = {}
    slow = bare.width * bare.height <= SLOW_PIXELS and not quick
    twentieth = bare.width * bare.height // 20
    choices = [(FallbackKind.DEFLATE, raw(bare))]
    progress(twentieth)
    if bare.mode in PNG_MODES:
        choices.append((FallbackKind.PNG, saved(bare, "PNG", optimize=True)))
    progress(twentieth)
    if slow and webp and bare.mode in WEBP_MODES and max(bare.size) <= WEBP_SIDE:
        plain = _plain(bare, WEBP_MODES[bare.mode])
        data = saved(plain, "WEBP", lossless=True, quality=100, method=6, exact=True)
        choices.append((FallbackKind.WEBP, _with_palette(bare, data) if bare.mode == "P" else data))
    progress(15 * twentieth)
    if slow and bare.mode in JXL_MODES and jxl_plugin():
        data = saved(_plain(bare, JXL_MODES[bare.mode]), "JXL", lossless=True, effort=7)
        choices.append((FallbackKind.JXL, _with_palette(bare, data) if bare.mode == "P" else data))
    digest = digest_of(bare)
    for kind, data in sorted(choices, key=lambda choice: len(choice[1])):
        # Not every build of every library keeps every mode; only what comes back the same is used.
        if digest_of(read_fallback(kind, data, bare.mode, bare.size)) == digest:
            return kind, data
    raise UnsupportedImage(f"no lossless form found for an image of mode {image.mode}")


def read_fallback(kind: FallbackKind, data: bytes | memoryview, mode: str, size: tuple[int, int]) -> Image.Image:
    """The inverse of `smallest_fallback`; `CorruptFile` if the payload is something else."""
    if kind is FallbackKind.JXL and not jxl_plugin():
        raise UnsupportedImage("the pixels are coded as JPEG XL: install pillow-jxl-plugin to read them")
    try:
        if kind is FallbackKind.DEFLATE:
            return _from_raw(data, mode, size)
        palette = b""
        if mode == "P" and kind is not FallbackKind.PNG:
            palette, data = _split_palette(data)
        with sizes_checked_here():
            image: Image.Image = Image.open(io.BytesIO(data), formats=(FORMATS[kind],))
            if image.size != size:
                raise CorruptFile(f"the payload is of {image.size} pixels, expected {size}")
            image.load()
        if image.mode != mode and kind is not FallbackKind.PNG and mode in WEBP_MODES:
            # WebP also drops an alpha channel that is opaque everywhere.
            image = _from_plain(image, mode, palette)
    except (CorruptFile, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged data.
        raise CorruptFile(f"the payload cannot be read: {error}") from None
    if image.mode != mode:
        raise CorruptFile(f"the payload has mode {image.mode}, expected {mode}")
    image.info = {}
    return image


def raw(image: Image.Image) -> bytes:
    """The deflated palette and pixels."""
    deflater = zlib.compressobj(9)
    out = bytearray(deflater.compress(_with_palette(image, b"")))
    for strip in strips_of(image):
        out += deflater.compress(strip)
    return bytes(out + deflater.flush())


def _from_raw(data: bytes | memoryview, mode: str, size: tuple[int, int]) -> Image.Image:
    """The inverse of `raw`, a strip at a time, so that the pixels take memory once.

    The bytes are counted first: a payload that holds fewer or more never takes the memory of the size that it claims.
    """
    row = -(-size[0] // 8) if mode == "1" else len(Image.new(mode, (1, 1)).tobytes()) * size[0]
    counted = _Inflated(data)
    palette = counted.read(int.from_bytes(counted.read(2), "little"))
    for _ in range(size[1]):
        counted.read(row)
    counted.end()
    inflated = _Inflated(data)
    inflated.read(2 + len(palette))
    image = Image.new(mode, size)
    for top in range(0, size[1], STRIP):
        rows = min(STRIP, size[1] - top)
        image.paste(Image.frombytes(mode, (size[0], rows), inflated.read(rows * row)), (0, top))
    _put_palette(image, palette)
    return image


class _Inflated:
    """What a zlib stream holds, read some bytes at a time; the rest takes no memory. `CorruptFile` if it ends early."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.source = io.BytesIO(data)
        self.inflater = zlib.decompressobj()
        self.count = 0

    def read(self, count: int) -> bytes:
        """The next bytes, neither fewer nor more."""
        out = bytearray()
        while len(out) < count:
            left = self.inflater.unconsumed_tail or self.source.read(1 << 16)
            piece = self.inflater.decompress(left, count - len(out))
            if not piece and not left:
                raise CorruptFile(f"the payload ends after {self.count + len(out)} bytes, more were expected")
            out += piece
        self.count += count
        return bytes(out)

    def end(self) -> None:
        """`CorruptFile` unless all has been read."""
        left = self.inflater.unconsumed_tail or self.source.read()
        if self.inflater.decompress(left, 1) or not self.inflater.eof or self.inflater.unused_data:
            raise CorruptFile(f"the payload does not end after {self.count} bytes, as its size says")


def saved(image: Image.Image, fmt: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()
