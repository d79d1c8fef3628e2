"""The sections of an archive, written one after another. FORMAT.md is the specification."""

from __future__ import annotations

import json
import zlib
from enum import IntEnum

from vlae_codec.fields import MAGIC, VERSION, write_varint
from vlae_codec.images.sets import Source

from .header import FileKind

#: What ends an archive, after the offset of its index.
END = b"VLAE-END"


class Tag(IntEnum):
    """What a section of an archive holds."""

    HEAD = 1
    MODEL = 2
    CHAIN = 3
    SINGLE = 4
    INDEX = 5
    ATTRIBUTES = 6
    #: A chain whose batches follow from a plan.
    PLANNED = 7


#: Sections of many binary images.
CHAINS = (Tag.CHAIN, Tag.PLANNED)


def _section(tag: Tag, body: bytes) -> bytes:
    return bytes([tag]) + write_varint(len(body)) + zlib.crc32(bytes([tag]) + body).to_bytes(4, "little") + body


class SectionWriter:
    """Collects sections; `finish` gives the bytes of the archive.

    Parameters
    ----------
    source : Source
        What the images were: the first section.

    Attributes
    ----------
    index : list
        Tag, offset and number of images of each section so far.
    """

    def __init__(self, source: Source) -> None:
        self.out = bytearray(MAGIC) + bytes([VERSION, FileKind.ARCHIVE])
        self.index: list[tuple[Tag, int, int]] = []
        self.add(Tag.HEAD, zlib.compress(json.dumps(source.to_json(), sort_keys=True).encode(), 9), 0)

    def add(self, tag: Tag, body: bytes, count: int) -> None:
        """A section with so many images."""
        self.index.append((tag, len(self.out), count))
        self.out += _section(tag, body)

    def finish(self) -> bytes:
        """The archive, its index and end added."""
        offset = len(self.out)
        body = bytearray(write_varint(len(self.index)))
        last = 0
        for tag, at, count in self.index:
            body += bytes([tag]) + write_varint(at - last) + write_varint(count)
            last = at
        self.out += _section(Tag.INDEX, bytes(body))
        place = offset.to_bytes(8, "little")
        return bytes(self.out) + place + zlib.crc32(place).to_bytes(4, "little") + END
