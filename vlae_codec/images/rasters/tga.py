"""Uncompressed Truevision files. They have no magic, so every field is checked."""

from __future__ import annotations

import struct

from .layout import Block, Layout

#: Uncompressed kinds, and the depths that each may have.
DEPTHS = {1: (8,), 2: (16, 24, 32), 3: (8, 16)}
#: Most bytes after the pixels that a file without the footer may have.
TRAILER = 1 << 16
FOOTER = b"TRUEVISION-XFILE.\0"


def read(data: bytes) -> Layout | None:
    """Where the samples are; None if this is no uncompressed file of whole bytes."""
    if len(data) < 18:
        return None
    identity, mapped, kind, _, colours, entry, _, _, width, height, depth, descriptor = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    if mapped > 1 or depth not in DEPTHS.get(kind, ()) or not width or not height or descriptor >> 6:
        return None
    if mapped and entry not in (15, 16, 24, 32):
        return None
    start = 18 + identity + (colours * (-(-entry // 8)) if mapped else 0)
    step = width * depth // 8
    if len(data) - start - step * height > TRAILER and not data.endswith(FOOTER):
        return None
    from_top, from_left = bool(descriptor & 32), not descriptor & 16
    first, down = (start, step) if from_top else (start + step * (height - 1), -step)
    pixel = depth // 8
    if not from_left:
        first, pixel = first + step - pixel, -pixel
    if depth == 8:
        return Layout(height, width, 1, 1, (Block(0, 0, 0, height, width, 1, first, down, pixel, 1, 1),), kind == 1)
    if depth == 16 and kind == 3:
        return Layout(height, width, 2, 1, (Block(0, 0, 0, height, width, 2, first, down, pixel, 1, 1),))
    if depth == 16:
        return Layout(height, width, 1, 2, (Block(0, 0, 0, height, width, 1, first, down, pixel, 2, 1),))
    colour = Block(0, 0, 0, height, width, 3, first + 2, down, pixel, -1, 1)
    if depth == 24:
        return Layout(height, width, 3, 1, (colour,))
    return Layout(height, width, 4, 1, (colour, Block(0, 0, 3, height, width, 1, first + 3, down, pixel, 1, 1)))
