"""Fields of files: integers, bytes, JSON and names, written and read with every check."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from vlae_codec.errors import CorruptFile, UnsupportedImage

#: A byte that is no text, the name, and line ends that a transfer as text would change.
MAGIC = b"\x89VLAE\r\n\x1a"
VERSION = 1
#: Largest metadata block after inflation, in bytes.
MAX_METADATA = 1 << 24


def write_varint(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Takes fields off the front of some bytes; `CorruptFile` where there are too few."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        """So many bytes."""
        return bytes(self.view(count, what))

    def view(self, count: int, what: str) -> bytes | memoryview:
        """The same without a copy, where the data are a view."""
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise CorruptFile(f"file ends inside {what}: {len(part)} bytes found, {count} expected")
        self.at += count
        return part

    def byte(self, what: str, count: int) -> int:
        """One byte below ``count``."""
        value = self.take(1, what)[0]
        if value >= count:
            raise CorruptFile(f"{what} is {value}, expected below {count}")
        return value

    def varint(self, what: str, low: int, high: int) -> int:
        """A varint within low..high, in its shortest form."""
        value = shift = 0
        while True:
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise CorruptFile(f"{what} is too long a number")
        if not low <= value <= high or (byte == 0 and shift):
            raise CorruptFile(f"{what} is {value}, expected {low}..{high}")
        return value


def inflate_json(data: bytes, what: str) -> Any:
    """What a zlib stream of JSON holds, `MAX_METADATA` bytes at most; `CorruptFile` if it cannot be read."""
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, MAX_METADATA)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("longer than it may be, or cut short")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise CorruptFile(f"{what} cannot be read: {error}") from None


def check_names(names: Sequence[str], error: type[Exception] = UnsupportedImage) -> None:
    """Refuse names that are not unique relative paths, or that could leave the folder they are restored into."""
    seen = set()
    for name in names:
        parts = name.split("/")
        bad = not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts)
        if bad or "\\" in name or ":" in name or any(ord(c) < 32 for c in name) or len(name) > 4096:
            raise error(f"{name[:80]!r} cannot be the name of an image: expected a relative path such as a/b.png")
        try:
            # Bytes of a file's name that are no text are halves of surrogate pairs, of which only those are let pass.
            name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise error(f"{name[:80]!r} cannot be the name of an image: it is no text in UTF-8") from None
        if name in seen:
            raise error(f"two images are named {name!r}, expected each name once")
        seen.add(name)
