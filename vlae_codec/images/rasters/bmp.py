"""Uncompressed Windows bitmaps."""

from __future__ import annotations

import struct

from .layout import Block, Layout

#: Values of biCompression whose pixels are whole bytes: BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS.
PLAIN = (0, 3, 6)


def read(data: bytes) -> Layout | None:
    """Where the samples are; None if this is no uncompressed bitmap of whole bytes."""
    if len(data) < 30 or data[:2] != b"BM":
        return None
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header >= 40 and len(data) >= 54:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        return None
    if bits not in (8, 16, 24, 32) or compression not in PLAIN or width < 1:
        return None
    step, rows = (width * bits + 31) // 32 * 4, abs(height)
    first, down = (offset, step) if height < 0 else (offset + step * (rows - 1), -step)
    if bits == 16:
        return Layout(rows, width, 1, 2, (Block(0, 0, 0, rows, width, 1, first, down, 2, 2, 1),))
    if bits == 8:
        return Layout(rows, width, 1, 1, (Block(0, 0, 0, rows, width, 1, first, down, 1, 1, 1),), indexed=True)
    colour = Block(0, 0, 0, rows, width, 3, first + 2, down, bits // 8, -1, 1)
    if bits == 24:
        return Layout(rows, width, 3, 1, (colour,))
    return Layout(rows, width, 4, 1, (colour, Block(0, 0, 3, rows, width, 1, first + 3, down, 4, 1, 1)))
