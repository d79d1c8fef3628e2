"""Where the samples of an uncompressed image lie in its file; all other bytes are kept as they are.

One description serves every format: blocks of samples, each with an offset and strides. So a reader of a format only
says where samples are; nothing can be lost by it, as what it does not name is kept, and what it names comes back to the
same place.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vlae_codec.errors import CorruptFile
from vlae_codec.fields import Reader, write_varint

#: Most channels, and blocks, of an image that is taken apart.
MAX_CHANNELS = 64
MAX_BLOCKS = 1 << 18
#: Absolute limit of every number in a layout: no file is longer.
LIMIT = 1 << 48


@dataclass(frozen=True)
class Block:
    """A rectangle of some channels: its place in the image, and in the file.

    Byte b of the sample in row ``top + i``, column ``left + j``, channel ``first + k`` lies at
    ``offset + i * row + j * pixel + k * channel + b * byte``, b counted from the lowest.
    """

    top: int
    left: int
    first: int
    rows: int
    columns: int
    channels: int
    offset: int
    row: int
    pixel: int
    channel: int
    byte: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels."""
        return self.rows, self.columns, self.channels

    @property
    def place(self) -> tuple[slice, slice, slice]:
        """Where it lies in the samples of the image."""
        return (
            slice(self.top, self.top + self.rows),
            slice(self.left, self.left + self.columns),
            slice(self.first, self.first + self.channels),
        )

    def view(self, file: NDArray, size: int) -> NDArray:
        """Its part of an array over all bytes of the file, (rows, columns, channels, size)."""
        strides = (self.row, self.pixel, self.channel, self.byte)
        return np.ndarray((*self.shape, size), file.dtype, file, self.offset, strides)

    def is_within(self, height: int, width: int, channels: int, size: int, length: int) -> bool:
        """Whether it lies inside the image and inside the file."""
        counts = (self.rows, self.columns, self.channels)
        firsts = (self.top, self.left, self.first)
        inside = all(
            first >= 0 and count >= 1 and first + count <= limit
            for first, count, limit in zip(firsts, counts, (height, width, channels), strict=True)
        )
        reach = [
            (count - 1) * stride
            for count, stride in zip((*counts, size), (self.row, self.pixel, self.channel, self.byte), strict=True)
        ]
        low = self.offset + sum(min(part, 0) for part in reach)
        high = self.offset + sum(max(part, 0) for part in reach)
        return inside and low >= 0 and high < length


@dataclass(frozen=True)
class Layout:
    """All samples of an image: ``size`` bytes each. ``indexed`` where they are places in a palette, not brightness."""

    height: int
    width: int
    channels: int
    size: int
    blocks: tuple[Block, ...]
    indexed: bool = False

    @property
    def total(self) -> int:
        """Bytes of all samples."""
        return self.height * self.width * self.channels * self.size

    def fits(self, length: int) -> bool:
        """Whether the blocks lie in the image and in a file of some length, and have as many samples as the image."""
        shape = (self.height, self.width, self.channels, self.size)
        return (
            min(shape) >= 1
            and self.channels <= MAX_CHANNELS
            and self.size <= 2
            and 1 <= len(self.blocks) <= MAX_BLOCKS
            and all(block.is_within(*shape, length) for block in self.blocks)
            and sum(block.rows * block.columns * block.channels for block in self.blocks) * self.size == self.total
        )

    def take(self, data: bytes) -> tuple[NDArray[np.uint8], bytes] | None:
        """Samples (H, W, C, size), lowest byte first, and all other bytes; None if blocks overlap or do not fit."""
        if not self.fits(len(data)):
            return None
        file = np.frombuffer(data, np.uint8)
        others = np.ones(len(file), np.bool_)
        samples = np.zeros((self.height, self.width, self.channels, self.size), np.uint8)
        for block in self.blocks:
            samples[block.place] = block.view(file, self.size)
            block.view(others, self.size)[...] = False
        if np.count_nonzero(others) != len(file) - self.total:
            return None
        return samples, file[others].tobytes()

    def put(self, samples: NDArray[np.uint8], others: bytes) -> bytes:
        """The inverse of `take`; `CorruptFile` if blocks overlap or do not fit."""
        length = len(others) + self.total
        if not self.fits(length):
            raise CorruptFile("the places of the samples do not fit the file")
        file = np.empty(length, np.uint8)
        free = np.ones(length, np.bool_)
        for block in self.blocks:
            block.view(free, self.size)[...] = False
        if np.count_nonzero(free) != len(others):
            raise CorruptFile("the places of the samples overlap")
        file[free] = np.frombuffer(others, np.uint8)
        del free
        for block in self.blocks:
            block.view(file, self.size)[...] = samples[block.place]
        return file.tobytes()

    def to_bytes(self) -> bytes:
        """All but height and width. Each number of a block is written as its difference from the last block's."""
        out = bytearray(write_varint(self.channels) + write_varint(self.size << 1 | self.indexed))
        out += write_varint(len(self.blocks))
        last = (0,) * len(fields(Block))
        for block in self.blocks:
            numbers = astuple(block)
            for now, before in zip(numbers, last, strict=True):
                # Signs go into the lowest bit.
                out += write_varint((now - before) << 1 if now >= before else ((before - now) << 1) - 1)
            last = numbers
        return bytes(out)

    @classmethod
    def read(cls, reader: Reader, height: int, width: int) -> Layout:
        """The inverse of `to_bytes`, for an inner picture of a size, of which `stacked` tells; `CorruptFile`."""
        channels = reader.varint("the number of channels", 1, MAX_CHANNELS)
        flags = reader.varint("the bytes of a sample", 2, 5)
        count = reader.varint("the number of blocks", 1, MAX_BLOCKS)
        last = (0,) * len(fields(Block))
        blocks = []
        for _ in range(count):
            parts = [reader.varint("a block", 0, LIMIT) for _ in last]
            last = tuple(
                before + (part >> 1 if not part & 1 else -((part + 1) >> 1))
                for before, part in zip(last, parts, strict=True)
            )
            blocks.append(Block(*last))
        # What does not divide is refused where the samples are taken.
        height = height // channels if stacked(channels, flags >> 1) else height
        return cls(height, width, channels, flags >> 1, tuple(blocks), bool(flags & 1))


def stacked(channels: int, size: int) -> bool:
    """Whether the planes of the channels go one above the other, as one channel: no picture has so many, or 16 bits."""
    return channels > 4 or size > 1


def to_values(samples: NDArray[np.uint8]) -> NDArray:
    """Samples (H, W, C, size) as pixels: uint8 (H, W) or (H, W, C), or uint16 (C H, W)."""
    height, width, channels, size = samples.shape
    if not stacked(channels, size):
        return np.ascontiguousarray(samples[..., 0, 0] if channels == 1 else samples[..., 0])
    planes = np.ascontiguousarray(np.moveaxis(samples, 2, 0)).reshape(channels * height, width, size)
    return planes[..., 0] if size == 1 else planes.view("<u2")[..., 0]


def from_values(values: NDArray, channels: int, size: int) -> NDArray[np.uint8]:
    """The inverse of `to_values`; `CorruptFile` if the pixels are of another kind."""
    expected = 1 if stacked(channels, size) else channels
    found = values.shape[2] if values.ndim == 3 else 1
    if found != expected or values.dtype.itemsize != size:
        raise CorruptFile(f"pixels of {found} channels of {values.dtype}, expected {expected} of {size} bytes")
    if not stacked(channels, size):
        return values.reshape(*values.shape[:2], channels, 1)
    rows, width = values.shape
    if rows % channels:
        raise CorruptFile(f"{rows} rows do not hold {channels} planes")
    planes = np.ascontiguousarray(values.astype("<u2" if size == 2 else np.uint8, copy=False))
    return np.moveaxis(planes.view(np.uint8).reshape(channels, rows // channels, width, size), 0, 2)
