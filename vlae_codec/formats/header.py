"""The .vlae file: what is written, and every check on what is read. FORMAT.md is its specification."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_codec.errors import CorruptFile, NotAVlaeFile, UnsupportedImage, UnsupportedVersion
from vlae_codec.fields import MAGIC, MAX_METADATA, VERSION, Reader, write_varint
from vlae_codec.images.fallback import FallbackKind
from vlae_codec.images.io import Reason
from vlae_codec.images.jpeg import recompress, restore
from vlae_codec.images.orientation import ORIENTATIONS, TRANSPOSED
from vlae_codec.images.pixels import MAX_PIXELS, MAX_SIDE, PixelKind, check_size
from vlae_codec.images.rasters import Form
from vlae_codec.models.config import VLAEConfig
from vlae_codec.packing import pack, unpack
from vlae_codec.stages import Stage, StageKind

#: Longest name of a source file, in bytes of UTF-8.
MAX_NAME = 255
#: What stands for the kind of an alpha channel that has one value.
CONSTANT = 255
#: What stands before a stored JPEG file that is kept as JPEG XL; no method of `packing`.
JPEG_XL = 255
#: Largest number of lanes that this version writes or reads.
MAX_LANES = 256


class FileKind(IntEnum):
    """What a file holds, and how."""

    VLAE = 0
    FALLBACK = 1
    #: Many images, see `vlae_codec.formats.archive`.
    ARCHIVE = 2
    #: z only, see `vlae_codec.formats.lossy`.
    LOSSY = 3
    #: The source file as it is.
    STORED = 4
    #: An archive of one segment, see `vlae_codec.formats.short`.
    SHORT_ARCHIVE = 5

    @property
    def text(self) -> str:
        """In words."""
        return self.name.lower().replace("_", " ")


#: Most subpixels that a byte of a VLAE's payload may stand for, besides a few for all: the time that decoding takes is
#: bounded by the file's size. Deflated pixels, which are the alternative, hold hardly more.
SUBPIXELS, FEW_SUBPIXELS = 1 << 10, 1 << 18
#: Added to the kind of files that make a source file again: their pixels come with a recipe, or the file is packed.
SOURCE = 16
#: Added to the pixel kind where the decoder's heads learn from the pixels, see `vlae_codec.coding.adapt`.
ADAPTS = 16
#: Added to the pixel kind where there are several messages, and most of them.
SEVERAL, MAX_MESSAGES = 32, 64
#: Added to the pixel kind where the picture is coded turned or mirrored, see `vlae_codec.images.orientation`.
TURNED = 64
#: Most bytes of a recipe.
MAX_RECIPE = 1 << 30


@dataclass(frozen=True)
class SourceFile:
    """What a header holds of the file that the pixels were: its form, its name and all else that it held."""

    form: Form
    name: str
    recipe: bytes = field(repr=False)


@dataclass
class Header:
    """All of a .vlae file but its payload.

    ``digest`` is `pixel_digest` of the image, or with a ``source`` that of what comes back. ``costs`` are the ideal
    code lengths of z under the prior, of z under the posterior, and of the pixels, each rounded to whole bits.
    """

    file_kind: FileKind
    width: int
    height: int
    digest: bytes
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Where the pixels are those of a file that is made again.
    source: SourceFile | None = None
    # Of kind VLAE:
    model_id: bytes = bytes(8)
    pixel_kind: PixelKind = PixelKind.RGB
    adapts: bool = False
    #: Which way round the picture is coded, and the stages lie.
    orientation: int = 0
    lanes: int = 1
    #: Words of each message but the last, where there are several.
    lengths: list[int] = field(default_factory=list)
    occurring: NDArray[np.bool_] | None = None
    stages: list[Stage] = field(default_factory=list)
    costs: tuple[int, int, int] = (0, 0, 0)
    #: The coded alpha channel, of the pixel kinds that have one: a byte of its `FallbackKind` and its form, or
    #: `CONSTANT` and the value.
    alpha: bytes = b""
    # Of kind FALLBACK:
    fallback_kind: FallbackKind = FallbackKind.DEFLATE
    pillow_mode: str = "RGB"

    @property
    def channels(self) -> int:
        """Channels that the VLAE codes."""
        return 3 if self.pixel_kind in (PixelKind.RGB, PixelKind.RGBA) else 1

    def is_bounded(self, payload: int) -> bool:
        """Whether a payload of so many bytes may hold the subpixels; channels of one value need no bits."""
        assert self.occurring is not None
        unknown = int((self.occurring.sum(axis=1) > 1).sum())
        return unknown * self.width * self.height <= FEW_SUBPIXELS + SUBPIXELS * payload


def kind_of(data: bytes) -> FileKind:
    """The kind of a file from its first bytes; the errors of `read` if it has none."""
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 2 or data[len(MAGIC)] != VERSION:
        read(data)
    return _split_kind(Reader(data[len(MAGIC) + 1 : len(MAGIC) + 2]))[0]


def _split_kind(reader: Reader) -> tuple[FileKind, bool]:
    """The kind, and whether a source file is made again."""
    value = reader.byte("the kind", SOURCE + len(FileKind))
    kind = value % SOURCE
    if kind >= len(FileKind) or (value >= SOURCE and kind not in (FileKind.VLAE, FileKind.FALLBACK, FileKind.STORED)):
        raise CorruptFile(f"the kind of file is {value}, which is none")
    return FileKind(kind), value >= SOURCE


def write(header: Header, payload: bytes) -> bytes:
    """The bytes of a .vlae file."""
    out = bytearray(MAGIC)
    out.append(VERSION)
    out.append(header.file_kind + (SOURCE if header.source else 0))
    out += write_varint(header.width) + write_varint(header.height)
    out += header.digest
    metadata = b""
    if header.metadata:
        text = json.dumps(header.metadata, sort_keys=True, separators=(",", ":")).encode()
        if len(text) > MAX_METADATA:
            raise UnsupportedImage(f"image with {len(text)} bytes of metadata, at most {MAX_METADATA} are supported")
        metadata = zlib.compress(text, 9)
    out += write_varint(len(metadata)) + metadata
    if header.source:
        name, recipe = header.source.name.encode("utf-8", "surrogateescape"), pack(header.source.recipe)
        out.append(header.source.form)
        out += write_varint(len(name)) + name
        out += write_varint(len(header.source.recipe)) + write_varint(len(recipe)) + recipe
    if header.file_kind is FileKind.VLAE:
        assert header.occurring is not None
        out += header.model_id
        flags = ((header.adapts, ADAPTS), (header.lengths, SEVERAL), (header.orientation, TURNED))
        out.append(header.pixel_kind + sum(flag for given, flag in flags if given))
        if header.orientation:
            out.append(header.orientation)
        out += write_varint(header.lanes)
        if header.lengths:
            out += write_varint(len(header.lengths) + 1) + b"".join(map(write_varint, header.lengths))
        for row in header.occurring:
            # A mask only where values are missing; otherwise one zero.
            out.append(0 if row.all() else 1)
            if not row.all():
                out += np.packbits(row, bitorder="little").tobytes()
        out += write_varint(len(header.stages))
        for stage in header.stages:
            patches = -(-stage.count // VLAEConfig.Z_PATCH)
            out += write_varint(patches << 2 | stage.kind)
        for cost in header.costs:
            out += write_varint(cost)
        if header.pixel_kind.has_alpha:
            out += write_varint(len(header.alpha)) + header.alpha
    else:
        out.append(header.fallback_kind)
        name = header.pillow_mode.encode("ascii")
        out += write_varint(len(name)) + name
    out += write_varint(len(payload)) + payload
    out += zlib.crc32(out).to_bytes(4, "little")
    return bytes(out)


def write_stored(reason: Reason, name: str, content: bytes) -> bytes:
    """The bytes of a .vlae file that holds a source file as it is, packed where that is smaller."""
    packed, smaller = pack(content), recompress(content)
    if smaller is not None and len(smaller) < len(packed):
        packed = bytes([JPEG_XL]) + smaller
    small = len(packed) < len(content)
    out = bytearray(MAGIC) + bytes([VERSION, FileKind.STORED + (SOURCE if small else 0), reason])
    encoded = name.encode("utf-8", "surrogateescape")
    out += write_varint(len(encoded)) + encoded
    out += hashlib.blake2b(content, digest_size=8).digest()
    out += write_varint(len(content)) + (packed if small else content)
    out += zlib.crc32(out).to_bytes(4, "little")
    return bytes(out)


def read_stored(data: bytes) -> tuple[Reason, str, bytes]:
    """The inverse of `write_stored`; raises as `read` does, and as `jpeg.restore` where the file is a JPEG."""
    kind, reader, packed = _checked(data)
    if kind is not FileKind.STORED:
        raise CorruptFile(f"the file is of kind {int(kind)} ({kind.text}), expected a stored file")
    reason = Reason(reader.byte("the reason", len(Reason)))
    name = _read_name(reader)
    digest = reader.take(8, "the checksum of the content")
    length = reader.varint("the content's length", 0, 1 << 48)
    content = bytes(reader.data[reader.at :])
    if packed and content[:1] == bytes([JPEG_XL]):
        content = restore(content[1:])
    elif packed:
        content = unpack(content, length, "the content")
    if len(content) != length:
        raise CorruptFile(f"{len(content)} bytes of content, expected {length}")
    found = hashlib.blake2b(content, digest_size=8).digest()
    if found != digest:
        raise CorruptFile(f"checksum of the stored file is {found.hex()}, {digest.hex()} is stored")
    return reason, name, content


def _read_name(reader: Reader) -> str:
    """The name of a source file; empty for none."""
    raw = reader.take(reader.varint("the name's length", 0, MAX_NAME), "the name")
    name = raw.decode("utf-8", "surrogateescape")
    if name and not is_file_name(name):
        raise CorruptFile(f"{name[:80]!r} cannot be the name of a file")
    return name


def is_file_name(name: str) -> bool:
    """Whether text can be the name of a file in any folder: no folder, no control characters, not too long.

    Bytes that are no text count as themselves; Python has them as halves of surrogate pairs.
    """
    try:
        length = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and not any(c in "/\\:" or ord(c) < 32 for c in name) and length <= MAX_NAME


def read(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, bytes | memoryview]:
    """Header and payload, a view of the data, of a .vlae file that holds one image, with every field checked.

    Raises
    ------
    NotAVlaeFile, UnsupportedVersion, CorruptFile
    UnsupportedImage
        If the image has more than ``max_pixels``.
    """
    kind, reader, remade = _checked(data)
    if kind not in (FileKind.VLAE, FileKind.FALLBACK):
        raise CorruptFile(f"the file is of kind {int(kind)} ({kind.text}), expected a single image")
    body = reader.data
    width, height = reader.varint("the width", 1, MAX_SIDE), reader.varint("the height", 1, MAX_SIDE)
    check_size((width, height), "the file", max_pixels)
    digest = reader.take(8, "the checksum of the pixels")
    metadata = _read_metadata(reader.take(reader.varint("the metadata's length", 0, MAX_METADATA), "the metadata"))
    header = Header(kind, width, height, digest, metadata)
    if remade:
        form = Form(reader.byte("the form", len(Form)))
        name, size = _read_name(reader), reader.varint("the recipe's length", 0, MAX_RECIPE)
        recipe = reader.take(reader.varint("the packed recipe's length", 1, len(body)), "the recipe")
        header.source = SourceFile(form, name, unpack(recipe, size, "the recipe"))
    if kind is FileKind.VLAE:
        header.model_id = reader.take(8, "the model id")
        value = reader.byte("the pixel kind", TURNED + SEVERAL + ADAPTS + len(PixelKind))
        if value % ADAPTS >= len(PixelKind):
            raise CorruptFile(f"the pixel kind is {value}, which is none")
        header.pixel_kind, header.adapts = PixelKind(value % ADAPTS), bool(value & ADAPTS)
        if value & TURNED:
            header.orientation = reader.byte("the orientation", ORIENTATIONS)
            if not header.orientation:
                raise CorruptFile("the orientation is 0, which is not stored")
        header.lanes = reader.varint("the number of lanes", 1, MAX_LANES)
        if value & SEVERAL:
            count = reader.varint("the number of messages", 2, MAX_MESSAGES)
            header.lengths = [reader.varint("a message's words", 2, len(body)) for _ in range(count - 1)]
        header.occurring = np.stack([_read_mask(reader) for _ in range(header.channels)])
        header.stages = _read_stages(reader, width if header.orientation & TRANSPOSED else height)
        if header.lengths and any(stage.kind is not StageKind.WITHOUT_Z for stage in header.stages):
            raise CorruptFile(f"z in {len(header.lengths) + 1} messages, expected one")
        low, posterior, pixels = (reader.varint("a code length", 0, (1 << 56) - 1) for _ in range(3))
        header.costs = (low, posterior, pixels)
        if header.pixel_kind.has_alpha:
            header.alpha = reader.take(reader.varint("the alpha channel's length", 2, len(body)), "the alpha channel")
    else:
        header.fallback_kind = FallbackKind(reader.byte("the fallback", len(FallbackKind)))
        mode_name = reader.take(reader.varint("the mode's length", 1, 16), "the mode's name")
        header.pillow_mode = mode_name.decode("ascii", "replace")
    payload = reader.view(reader.varint("the payload's length", 0, len(body)), "the payload")
    if reader.at != len(body):
        raise CorruptFile(f"{len(body) - reader.at} bytes after the payload, expected none")
    if kind is FileKind.VLAE and not header.is_bounded(len(payload)):
        raise CorruptFile(f"{width} x {height} pixels in a payload of {len(payload)} bytes, which holds too few")
    return header, payload


def _checked(data: bytes) -> tuple[FileKind, Reader, bool]:
    """The kind of a file whose checksum is right, a reader of what follows it, and whether `SOURCE` is added to it."""
    if not data:
        raise NotAVlaeFile("the file is empty, expected a .vlae file")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise NotAVlaeFile(f"the file begins with {data[:8].hex(' ')}, expected {MAGIC.hex(' ')}: not a .vlae file")
    reader = Reader(data)
    reader.take(len(MAGIC), "the magic")
    version = reader.take(1, "the version")[0]
    if version != VERSION:
        raise UnsupportedVersion(f"the file has format version {version}, this release reads version {VERSION}")
    # A view, as files may be large.
    body, stored = memoryview(data)[:-4], int.from_bytes(data[-4:], "little")
    if len(data) < len(MAGIC) + 5 or zlib.crc32(body) != stored:
        raise CorruptFile(
            f"checksum of the file is {zlib.crc32(body):08x}, {stored:08x} is stored: damaged, cut short or lengthened"
        )
    reader.data = body
    kind, remade = _split_kind(reader)
    return kind, reader, remade


def _read_metadata(data: bytes) -> dict[str, Any]:
    if not data:
        return {}
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, MAX_METADATA)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("longer than it may be, or cut short")
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
        # JSON can hold halves of surrogate pairs, which are no text and could not be printed or written.
        # Those that stand for bytes of a file's name are let pass.
        json.dumps(metadata, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (zlib.error, ValueError, RecursionError) as error:
        raise CorruptFile(f"the metadata cannot be read: {error}") from None
    return metadata


def _read_mask(reader: Reader) -> NDArray[np.bool_]:
    if reader.byte("a mask's flag", 2) == 0:
        return np.ones(256, np.bool_)
    packed = np.frombuffer(reader.take(32, "a mask of values"), np.uint8)
    mask = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    if not mask.any() or mask.all():
        raise CorruptFile(f"a mask of values has {mask.sum()} of 256, expected 1..255")
    return mask


def _read_stages(reader: Reader, height: int) -> list[Stage]:
    patch = VLAEConfig.Z_PATCH
    rows = -(-height // patch)
    stages: list[Stage] = []
    top = 0
    for _ in range(reader.varint("the number of stages", 1, rows)):
        value = reader.varint("a stage", 4, rows << 2 | 3)
        if value & 3 >= len(StageKind):
            raise CorruptFile(f"a stage of kind {value & 3}, expected below {len(StageKind)}")
        bottom = min(top + (value >> 2) * patch, height)
        stages.append(Stage(top, bottom, StageKind(value & 3)))
        if bottom == top:
            raise CorruptFile("a stage begins below the image")
        top = bottom
    if top != height:
        raise CorruptFile(f"the stages cover {top} rows, expected {height}")
    return stages
