"""Uncompressed TIFF and BigTIFF files: the first picture, in strips or tiles, chunky or planar."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from .layout import MAX_BLOCKS, MAX_CHANNELS, Block, Layout

#: How files begin: byte order, and whether they are BigTIFF.
STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
#: Whole numbers among the types of a field: BYTE, SHORT, LONG, LONG8.
TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
PALETTE = 3


def read(data: bytes) -> Layout | None:
    """Where the samples of the first picture are; None if this is no such file, or one of other than whole bytes."""
    try:
        tags = _first_directory(data)
        return _layout(tags) if tags else None
    except (struct.error, KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def _first_directory(data: bytes) -> dict[int, list[int]]:
    """The whole numbers of the first directory by their tags; none for another format."""
    order, big = STARTS.get(data[:4], ("", False))
    if not order:
        return {}
    head, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    (at,) = struct.unpack_from(order + head, data, 8 if big else 4)
    (number,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(count)
    room, step = struct.calcsize(head), struct.calcsize(order + entry) + struct.calcsize(head)
    tags: dict[int, list[int]] = {}
    for place in range(at, at + min(number, 4096) * step, step):
        tag, kind, items = struct.unpack_from(order + entry, data, place)
        if kind not in TYPES or items > MAX_BLOCKS:
            continue
        value = place + step - room
        size = items * struct.calcsize(order + TYPES[kind])
        if size > room:
            (value,) = struct.unpack_from(order + head, data, value)
        tags[tag] = np.frombuffer(data, np.dtype(order + TYPES[kind]), items, value).tolist()
    tags[0] = [int(order == "<")]
    return tags


def _layout(tags: dict[int, list[int]]) -> Layout | None:
    width, height = tags[256][0], tags[257][0]
    channels = tags.get(277, [1])[0]
    bits = set(tags.get(258, [1]))
    planar = tags.get(284, [1])[0] == 2
    tiled = 324 in tags
    if tags.get(259, [1])[0] != 1 or bits not in ({8}, {16}) or not 1 <= channels <= MAX_CHANNELS:
        return None
    size = bits.pop() // 8
    tall, wide = (tags[323][0], tags[322][0]) if tiled else (min(tags.get(278, [height])[0], height), width)
    offsets = tags[324 if tiled else 273]
    together = 1 if planar else channels
    across, down = -(-width // wide), -(-height // tall)
    if len(offsets) != across * down * (channels if planar else 1):
        return None
    blocks: list[Block] = []
    low, byte = (0, 1) if tags[0][0] else (size - 1, -1)
    for number, offset in enumerate(offsets):
        plane, place = divmod(number, across * down)
        top, left = place // across * tall, place % across * wide
        rows, columns = min(tall, height - top), min(wide, width - left)
        pixel = together * size
        block = Block(
            top, left, plane if planar else 0, rows, columns, together, offset + low, wide * pixel, pixel, size, byte
        )
        if blocks and not tiled and _follows(blocks[-1], block):
            blocks[-1] = replace(blocks[-1], rows=blocks[-1].rows + rows)
        else:
            blocks.append(block)
    return Layout(height, width, channels, size, tuple(blocks), tags.get(262, [1])[0] == PALETTE)


def _follows(before: Block, block: Block) -> bool:
    """Whether a strip goes on where the last one ends."""
    return (
        block.first == before.first
        and block.top == before.top + before.rows
        and block.offset == before.offset + before.rows * before.row
    )
