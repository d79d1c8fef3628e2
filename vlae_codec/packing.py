"""Bytes that are no pixels, made smaller: what remains of an image file beside its samples, and files stored whole."""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_codec.errors import CorruptFile

#: What small recipes begin with in mind: the ends and common chunks of PNG files, and headers of BMP files.
DICTIONARY = (
    b"BM\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x00\x00\x00\x00\x01\x00\x18\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x04pHYs\x00\x00\x0b\x13\x00\x00\x0b\x13\x01\x00\x9a\x9c\x18\x00\x00\x00\x09pHYs\x00\x00\x0e\xc4"
    b"\x00\x00\x0e\xc4\x01\x95\x2b\x0e\x1b\x00\x00\x00\x01sRGB\x00\xae\xce\x1c\xe9\x00\x00\x00\x04gAMA\x00\x00\xb1"
    b"\x8f\x0b\xfca\x05\x00\x00\x00\x0dIHDR\x00\x00\x00\x00\x00\x00\x00\x08\x06\x00\x00\x00\x08\x02\x00\x00\x00"
    b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
)
#: Bytes of the dictionary of LZMA2: those that a decoder keeps in mind.
LZMA_DICTIONARY = 1 << 23
#: Most bytes that one packed byte may stand for: what claims more takes neither memory nor time.
MOST = 4096
#: Distances over which differences are tried: bytes of a sample, of a pixel.
DISTANCES = (1, 2, 3, 4, 6, 8)
#: Pieces by which it is judged what makes some bytes smaller, and their size.
PIECES, PIECE = 8, 1 << 16
#: Deflated pieces above this share of themselves are not worth packing: JPEG, and what is packed already.
WORTH = 0.98


class Method(IntEnum):
    """How bytes are packed: the first byte. From `DELTA` on it says the distance of the differences."""

    AS_IT_IS = 0
    DEFLATE = 1
    LZMA = 2
    DELTA = 3


def pack(data: bytes) -> bytes:
    """Bytes as `unpack` takes them: one more than they are, or fewer."""
    # Here and below, as what only explains a file need not load it.
    import lzma

    choices = [bytes([Method.AS_IT_IS]) + data]
    if len(data) <= PIECE:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        choices.append(bytes([Method.DEFLATE]) + deflater.compress(data) + deflater.flush())
    distance = _best_distance(data)
    if distance is not None:
        method = Method.DELTA + distance if distance else Method.LZMA
        choices.append(bytes([method]) + lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(method)))
    return min((choice for choice in choices if len(data) <= MOST * len(choice)), key=len)


def unpack(data: bytes, size: int, what: str) -> bytes:
    """The ``size`` bytes that `pack` was given; `CorruptFile` if they are others than so many."""
    import lzma

    if not data or size > MOST * len(data):
        raise CorruptFile(f"{what} takes {len(data)} bytes, which cannot hold {size}")
    method, body = data[0], data[1:]
    try:
        if method == Method.AS_IT_IS:
            out, ended = body, True
        elif method == Method.DEFLATE:
            inflater = zlib.decompressobj(-15, DICTIONARY)
            out = inflater.decompress(body, size + 1)
            ended = inflater.eof and not inflater.unused_data
        else:
            reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(method))
            out = reader.decompress(body, size + 1)
            # The end may lie behind the last byte.
            ended = reader.eof or (len(out) == size and not reader.decompress(b"", 1) and reader.eof)
            ended = ended and not reader.unused_data
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise CorruptFile(f"{what} cannot be read: {error}") from None
    if len(out) != size or not ended:
        raise CorruptFile(f"{what} does not hold {size} bytes, as it claims")
    return out


def _filters(method: int) -> list[dict[str, Any]]:
    import lzma

    delta = [{"id": lzma.FILTER_DELTA, "dist": method - Method.DELTA}] if method > Method.DELTA else []
    if method == Method.DELTA:
        raise CorruptFile("packed as differences over a distance of 0, expected 1 or more")
    return [*delta, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": LZMA_DICTIONARY}]


def _best_distance(data: bytes) -> int | None:
    """The distance over which differences pack best, 0 for none; None where packing is not worth it."""
    step = max(len(data) // PIECES, PIECE)
    values = [np.frombuffer(data[at : at + PIECE], np.uint8) for at in range(0, len(data), step)]
    sizes = {0: _deflated(values)}
    for distance in DISTANCES:
        # Differences win by a little more than nothing, as what stands behind sees repeats less well.
        sizes[distance] = _deflated([piece[distance:] - piece[:-distance] for piece in values]) + 64
    best = min(sizes, key=lambda distance: sizes[distance])
    whole = len(data) <= PIECE or sizes[best] < WORTH * sum(len(piece) for piece in values)
    return best if whole else None


def _deflated(pieces: list[NDArray[np.uint8]]) -> int:
    return sum(len(zlib.compress(piece.tobytes(), 1)) for piece in pieces)
