"""The sections of an archive: what lies where, under which names, and what is damaged."""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

from vlae_codec.errors import CorruptFile, NotAVlaeFile, UnsupportedImage, UnsupportedVersion
from vlae_codec.fields import MAGIC, VERSION, Reader, check_names, inflate_json
from vlae_codec.files import Attributes
from vlae_codec.images.sets import Source
from vlae_codec.stages import MAX_BATCH

from .chains import Chain, read_listed, read_planned
from .header import FileKind
from .section_writer import CHAINS, END, Tag
from .short import expand

#: Bytes of the end: the index's offset, a CRC-32 of that, and `END`.
END_BYTES = 20
#: Most images in an archive, and bytes of one section.
MAX_IMAGES = 1 << 28
MAX_SECTION = 1 << 34


#: What a section holds, where it begins, and how many images it has.
Place = tuple[Tag, int, int]


@dataclass(frozen=True)
class Segment:
    """Where a segment lies, and which images it holds: ``count`` of them from number ``first`` on."""

    tag: Tag
    offset: int
    first: int
    count: int


def _read_names(reader: Reader, count: int) -> list[str]:
    packed = reader.take(reader.varint("the names' length", 0, len(reader.data)), "the names")
    if not packed:
        return []
    names = inflate_json(packed, "the names")
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise CorruptFile(f"the names are not {count} pieces of text")
    check_names(names, CorruptFile)
    return names


class SectionFile:
    """A file's sections, by where they lie.

    Parameters
    ----------
    file : binary file
        Open for reading and seekable.

    Attributes
    ----------
    size : int
        Bytes of the sections and what stands around them.
    file_bytes : int
        Bytes of the file: of a short archive fewer.
    damaged : list of str
        What cannot be read of it, one line each.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._given = self._file = file
        self.size = self.file_bytes = file.seek(0, os.SEEK_END)
        self.damaged: list[str] = []
        if self._check_start() is FileKind.SHORT_ARCHIVE:
            file.seek(0)
            self._file = io.BytesIO(expand(file.read()))
            self.size = self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._given.close()

    def places(self) -> list[Place]:
        """Tags, offsets and counts of images of all sections, by the index or, where that is damaged, without."""
        return self._index() or self._scan()

    def section_length(self, offset: int) -> int:
        """Bytes of the section at an offset, with what stands before its body."""
        self._file.seek(offset)
        head = Reader(self._file.read(11))
        head.byte("a section's tag", 256)
        length = head.varint("a section's length", 0, MAX_SECTION)
        return head.at + 4 + length

    def _check_start(self) -> FileKind:
        self._file.seek(0)
        start = self._file.read(len(MAGIC) + 2)
        if start[: len(MAGIC)] != MAGIC:
            raise NotAVlaeFile(f"the file begins with {start[:8].hex(' ')}, expected {MAGIC.hex(' ')}")
        if len(start) < len(MAGIC) + 2:
            raise CorruptFile("the file ends inside its first ten bytes")
        if start[len(MAGIC)] != VERSION:
            raise UnsupportedVersion(f"the file has format version {start[len(MAGIC)]}, this release reads {VERSION}")
        if start[-1] not in (FileKind.ARCHIVE, FileKind.SHORT_ARCHIVE):
            raise CorruptFile(f"the file is of kind {start[-1]}, not an archive's; `info` shows what it holds")
        return FileKind(start[-1])

    def section_at(self, offset: int, *wanted: Tag) -> tuple[Tag, bytes, int]:
        """The tag, body and end of the section at an offset; `CorruptFile` if damaged, or of no tag that is wanted."""
        if offset >= self.size:
            raise CorruptFile(f"a section at byte {offset} of a file of {self.size} bytes")
        self._file.seek(offset)
        reader = Reader(self._file.read(11))
        value = reader.byte("a section's tag", 256)
        length = reader.varint("a section's length", 0, MAX_SECTION)
        begin = offset + reader.at + 4
        if begin + length > self.size:
            raise CorruptFile(f"the section at byte {offset} ends after the file")
        self._file.seek(offset + reader.at)
        stored = int.from_bytes(self._file.read(4), "little")
        body = self._file.read(length)
        found = zlib.crc32(bytes([value]) + body)
        if found != stored:
            raise CorruptFile(f"checksum of the section at byte {offset} is {found:08x}, {stored:08x} is stored")
        if value not in (wanted or set(Tag)):
            expected = " or ".join(tag.name for tag in wanted or Tag)
            raise CorruptFile(f"the section at byte {offset} has tag {value}, expected {expected}")
        return Tag(value), body, begin + length

    def _index(self) -> list[Place] | None:
        """Tags, offsets and counts as the index has them; None if it is damaged."""
        try:
            self._file.seek(max(self.size - END_BYTES, 0))
            end = self._file.read(END_BYTES)
            if end[12:] != END or zlib.crc32(end[:8]) != int.from_bytes(end[8:12], "little"):
                raise CorruptFile("the end is damaged or missing")
            place = int.from_bytes(end[:8], "little")
            _, body, after = self.section_at(place, Tag.INDEX)
            if after != self.size - END_BYTES:
                raise CorruptFile("the end does not lead to the index")
            reader, last, places = Reader(body), 0, []
            for _ in range(reader.varint("the number of sections", 0, len(body))):
                kind = reader.byte("a section's tag", max(Tag) + 1)
                last += reader.varint("a section's offset", 0, self.size)
                places.append((Tag(kind), last, reader.varint("a section's images", 0, MAX_IMAGES)))
            return places
        except (CorruptFile, ValueError) as error:
            self.damaged.append(f"index: {error}")
            return None

    def _scan(self) -> list[Place]:
        """The same without an index: from section to section, as far as lengths can be trusted."""
        places: list[Place] = []
        offset = len(MAGIC) + 2
        while offset < self.size:
            try:
                tag, body, offset_after = self.section_at(offset)
            except CorruptFile as error:
                self.damaged.append(f"from byte {offset} on: {error}")
                break
            if tag is Tag.INDEX:
                break
            count = 0
            if tag is Tag.SINGLE:
                count = 1
            elif tag in CHAINS:
                reader = Reader(body)
                reader.varint("the first image", 0, MAX_IMAGES)
                count = reader.varint("the number of images", 1, MAX_IMAGES)
            places.append((tag, offset, count))
            offset = offset_after
        return places


class Sections:
    """Reads what an archive holds, all but its images.

    Parameters
    ----------
    file : binary file
        Open for reading and seekable.

    Attributes
    ----------
    source : Source
    segments : list of Segment
    embedded : int, optional
        Where the model lies that the archive brings along.
    damaged : list of str
        What a damaged archive lacks, one line each; empty for a sound one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = SectionFile(file)
        self.damaged = self.file.damaged
        self._names: dict[int, list[str]] = {}
        self.source = Source()
        self.segments: list[Segment] = []
        self.embedded: int | None = None
        self._attributes: int | None = None
        self._open(self.file.places())

    def __len__(self) -> int:
        return self.segments[-1].first + self.segments[-1].count if self.segments else 0

    @property
    def names(self) -> list[str]:
        """The images' names, in order; their numbers for archives of arrays and where a name cannot be read."""
        names = [str(i) for i in range(len(self))]
        for segment in self.segments:
            try:
                found = self._segment_names(segment)
            except CorruptFile:
                continue
            names[segment.first : segment.first + len(found)] = found
        return names

    def attributes(self) -> list[Attributes | None]:
        """The files' attributes, in order; None where the archive holds none.

        Raises
        ------
        CorruptFile
        """
        if self._attributes is None:
            return [None] * len(self)
        columns = inflate_json(self.file.section_at(self._attributes, Tag.ATTRIBUTES)[1], "the files' attributes")
        whole = isinstance(columns, list) and len(columns) == 2 and all(
            isinstance(column, list) and len(column) == len(self) for column in columns
        )  # fmt: skip
        if not whole or not all(type(n) is int and abs(n) < 1 << 63 for column in columns for n in column):
            raise CorruptFile(f"the files' attributes are not two numbers of each of {len(self)} files")
        return [Attributes(modified, permissions) for modified, permissions in zip(*columns, strict=True)]

    def repeated_names(self) -> list[str]:
        """Names that several images have, each once; archives are not written so."""
        counts = Counter(self.names)
        return [name for name, count in counts.items() if count > 1]

    def index_of(self, name: str) -> int:
        """The number of the image with a name; `UnsupportedImage` if there is none."""
        for segment in self.segments:
            found = self._segment_names(segment)
            if name in found:
                return segment.first + found.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self):
            return int(name)
        raise UnsupportedImage(f"no image {name!r} in the archive; `list` shows the names")

    def sizes(self) -> list[float]:
        """Bytes that each image takes in the archive; those of a segment are shared by its images."""
        sizes = [0.0] * len(self)
        for segment in self.segments:
            each = self.file.section_length(segment.offset) / segment.count
            sizes[segment.first : segment.first + segment.count] = [each] * segment.count
        return sizes

    def place(self, index: int) -> str:
        """The segment of an image, for messages."""
        for segment in self.segments:
            if segment.first <= index < segment.first + segment.count:
                last = segment.first + segment.count - 1
                return f"image {index}" if segment.first == last else f"images {segment.first} to {last}"
        return f"image {index}"

    def _open(self, places: list[Place]) -> None:
        first, head = 0, None
        for number, (tag, offset, count) in enumerate(places):
            end = places[number + 1][1] if number + 1 < len(places) else self.file.size
            # The length of a chain limits what it can hold.
            most = MAX_BATCH * (end - offset) if tag in CHAINS else int(tag is Tag.SINGLE)
            if not min(most, 1) <= count <= most:
                raise CorruptFile(f"the section at byte {offset} cannot hold {count} images")
            if tag is Tag.HEAD:
                head = offset
            elif tag is Tag.MODEL:
                self.embedded = offset
            elif tag is Tag.ATTRIBUTES:
                self._attributes = offset
            elif tag in (*CHAINS, Tag.SINGLE):
                self.segments.append(Segment(tag, offset, first, count))
                first += count
                if first > MAX_IMAGES:
                    raise CorruptFile(f"the archive claims more than {MAX_IMAGES} images")
        if head is None:
            raise CorruptFile("the archive has no head")
        _, body, _ = self.file.section_at(head, Tag.HEAD)
        self.source = Source.from_json(inflate_json(body, "the archive's head"))
        shape = self.source.shape
        if self.source.kind == "array" and not self.damaged and (len(shape) < 3 or shape[0] != first):
            raise CorruptFile(f"the archive holds {first} images, its head says {shape}")

    # Segments

    def chain(self, segment: Segment) -> Chain:
        """The fields of a chain; `CorruptFile` if they do not add up."""
        tag, body, _ = self.file.section_at(segment.offset, *CHAINS)
        reader = Reader(body)
        if reader.varint("the first image", 0, MAX_IMAGES) != segment.first:
            raise CorruptFile(f"the segment at byte {segment.offset} is not the one of image {segment.first}")
        count = reader.varint("the number of images", 1, MAX_IMAGES)
        if count != segment.count:
            raise CorruptFile(f"the segment at byte {segment.offset} has {count} images, expected {segment.count}")
        _read_names(reader, count)
        return read_planned(reader, count) if tag is Tag.PLANNED else read_listed(reader, count)

    def single(self, segment: Segment) -> bytes:
        """The .vlae file in a SINGLE segment."""
        _, body, _ = self.file.section_at(segment.offset, Tag.SINGLE)
        reader = Reader(body)
        if reader.varint("the first image", 0, MAX_IMAGES) != segment.first:
            raise CorruptFile(f"the segment at byte {segment.offset} is not the one of image {segment.first}")
        _read_names(reader, 1)
        return body[reader.at :]

    def _segment_names(self, segment: Segment) -> list[str]:
        if segment.offset not in self._names:
            _, body, _ = self.file.section_at(segment.offset, segment.tag)
            reader = Reader(body)
            reader.varint("the first image", 0, MAX_IMAGES)
            count = 1 if segment.tag is Tag.SINGLE else reader.varint("the number of images", 1, MAX_IMAGES)
            if count != segment.count:
                raise CorruptFile(f"the segment at byte {segment.offset} has {count} images, expected {segment.count}")
            self._names[segment.offset] = _read_names(reader, count)
        return self._names[segment.offset]
