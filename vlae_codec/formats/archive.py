"""Archives: many images in one .vlae file, in segments that decode on their own. FORMAT.md is the specification."""

from __future__ import annotations

import io
import json
import operator
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec import files
from vlae_codec.coding.binary import BinaryCoder
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import (
    CorruptFile,
    NotAVlaeFile,
    UnknownModel,
    UnsupportedImage,
    UnsupportedVersion,
    VerificationFailed,
)
from vlae_codec.images import io as imaging
from vlae_codec.images.metadata import metadata_of
from vlae_codec.models.exact.integer import model_id
from vlae_codec.registry import MAX_MODEL_BYTES, Model, find_model, model_from_bytes
from vlae_codec.stages import MAX_BATCH, Progress, Stage, StageKind, no_progress

from . import header as container
from . import single as api
from .header import MAGIC, MAX_METADATA, MAX_PIXELS, VERSION, Mode, Reader, pixel_digest, write_varint

#: Images of a chain that share a segment. Each segment pays for its own beginning, some 0.1 % at this size.
SEGMENT = 4096
#: What ends an archive, after the offset of its index.
END = b"VLAE-END"
#: Bytes of the end: the index's offset, a CRC-32 of that, and `END`.
END_BYTES = 20
#: Most images in an archive, and bytes of one section.
MAX_IMAGES = 1 << 28
MAX_SECTION = 1 << 34
#: Decoded segments that a reader keeps, the last that were used.
KEPT_SEGMENTS = 32


class Tag(IntEnum):
    """What a section of an archive holds."""

    HEAD = 1
    MODEL = 2
    CHAIN = 3
    SINGLE = 4
    INDEX = 5


@dataclass(frozen=True)
class Source:
    """What the images were before, so that they come back as they came.

    Attributes
    ----------
    kind : str
        ``files`` or ``array``.
    high : int
        The larger of the two values of a binary image: 1 or 255.
    mode : str
        Pillow's mode of binary files, ``1`` or ``L``.
    shape : tuple of int
        Of the whole array, its first dimension the number of images; empty for files.
    dtype : str
        Of the array: ``uint8`` or ``bool``.
    key : str
        The array's name in a .npz file; empty for .npy.
    """

    kind: str = "files"
    high: int = 255
    mode: str = "L"
    shape: tuple[int, ...] = ()
    dtype: str = "uint8"
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**self.__dict__, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Any) -> Source:
        """The inverse of `to_json`; `CorruptFile` on anything else."""
        if (
            isinstance(value, dict)
            and set(value) == set(cls().__dict__)
            and value["kind"] in ("files", "array")
            and value["high"] in (1, 255)
            and value["mode"] in ("1", "L")
            and value["dtype"] in ("uint8", "bool")
            and isinstance(value["key"], str)
            and isinstance(value["shape"], list)
            and len(value["shape"]) <= 4
            and all(type(n) is int and 0 < n <= MAX_PIXELS for n in value["shape"])
        ):
            return cls(**{**value, "shape": tuple(value["shape"])})
        raise CorruptFile(f"the archive's head describes its source as {str(value)[:80]!r}")


@dataclass(frozen=True)
class Segment:
    """Where a segment lies, and which images it holds: ``count`` of them from number ``first`` on."""

    tag: Tag
    offset: int
    first: int
    count: int


@dataclass
class _Chain:
    """A CHAIN segment's fields."""

    names: list[str]
    digest: bytes
    model: bytes
    lanes: int
    batches: list[Stage]
    costs: tuple[int, int, int]
    payload: bytes = field(repr=False, default=b"")


# -- writing ---------------------------------------------------------------------------------------------------------


def check_names(names: Sequence[str], error: type[Exception] = UnsupportedImage) -> None:
    """Refuse names that are not unique relative paths, or that could leave the folder they are restored into."""
    seen = set()
    for name in names:
        parts = name.split("/")
        bad = not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts)
        if bad or "\\" in name or ":" in name or any(ord(c) < 32 for c in name) or len(name) > 4096:
            raise error(f"{name[:80]!r} cannot be the name of an image: expected a relative path such as a/b.png")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise error(f"{name[:80]!r} cannot be the name of an image: it is no text in UTF-8") from None
        if name in seen:
            raise error(f"two images are named {name!r}, expected each name once")
        seen.add(name)


def _pack_names(names: Sequence[str]) -> bytes:
    text = json.dumps(list(names), separators=(",", ":")).encode()
    if len(text) > MAX_METADATA:
        raise UnsupportedImage(
            f"names of {len(text)} bytes in one segment, at most {MAX_METADATA}; use a smaller --segment"
        )
    packed = zlib.compress(text, 9) if names else b""
    return write_varint(len(packed)) + packed


def _section(tag: Tag, body: bytes) -> bytes:
    return bytes([tag]) + write_varint(len(body)) + zlib.crc32(bytes([tag]) + body).to_bytes(4, "little") + body


def binary_digest(images: NDArray[np.uint8]) -> bytes:
    """`pixel_digest` of binary images (N, S, S) of zeros and ones, as packed bits."""
    return pixel_digest("binary", (images.shape[2], images.shape[0] * images.shape[1]), [np.packbits(images).tobytes()])


class ArchiveWriter:
    """Collects segments; `finish` gives the bytes of the archive.

    Parameters
    ----------
    source : Source
    model : Model
        The model of its segments: for binary images of one size, or for photographs.
    embed : bool
        Put the model into the archive, so that it decodes without.
    """

    def __init__(self, source: Source, model: Model, embed: bool = False) -> None:
        self.model = model
        self.out = bytearray(MAGIC) + bytes([VERSION, Mode.ARCHIVE])
        self.count = 0
        self.index: list[tuple[Tag, int, int]] = []
        self._add(Tag.HEAD, zlib.compress(json.dumps(source.to_json(), sort_keys=True).encode(), 9), 0)
        if embed:
            self._add(Tag.MODEL, model.data, 0)

    def _add(self, tag: Tag, body: bytes, count: int) -> None:
        self.index.append((tag, len(self.out), count))
        self.out += _section(tag, body)
        self.count += count

    def add_chain(self, images: NDArray[np.uint8], names: Sequence[str], progress: Progress = no_progress) -> None:
        """A segment of binary images (N, S, S) of zeros and ones; ``names`` are empty for arrays."""
        coder = self.model.coder
        assert isinstance(coder, BinaryCoder)
        message, batches, costs = coder.encode(images, progress)
        body = bytearray(write_varint(self.count) + write_varint(len(images)) + _pack_names(names))
        body += binary_digest(images) + self.model.id + write_varint(message.lanes) + write_varint(len(batches))
        for batch in batches:
            body += write_varint(batch.count << 2 | batch.kind)
        for cost in (costs.z_prior, costs.z_posterior, costs.pixels):
            body += write_varint(round(cost))
        body += message.flatten().astype("<u4").tobytes()
        self._add(Tag.CHAIN, bytes(body), len(images))

    def add_single(self, data: bytes, name: str) -> None:
        """A segment of one image: the .vlae file that holds it."""
        names = [name] if name else []
        self._add(Tag.SINGLE, write_varint(self.count) + _pack_names(names) + data, 1)

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


def archive_array(
    array: NDArray, model: Model, *, key: str = "", segment: int = SEGMENT, embed: bool = False, verify: bool = True,
    progress: Progress = no_progress,
) -> bytes:  # fmt: skip
    """An archive of an array of images.

    Parameters
    ----------
    array : array of uint8 or bool, shape (N, H, W) or (N, H, W, C)
        With a model for binary images: N images of its size, of the values 0 and 1, or 0 and 255. With one for
        photographs: C is 1, 3 or 4, or absent.
    model : Model
    key : str
        The array's name in a .npz file.
    segment : int
        Images that share a segment, where the model codes them in a chain.
    embed : bool
        Put the model into the archive.
    verify : bool
        Decode the result and compare before returning it.

    Raises
    ------
    UnsupportedImage
        If the array has another shape, dtype or, for a model for binary images, other values.
    """
    shape, dtype = array.shape, str(array.dtype)
    flat = flat_images(array)
    if not isinstance(model.coder, BinaryCoder):
        writer = ArchiveWriter(Source("array", shape=shape, dtype=dtype, key=key), model, embed)
        for image in flat:
            writer.add_single(api.compress(image, model, verify=verify, progress=progress), "")
        return writer.finish()
    bits, high = to_binary(flat, model)
    writer = ArchiveWriter(Source("array", high, shape=shape, dtype=dtype, key=key), model, embed)
    for first in range(0, len(bits), segment):
        writer.add_chain(bits[first : first + segment], [], progress)
    data = writer.finish()
    if verify:
        _verify(data, bits, model, progress)
    return data


def flat_images(array: NDArray) -> NDArray[np.uint8]:
    """An array of images as uint8, a last dimension of one dropped; `UnsupportedImage` for other shapes and dtypes."""
    if array.dtype not in (np.uint8, np.bool_) or array.ndim not in (3, 4) or not array.size:
        raise UnsupportedImage(
            f"array of {array.dtype}, shape {array.shape}; expected uint8 or bool, (N, H, W) or (N, H, W, C)"
        )
    images = array.astype(np.uint8)
    return images[..., 0] if array.shape[3:] == (1,) else images


def archive_files(
    paths: Sequence[tuple[str, Path]], model: Model, *, segment: int = SEGMENT, embed: bool = False,
    verify: bool = True, progress: Progress = no_progress, max_pixels: int = MAX_PIXELS, exact: bool = False,
) -> bytes:  # fmt: skip
    """An archive of image files, given as (name, path), none of more than ``max_pixels``.

    See `archive_array` and `api.compress_file` for the other parameters.

    With a model for binary images all must be images of its size and one mode, 1 or L, without metadata.
    """
    check_names([name for name, _ in paths])
    if not paths:
        raise UnsupportedImage("no images to put into an archive")
    if not isinstance(model.coder, BinaryCoder):
        writer = ArchiveWriter(Source(), model, embed)
        for name, path in paths:
            original = files.read_bytes(path)
            data = api.compress_file(
                original, path.name, model, named=False, verify=verify, progress=progress, max_pixels=max_pixels,
                exact=exact,
            )  # fmt: skip
            writer.add_single(data, name)
        return writer.finish()
    bits, source = open_binary(paths, model)
    writer = ArchiveWriter(source, model, embed)
    for first in range(0, len(bits), segment):
        names = [name for name, _ in paths[first : first + segment]]
        writer.add_chain(bits[first : first + segment], names, progress)
    data = writer.finish()
    if verify:
        _verify(data, bits, model, progress)
    return data


def open_binary(paths: Sequence[tuple[str, Path]], model: Model) -> tuple[NDArray[np.uint8], Source]:
    """Image files as zeros and ones (N, S, S), and what they were; `UnsupportedImage` unless all are of one kind."""
    images, mode = [], ""
    for name, path in paths:
        image = imaging.open_image(files.read_bytes(path), str(path))
        mode = mode or image.mode
        if image.mode not in ("1", "L") or image.mode != mode:
            raise UnsupportedImage(f"{name} has mode {image.mode}, expected {mode if mode in ('1', 'L') else '1 or L'}")
        kept = metadata_of(image)
        if kept:
            raise UnsupportedImage(f"{name} has metadata ({', '.join(kept)}), which a chain of images does not keep")
        pixels = np.asarray(image, np.uint8)
        images.append(pixels)
        if pixels.shape != images[0].shape:
            raise UnsupportedImage(f"{name} has {image.width} x {image.height} pixels, others another size")
    bits, high = to_binary(np.stack(images), model)
    return bits, Source("files", 255 if mode == "1" else high, mode)


def to_binary(images: NDArray[np.uint8], model: Model) -> tuple[NDArray[np.uint8], int]:
    """Images as zeros and ones, and the value that one stands for."""
    size = model.coder.config.image_size
    if images.shape[1:] != (size, size):
        raise UnsupportedImage(f"images of shape {images.shape[1:]}, expected {(size, size)} for model {model.name}")
    values = set(np.flatnonzero(np.bincount(images.ravel(), minlength=256)).tolist())
    if not (values <= {0, 1} or values <= {0, 255}):
        some = ", ".join(map(str, sorted(values)[:5]))
        raise UnsupportedImage(
            f"images with {len(values)} values ({some}, ...), expected 0 and 1, or 0 and 255, for model {model.name}"
        )
    return (images != 0).astype(np.uint8), 255 if 255 in values else 1


def _verify(data: bytes, images: NDArray[np.uint8], model: Model, progress: Progress) -> None:
    archive = Archive(io.BytesIO(data), model)
    for segment in archive.segments:
        got = archive.binary_segment(segment)
        if not np.array_equal(got, images[segment.first : segment.first + segment.count]):
            raise VerificationFailed(
                f"images {segment.first} to {segment.first + segment.count - 1} differ when decoded"
            )
        progress(got.size)


# -- reading ---------------------------------------------------------------------------------------------------------


class Archive:
    """Reads an archive; images decode when they are asked for.

    Parameters
    ----------
    file : binary file
        Open for reading and seekable.
    model : Model, optional
        By default the one in the archive, or the known one with the id in the archive.
    device : str
        Where the networks run.
    max_pixels : int
        What more pixels than this decode together is refused: a single image, or a segment of small ones.

    Attributes
    ----------
    source : Source
    segments : list of Segment
    damaged : list of str
        What a damaged archive lacks, one line each; empty for a sound one.
    kept : int
        Decoded segments of a chain that are kept, at least one; of ``max_pixels`` together at most.
    """

    def __init__(
        self, file: BinaryIO, model: Model | None = None, device: str = "auto", max_pixels: int = MAX_PIXELS
    ) -> None:
        self.file = file
        self.device = device
        self.max_pixels = max_pixels
        self.kept = KEPT_SEGMENTS
        self._given = model
        #: Segments as they were decoded, the one that was used last at the end.
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._names: dict[int, list[str]] = {}
        self.damaged: list[str] = []
        self.file.seek(0, os.SEEK_END)
        self.size = self.file.tell()
        self.source = Source()
        self.segments: list[Segment] = []
        self._embedded: int | None = None
        self._check_start()
        places = self._index() or self._scan()
        self._open(places)

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: Model | None = None, device: str = "auto") -> Archive:
        """Open an archive's file.

        Raises
        ------
        NotAVlaeFile, UnsupportedVersion, CorruptFile
        """
        return cls(open(path, "rb"), model, device)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.segments[-1].first + self.segments[-1].count if self.segments else 0

    def __getitem__(self, index: int | str | slice) -> Any:
        """The image of a number or a name, or those of a slice.

        Returns
        -------
        An array (H, W[, C]) for archives of arrays, else a PIL image. For a slice all of them: an array (N, H, W[, C]),
        or a list.

        Raises
        ------
        IndexError
        UnsupportedImage
            If no image has that name.
        CorruptFile
            If the image's segment is damaged; others can still be read.
        """
        if isinstance(index, slice):
            images = [self[i] for i in range(*index.indices(len(self)))]
            if self.source.kind != "array":
                return images
            empty = np.empty((0, *self.source.shape[1:]), self.source.dtype)
            return np.stack(images).astype(self.source.dtype) if images else empty
        if isinstance(index, str):
            index = self.index_of(index)
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of an archive of {len(self)}")
        index %= len(self)
        number = bisect_right(self.segments, index, key=lambda segment: segment.first) - 1
        return self._image(number, index - self.segments[number].first)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

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

    def index_of(self, name: str) -> int:
        """The number of the image with a name; `UnsupportedImage` if there is none."""
        for segment in self.segments:
            found = self._segment_names(segment)
            if name in found:
                return segment.first + found.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self):
            return int(name)
        raise UnsupportedImage(f"no image {name!r} in the archive; `list` shows the names")

    def place(self, index: int) -> str:
        """The segment of an image, for messages."""
        for segment in self.segments:
            if segment.first <= index < segment.first + segment.count:
                last = segment.first + segment.count - 1
                return f"image {index}" if segment.first == last else f"images {segment.first} to {last}"
        return f"image {index}"

    def check(self) -> list[str]:
        """Decode everything; one line for each segment that is damaged."""
        problems = list(self.damaged)
        for number, segment in enumerate(self.segments):
            try:
                self._image(number, 0)
            except CorruptFile as error:
                problems.append(f"{self.place(segment.first)}: {error}")
        return problems

    def info(self) -> dict[str, Any]:
        """What the archive holds and where its bits went, without decoding: as `api.info`, summed over segments."""
        parts = ("z_prior", "z_posterior", "pixels", "alpha", "stored", "lanes_and_flush")
        bits = dict.fromkeys(parts, 0)
        models = set()
        for segment in self.segments:
            if segment.tag is Tag.CHAIN:
                chain = self._chain(segment)
                models.add(chain.model.hex())
                for key, cost in zip(("z_prior", "z_posterior", "pixels"), chain.costs, strict=True):
                    bits[key] += cost
                elbo = chain.costs[0] - chain.costs[1] + chain.costs[2]
                bits["lanes_and_flush"] += 8 * len(chain.payload) - elbo
            else:
                one = api.info(self._single(segment))
                models |= {one["model_id"]} if "model_id" in one else set()
                for key in bits:
                    bits[key] += one.get("bits", {}).get(key, 0)
                if one["mode"] == "stored":
                    bits["stored"] += 8 * one["stored_bytes"]
        used = sum(bits.values()) - 2 * bits["z_posterior"]
        return {
            "file_bytes": self.size, "mode": "archive", "images": len(self), "source": self.source.to_json(),
            "segments": len(self.segments), "models": sorted(models), "embedded_model": self._embedded is not None,
            "bits": bits | {"header": 8 * self.size - used},
            "elbo_bits": bits["z_prior"] - bits["z_posterior"] + bits["pixels"],
            "bits_per_image": 8 * self.size / max(len(self), 1), "damaged": self.damaged,
        }  # fmt: skip

    # Sections

    def _check_start(self) -> None:
        self.file.seek(0)
        start = self.file.read(len(MAGIC) + 2)
        if start[: len(MAGIC)] != MAGIC:
            raise NotAVlaeFile(f"the file begins with {start[:8].hex(' ')}, expected {MAGIC.hex(' ')}")
        if len(start) < len(MAGIC) + 2:
            raise CorruptFile("the file ends inside its first ten bytes")
        if start[len(MAGIC)] != VERSION:
            raise UnsupportedVersion(f"the file has format version {start[len(MAGIC)]}, this release reads {VERSION}")
        if start[-1] != Mode.ARCHIVE:
            raise CorruptFile(f"the file has mode {start[-1]}, expected {int(Mode.ARCHIVE)}: not an archive")

    def _section_at(self, offset: int, *wanted: Tag) -> tuple[Tag, bytes, int]:
        """The tag, body and end of the section at an offset; `CorruptFile` if damaged, or of no tag that is wanted."""
        if offset >= self.size:
            raise CorruptFile(f"a section at byte {offset} of a file of {self.size} bytes")
        self.file.seek(offset)
        reader = Reader(self.file.read(11))
        value = reader.byte("a section's tag", 256)
        length = reader.varint("a section's length", 0, MAX_SECTION)
        begin = offset + reader.at + 4
        if begin + length > self.size:
            raise CorruptFile(f"the section at byte {offset} ends after the file")
        self.file.seek(offset + reader.at)
        stored = int.from_bytes(self.file.read(4), "little")
        body = self.file.read(length)
        found = zlib.crc32(bytes([value]) + body)
        if found != stored:
            raise CorruptFile(f"checksum of the section at byte {offset} is {found:08x}, {stored:08x} is stored")
        if value not in (wanted or set(Tag)):
            expected = " or ".join(tag.name for tag in wanted or Tag)
            raise CorruptFile(f"the section at byte {offset} has tag {value}, expected {expected}")
        return Tag(value), body, begin + length

    def _index(self) -> list[tuple[Tag, int, int]] | None:
        """Tags, offsets and counts as the index has them; None if it is damaged."""
        try:
            self.file.seek(max(self.size - END_BYTES, 0))
            end = self.file.read(END_BYTES)
            if end[12:] != END or zlib.crc32(end[:8]) != int.from_bytes(end[8:12], "little"):
                raise CorruptFile("the end is damaged or missing")
            place = int.from_bytes(end[:8], "little")
            _, body, after = self._section_at(place, Tag.INDEX)
            if after != self.size - END_BYTES:
                raise CorruptFile("the end does not lead to the index")
            reader, last, places = Reader(body), 0, []
            for _ in range(reader.varint("the number of sections", 0, len(body))):
                kind = reader.byte("a section's tag", len(Tag))
                last += reader.varint("a section's offset", 0, self.size)
                places.append((Tag(kind), last, reader.varint("a section's images", 0, MAX_IMAGES)))
            return places
        except (CorruptFile, ValueError) as error:
            self.damaged.append(f"index: {error}")
            return None

    def _scan(self) -> list[tuple[Tag, int, int]]:
        """The same without an index: from section to section, as far as lengths can be trusted."""
        places: list[tuple[Tag, int, int]] = []
        offset = len(MAGIC) + 2
        while offset < self.size:
            try:
                tag, body, offset_after = self._section_at(offset)
            except CorruptFile as error:
                self.damaged.append(f"from byte {offset} on: {error}")
                break
            if tag is Tag.INDEX:
                break
            count = 0
            if tag is Tag.SINGLE:
                count = 1
            elif tag is Tag.CHAIN:
                reader = Reader(body)
                reader.varint("the first image", 0, MAX_IMAGES)
                count = reader.varint("the number of images", 1, MAX_IMAGES)
            places.append((tag, offset, count))
            offset = offset_after
        return places

    def _open(self, places: list[tuple[Tag, int, int]]) -> None:
        first, head = 0, None
        for number, (tag, offset, count) in enumerate(places):
            end = places[number + 1][1] if number + 1 < len(places) else self.size
            # A chain's batches take a byte each at least, so its length limits what it can hold.
            most = {Tag.SINGLE: 1, Tag.CHAIN: MAX_BATCH * (end - offset)}.get(tag, 0)
            if not min(most, 1) <= count <= most:
                raise CorruptFile(f"the section at byte {offset} cannot hold {count} images")
            if tag is Tag.HEAD:
                head = offset
            elif tag is Tag.MODEL:
                self._embedded = offset
            elif tag in (Tag.CHAIN, Tag.SINGLE):
                self.segments.append(Segment(tag, offset, first, count))
                first += count
                if first > MAX_IMAGES:
                    raise CorruptFile(f"the archive claims more than {MAX_IMAGES} images")
        if head is None:
            raise CorruptFile("the archive has no head")
        _, body, _ = self._section_at(head, Tag.HEAD)
        self.source = Source.from_json(inflate_json(body, "the archive's head"))
        shape = self.source.shape
        if self.source.kind == "array" and not self.damaged and (len(shape) < 3 or shape[0] != first):
            raise CorruptFile(f"the archive holds {first} images, its head says {shape}")

    # Segments

    def _chain(self, segment: Segment) -> _Chain:
        _, body, _ = self._section_at(segment.offset, Tag.CHAIN)
        reader = Reader(body)
        if reader.varint("the first image", 0, MAX_IMAGES) != segment.first:
            raise CorruptFile(f"the segment at byte {segment.offset} is not the one of image {segment.first}")
        count = reader.varint("the number of images", 1, MAX_IMAGES)
        names = _read_names(reader, count)
        digest, model = reader.take(8, "the checksum of the pixels"), reader.take(8, "the model id")
        lanes = reader.varint("the number of lanes", 1, container.MAX_LANES)
        batches: list[Stage] = []
        for _ in range(reader.varint("the number of batches", 1, count)):
            value = reader.varint("a batch", 4, MAX_BATCH << 2 | 3)
            if value & 3 >= len(StageKind):
                raise CorruptFile(f"a batch of kind {value & 3}, expected below {len(StageKind)}")
            first = batches[-1].last if batches else 0
            batches.append(Stage(first, first + (value >> 2), StageKind(value & 3)))
        if sum(batch.count for batch in batches) != count or count != segment.count:
            raise CorruptFile(f"the batches of images {segment.first} to {segment.first + count - 1} do not add up")
        prior, posterior, pixels = (reader.varint("a code length", 0, (1 << 56) - 1) for _ in range(3))
        return _Chain(names, digest, model, lanes, batches, (prior, posterior, pixels), body[reader.at :])

    def _single(self, segment: Segment) -> bytes:
        _, body, _ = self._section_at(segment.offset, Tag.SINGLE)
        reader = Reader(body)
        if reader.varint("the first image", 0, MAX_IMAGES) != segment.first:
            raise CorruptFile(f"the segment at byte {segment.offset} is not the one of image {segment.first}")
        _read_names(reader, 1)
        return body[reader.at :]

    def _segment_names(self, segment: Segment) -> list[str]:
        if segment.offset not in self._names:
            _, body, _ = self._section_at(segment.offset, segment.tag)
            reader = Reader(body)
            reader.varint("the first image", 0, MAX_IMAGES)
            count = 1 if segment.tag is Tag.SINGLE else reader.varint("the number of images", 1, MAX_IMAGES)
            if count != segment.count:
                raise CorruptFile(f"the segment at byte {segment.offset} has {count} images, expected {segment.count}")
            self._names[segment.offset] = _read_names(reader, count)
        return self._names[segment.offset]

    def _model(self, wanted: bytes) -> Model:
        if self._given is not None:
            if self._given.id != wanted:
                raise UnknownModel(
                    f"the archive was made with model {wanted.hex()}, not with {self._given.name} "
                    f"({self._given.id.hex()})"
                )
            return self._given
        if self._embedded is not None:
            _, body, _ = self._section_at(self._embedded, Tag.MODEL)
            if len(body) <= MAX_MODEL_BYTES and model_id(body) == wanted:
                self._given = model_from_bytes(body, "embedded", self.device)
                return self._given
        return find_model(wanted, self.device)

    def binary_segment(self, segment: Segment) -> NDArray[np.uint8]:
        """All images of a CHAIN segment, (N, S, S) of zeros and ones."""
        chain = self._chain(segment)
        coder = self._model(chain.model).coder
        if not isinstance(coder, BinaryCoder):
            raise CorruptFile("a chain of images names a model for photographs")
        side = coder.config.image_size
        container.check_size((segment.count * side, side), "the segment", self.max_pixels)
        if any((batch.kind is StageKind.WITHOUT_Z) == bool(coder.config.z_channels) for batch in chain.batches):
            raise CorruptFile("the segment's batches are not of the kind that its model codes")
        if len(chain.payload) % 4:
            raise CorruptFile(f"the payload has {len(chain.payload)} bytes, expected a multiple of 4")
        message = Message.unflatten(np.frombuffer(chain.payload, "<u4"), chain.lanes)
        images = np.concatenate(list(coder.decode(message, chain.batches)))
        if binary_digest(images) != chain.digest:
            raise CorruptFile(f"checksum of the pixels is not the stored {chain.digest.hex()}")
        return images

    def _image(self, number: int, within: int) -> Any:
        segment = self.segments[number]
        if segment.tag is Tag.SINGLE:
            data = self._single(segment)
            image = api.decompress(data, self._model_of(data), max_pixels=self.max_pixels)
            return self._shaped(np.asarray(image)) if self.source.kind == "array" else image
        decoded = self._decoded.pop(number, None)
        if decoded is None:
            decoded = self.binary_segment(segment)
            room = self.max_pixels - decoded.size
            while self._decoded and (
                len(self._decoded) >= self.kept or sum(kept.size for kept in self._decoded.values()) > room
            ):
                del self._decoded[next(iter(self._decoded))]
        self._decoded[number] = decoded
        bits = decoded[within]
        if self.source.kind == "files":
            image = Image.fromarray(bits * np.uint8(self.source.high))
            return image.convert("1") if self.source.mode == "1" else image
        shaped = self._shaped(bits)
        return shaped.astype(bool) if self.source.dtype == "bool" else shaped * np.uint8(self.source.high)

    def source_file(self, index: int) -> bytes | None:
        """The file that image number ``index`` was; None for one of a chain. Raises as ``[]`` does."""
        for segment in self.segments:
            if segment.first == index and segment.tag is Tag.SINGLE:
                data = self._single(segment)
                model = self._model_of(data)
                return api.restore_file(data, model, name=self.names[index], max_pixels=self.max_pixels)[1]
        return None

    def _model_of(self, data: bytes) -> Model | None:
        """The model of a single image's file; None if it needs none."""
        if container.mode_of(data) is not Mode.VLAE:
            return None
        return self._model(container.read(data, self.max_pixels)[0].model_id)

    def _shaped(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image of an array in the array's shape: a last dimension of one is not coded."""
        shape = self.source.shape[1:]
        if image.shape not in (shape, shape[:-1] if shape[2:] == (1,) else shape):
            raise CorruptFile(f"an image of shape {image.shape} in an array of images of shape {shape}")
        return image.reshape(shape)

    def array(self, progress: Progress = no_progress) -> NDArray:
        """All images as the array that they were; `CorruptFile` for an archive of files."""
        if self.source.kind != "array":
            raise CorruptFile("the archive holds files, not an array")
        if self.damaged:
            raise CorruptFile(self.damaged[0])
        images = []
        for image in self:
            images.append(image)
            progress(image.size)
        array = np.stack(images)
        return array.astype(bool) if self.source.dtype == "bool" else array


def inflate_json(data: bytes, what: str) -> Any:
    """What a zlib stream of JSON holds, `container.MAX_METADATA` bytes at most; `CorruptFile` if it cannot be read."""
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, MAX_METADATA)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("longer than it may be, or cut short")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise CorruptFile(f"{what} cannot be read: {error}") from None


def _read_names(reader: Reader, count: int) -> list[str]:
    packed = reader.take(reader.varint("the names' length", 0, len(reader.data)), "the names")
    if not packed:
        return []
    names = inflate_json(packed, "the names")
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise CorruptFile(f"the names are not {count} pieces of text")
    check_names(names, CorruptFile)
    return names


# -- from and to the file system -------------------------------------------------------------------------------------


def find_images(sources: Iterable[Path]) -> list[tuple[str, Path]]:
    """Names and paths of the image files that are named, and of all below the folders that are, sorted.

    A file below a folder is named by its path from there, another file by its own name. Files that are no images by
    their suffix are passed over in folders; `UnsupportedImage` if nothing is left.
    """
    found = files.find(sources, set(imaging.formats_by_suffix()), recursive=True)
    if not found:
        raise UnsupportedImage(f"no images found in {', '.join(map(str, sources))}")
    return found


def load_array(path: Path, key: str = "") -> tuple[NDArray, str]:
    """The array in a .npy file, or the one in a .npz file (that of a name, if it holds several), and its name there.

    Raises
    ------
    UnsupportedImage
    """
    import zipfile

    try:
        with files.open_unchanged(path) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, ""
            with loaded:
                if not key and len(loaded.files) == 1:
                    key = loaded.files[0]
                if key not in loaded.files:
                    names = ", ".join(loaded.files)
                    raise UnsupportedImage(f"{path} holds {names}; name one of them with --key")
                return loaded[key], key
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnsupportedImage(f"{path}: not a file of arrays: {error}") from None


def is_array(path: str) -> bool:
    """Whether a path names a file of arrays."""
    return path.lower().endswith((".npy", ".npz"))


def array_bytes(array: NDArray, path: Path, key: str) -> bytes:
    """The bytes of a .npy file, or of a .npz file with the array under its name, as the path's suffix says."""
    buffer = io.BytesIO()
    if path.suffix.lower() == ".npz":
        np.savez_compressed(buffer, allow_pickle=False, **{key or "images": array})
    else:
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def extract(
    archive: Archive, indices: Iterable[int], write: Callable[[str, bytes], None], progress: Progress = no_progress,
    suffix: str = "",
) -> list[str]:  # fmt: skip
    """Decode images and hand each to ``write`` as (relative name, bytes of an image file).

    An image file comes back in its own format, others in that of ``suffix`` or of the image's name; a name whose suffix
    stands for a format that loses pixels gets .png added. Goes on after a damaged segment; returns one line for each.
    """
    names, problems = archive.names, dict[str, None]()
    for index in indices:
        name = names[index]
        try:
            if archive.source.kind == "files" and not suffix:
                data = archive.source_file(index)
                if data is not None:
                    write(name, data)
                    progress(1)
                    continue
            image = archive[index]
        except CorruptFile as error:
            problems[f"{archive.place(index)}: {error}"] = None
            continue
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        try:
            data = imaging.encode_output(image, suffix or Path(name).suffix)
        except UnsupportedImage:
            if suffix:
                raise
            name, data = f"{name}.png", imaging.encode_output(image, ".png")
        write(name, data)
        progress(image.width * image.height)
    return list(problems)
