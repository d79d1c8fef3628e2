"""Uncompressed files of Silicon Graphics (.rgb, .rgba, .bw, .sgi)."""

from __future__ import annotations

import struct

from .layout import Block, Layout

#: Bytes before the first plane.
START = 512


def read(data: bytes) -> Layout | None:
    """Where the samples are; None if this is no uncompressed file."""
    if len(data) < START or data[:2] != b"\x01\xda":
        return None
    storage, size, dimension, width, height, channels = struct.unpack_from(">BBHHHH", data, 2)
    if storage or size not in (1, 2) or not 1 <= dimension <= 3:
        return None
    height, channels = height if dimension > 1 else 1, channels if dimension > 2 else 1
    step = width * size
    # From the bottom up, plane after plane, the higher byte first.
    first = START + step * (height - 1) + size - 1
    block = Block(0, 0, 0, height, width, channels, first, -step, size, step * height, -1)
    return Layout(height, width, channels, size, (block,))
