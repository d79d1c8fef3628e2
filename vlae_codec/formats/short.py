"""Short archives: one segment of an array of binary images, with all else in a few bytes. FORMAT.md specifies them.

They are read as the archives that they stand for.
"""

from __future__ import annotations

import zlib

from vlae_codec.errors import CorruptFile
from vlae_codec.fields import MAGIC, MAX_METADATA, VERSION, Reader, write_varint
from vlae_codec.images.pixels import MAX_SIDE
from vlae_codec.images.sets import Source

from .header import FileKind
from .section_writer import SectionWriter, Tag

#: Flags: the ones were 255, the array was of bool, its last dimension was one, it had a name.
HIGH, BOOL, LAST, NAMED = 1, 2, 4, 8


def shorten(source: Source, chain: bytes) -> bytes:
    """The file of an array of binary images, given the fields that `chains.write_planned` makes of them."""
    count, side = source.shape[:2]
    key = source.key.encode("utf-8", "surrogatepass")
    flags = HIGH * (source.high == 255) + BOOL * (source.dtype == "bool") + LAST * (len(source.shape) == 4)
    out = bytearray(MAGIC) + bytes([VERSION, FileKind.SHORT_ARCHIVE, flags + NAMED * bool(key)])
    if key:
        out += write_varint(len(key)) + key
    out += write_varint(side) + write_varint(count) + chain
    return bytes(out + zlib.crc32(out).to_bytes(4, "little"))


def expand(data: bytes) -> bytes:
    """The archive that a short one stands for; `CorruptFile` if it is damaged."""
    found, stored = zlib.crc32(data[:-4]), int.from_bytes(data[-4:], "little")
    if found != stored:
        raise CorruptFile(f"checksum of the file is {found:08x}, {stored:08x} is stored: damaged, or cut short")
    reader = Reader(data[len(MAGIC) + 2 : -4])
    flags = reader.byte("the flags", 2 * NAMED)
    key = b""
    if flags & NAMED:
        key = reader.take(reader.varint("the length of the array's name", 1, MAX_METADATA), "the array's name")
    side, count = reader.varint("the side", 1, MAX_SIDE), reader.varint("the number of images", 1, MAX_SIDE)
    try:
        source = Source(
            "array", 255 if flags & HIGH else 1, shape=(count, side, side) + (1,) * bool(flags & LAST),
            dtype="bool" if flags & BOOL else "uint8", key=key.decode("utf-8", "surrogatepass"),
        )  # fmt: skip
    except UnicodeDecodeError:
        raise CorruptFile("the array's name is no text") from None
    writer = SectionWriter(source)
    # The first image's number, how many there are, and no names.
    writer.add(Tag.PLANNED, b"\0" + write_varint(count) + b"\0" + reader.data[reader.at :], count)
    return writer.finish()
