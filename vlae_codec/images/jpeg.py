"""JPEG files made smaller without loss by JPEG XL, which keeps their coefficients and all else that the file says.

Needs the package imagecodecs or pillow-jxl-plugin; what one of them has written the other reads.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

from vlae_codec.errors import CorruptFile, UnsupportedImage

from .pixels import MAX_PIXELS

#: What a JPEG file begins with, and a JPEG XL file that a JPEG can be made again of.
JPEG, JXL = b"\xff\xd8\xff", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
#: Width over height of an image whose width is not stated, by the number that stands for it.
RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
#: Bits of a side less one, by the number that stands for them.
SIDE_BITS = (9, 13, 18, 30)


class _Library(NamedTuple):
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


def _imagecodecs() -> _Library:
    # Not by a statement: what the packages' stubs say of these functions is not so.
    imagecodecs = importlib.import_module("imagecodecs")
    return _Library(
        lambda data: bytes(imagecodecs.jpegxl_encode_jpeg(data, usecontainer=True)),
        lambda data: bytes(imagecodecs.jpegxl_decode_jpeg(data)),
    )


def _plugin() -> _Library:
    plugin = importlib.import_module("pillow_jxl")

    def encode(data: bytes) -> bytes:
        # The size and the mode are the JPEG's own; what is given here is not looked at.
        return bytes(
            plugin.Encoder(mode="RGB", lossless=True, effort=9, use_container=True)(data, 1, 1, jpeg_encode=True)
        )

    def decode(data: bytes) -> bytes:
        is_jpeg, _, content, *_ = plugin.Decoder(num_threads=-1)(data)
        if not is_jpeg:
            raise ValueError("it was no JPEG")
        return bytes(content)

    return _Library(encode, decode)


@functools.cache
def _library() -> _Library | None:
    """The first that is here; None if none is."""
    for found in (_imagecodecs, _plugin):
        with contextlib.suppress(ImportError):
            return found()
    return None


def recompress(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """A smaller form of a JPEG file, of which `restore` makes the same bytes; that has been tried.

    None where the data are no JPEG that JPEG XL holds, where it saves nothing, and where neither package is here.
    """
    library = _library()
    if library is None or not data.startswith(JPEG):
        return None
    try:
        packed = library.encode(data)
        return packed if len(packed) < len(data) and restore(packed, max_pixels) == data else None
    except (CorruptFile, UnsupportedImage):
        return None
    except MemoryError:
        raise
    except Exception:
        # Not a JPEG, one of a kind that JPEG XL does not know (arithmetic coding, four channels), or a damaged one.
        return None


def restore(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """The inverse of `recompress`.

    Raises
    ------
    CorruptFile
        If no JPEG can be made of the data, or it would have more than ``max_pixels`` pixels.
    UnsupportedImage
        If neither package is here.
    """
    library = _library()
    if library is None:
        raise UnsupportedImage("the JPEG is coded as JPEG XL: install pillow-jxl-plugin or imagecodecs to restore it")
    width, height = size_of(data)
    if width * height > max_pixels:
        raise CorruptFile(f"the JPEG has {width} x {height} pixels, more than {max_pixels}")
    try:
        return library.decode(data)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        # A panic of the plugin's Rust is no Exception.
        raise CorruptFile(f"no JPEG can be made of the data: {error}") from None


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG XL file states, so that one that claims too much is refused before it is decoded.

    Raises
    ------
    CorruptFile
    """
    bits = _Bits(_codestream(data))
    if bits.take(16) != 0x0AFF:
        raise CorruptFile("no JPEG XL codestream where one should be")
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.take(SIDE_BITS[bits.take(2)]) + 1

    height = side()
    ratio = RATIOS[bits.take(3)]
    return (side() if ratio is None else height * ratio[0] // ratio[1]), height


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream in a file of boxes: box jxlc, or the first box jxlp behind its number."""
    if not data.startswith(JXL):
        raise CorruptFile(f"the data begin with {data[:12].hex(' ')}, expected {JXL.hex(' ')}")
    at = 0
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            begin = at + head + (4 if kind == b"jxlp" else 0)
            return data[begin : begin + 16]
        if length < head:
            break
        at += length
    raise CorruptFile("the JPEG XL file has no codestream")


class _Bits:
    """Reads numbers, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise CorruptFile("the JPEG XL file ends too soon")
        out = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return out
