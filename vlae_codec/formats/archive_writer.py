"""Archives written: segments collected, from arrays and from files. FORMAT.md is the specification."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_codec import files
from vlae_codec.errors import UnsupportedImage, VerificationFailed, VlaeError
from vlae_codec.fields import MAX_METADATA, check_names, write_varint
from vlae_codec.files import Attributes
from vlae_codec.images.sets import Source, flat_images, open_binary, to_binary
from vlae_codec.registry import Model
from vlae_codec.stages import MAX_PARTICLES, Passes, Progress, no_progress

from .archive import Archive
from .chains import binary_digest, seed_of, write_planned
from .section_writer import SectionWriter, Tag
from .short import shorten
from .single import compress
from .source import FileOptions, compress_file

#: Images of a chain that share a segment. Each segment pays for its own beginning.
SEGMENT = 4096


def _pack_names(names: Sequence[str]) -> bytes:
    text = json.dumps(list(names), separators=(",", ":")).encode()
    if len(text) > MAX_METADATA:
        raise UnsupportedImage(
            f"names of {len(text)} bytes in one segment, at most {MAX_METADATA}; use a smaller --segment"
        )
    packed = zlib.compress(text, 9) if names else b""
    return write_varint(len(packed)) + packed


class ArchiveWriter(SectionWriter):
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
        super().__init__(source)
        self.source = source
        self.model = model
        self.count = 0
        #: The fields of a chain that is all there is to an array.
        self._alone = b""
        if embed:
            self.add(Tag.MODEL, model.data, 0)

    def _add_images(self, tag: Tag, body: bytes, count: int) -> None:
        self.add(tag, write_varint(self.count) + body, count)
        self.count += count

    def add_chain(
        self, images: NDArray[np.uint8], names: Sequence[str], particles: int = 1, progress: Progress = no_progress
    ) -> None:
        """A segment of binary images (N, S, S) of zeros and ones; ``names`` are empty for arrays."""
        chained = self.model.binary.encode(images, particles, seed_of(binary_digest(images)), progress)
        fields = write_planned(self.model.id, chained, len(images))
        self._alone = fields if self.source.kind == "array" and len(self.index) == 1 else b""
        self._add_images(Tag.PLANNED, write_varint(len(images)) + _pack_names(names) + fields, len(images))

    def add_single(self, data: bytes, name: str) -> None:
        """A segment of one image: the .vlae file that holds it."""
        names = [name] if name else []
        self._add_images(Tag.SINGLE, _pack_names(names) + data, 1)

    def add_attributes(self, attributes: Sequence[Attributes]) -> None:
        """A section of what the files' attributes are, of all images in order."""
        text = json.dumps([list(column) for column in zip(*attributes, strict=True)], separators=(",", ":")).encode()
        if len(text) > MAX_METADATA:
            raise UnsupportedImage(f"attributes of {len(text)} bytes, at most {MAX_METADATA}; use --no-attributes")
        self.add(Tag.ATTRIBUTES, zlib.compress(text, 9), 0)

    def finish(self) -> bytes:
        """The archive, in its short form if it has one."""
        return shorten(self.source, self._alone) if self._alone else super().finish()


def check_particles(particles: int, model: Model) -> None:
    """`VlaeError` if a model cannot code one of so many draws of each z, or no file says so many."""
    if not 1 <= particles <= MAX_PARTICLES:
        raise VlaeError(f"{particles} particles, expected 1..{MAX_PARTICLES}")
    if particles > 1 and not (model.config.image_size and model.config.z_channels):
        what = "has no z" if model.config.image_size else "is for photographs"
        raise VlaeError(f"{particles} particles are draws of the z of binary images, and model {model.name} {what}")


def archive_array(
    array: NDArray, model: Model, *, key: str = "", segment: int = SEGMENT, particles: int = 1, embed: bool = False,
    verify: bool = True, progress: Progress = no_progress,
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
    particles : int
        Draws of z for each image of a chain, of which one is coded: fewer bytes in so many times the time.
    embed : bool
        Put the model into the archive.
    verify : bool
        Decode the result and compare before returning it.

    Raises
    ------
    UnsupportedImage
        If the array has another shape, dtype or, for a model for binary images, other values.
    VlaeError
        See `check_particles`.
    """
    check_particles(particles, model)
    shape, dtype = array.shape, str(array.dtype)
    flat = flat_images(array)
    if model.config.image_size:
        bits, high = to_binary(flat, model.config.image_size)
        writer = ArchiveWriter(Source("array", high, shape=shape, dtype=dtype, key=key), model, embed)
        return _chains(writer, bits, [], segment, verify, progress, particles)
    writer = ArchiveWriter(Source("array", shape=shape, dtype=dtype, key=key), model, embed)
    count = Passes(progress, flat[..., 0].size if flat.ndim == 4 else flat.size).take(1)
    for image in flat:
        writer.add_single(compress(image, model, verify=verify, progress=count), "")
    return writer.finish()


def archive_files(
    paths: Sequence[tuple[str, Path]], model: Model, *, segment: int = SEGMENT, embed: bool = False,
    progress: Progress = no_progress, attributes: bool = True,
    failed: Callable[[Path, Exception], None] | None = None, **options: Any,
) -> bytes:  # fmt: skip
    """An archive of image files, given as (name, path).

    With ``attributes`` their times of modification and permissions are kept. ``options`` are fields of
    `source.FileOptions`, such as ``verify``; see `archive_array` for the other parameters.

    With a model for binary images all must be images of its size and one mode, 1 or L, without metadata. With another
    model, and with ``failed``, files that cannot be read or coded are left out, and it is called with the path and the
    error of each.
    """
    chosen = FileOptions(named=False, **options)
    check_particles(chosen.particles, model)
    check_names([name for name, _ in paths])
    if not paths:
        raise UnsupportedImage("no images to put into an archive")
    if model.config.image_size:
        kept = [files.Attributes.of(path) for _, path in paths] if attributes else []
        bits, source = open_binary(paths, model.config.image_size)
        writer = ArchiveWriter(source, model, embed)
        names = [name for name, _ in paths]
        return _chains(writer, bits, names, segment, chosen.verify, progress, chosen.particles, kept)
    writer = ArchiveWriter(Source(), model, embed)

    def count(pixels: int) -> None:
        """As `progress`, but nobody knows yet how many pixels will come in all."""
        progress(pixels)

    kept = []
    for name, path in paths:
        try:
            found = files.Attributes.of(path)
            data = compress_file(files.read_bytes(path), path.name, model, chosen, count)
        except (VlaeError, OSError) as error:
            if failed is None:
                raise
            failed(path, error)
            continue
        writer.add_single(data, name)
        kept.append(found)
    if not kept:
        raise UnsupportedImage(f"none of {len(paths)} files could be put into an archive")
    if attributes:
        writer.add_attributes(kept)
    return writer.finish()


def _chains(
    writer: ArchiveWriter, bits: NDArray[np.uint8], names: list[str], segment: int, verify: bool, progress: Progress,
    particles: int, attributes: Sequence[files.Attributes] = (),
) -> bytes:  # fmt: skip
    """An archive of binary images (N, S, S) of zeros and ones, in segments of so many."""
    passes = Passes(progress, bits.size)
    count = passes.take(0.5 if verify else 1)
    for first in range(0, len(bits), segment):
        writer.add_chain(bits[first : first + segment], names[first : first + segment], particles, count)
    if attributes:
        writer.add_attributes(attributes)
    data = writer.finish()
    if verify:
        _verify(data, bits, writer.model, passes.take(1))
    return data


def _verify(data: bytes, images: NDArray[np.uint8], model: Model, progress: Progress) -> None:
    archive = Archive(io.BytesIO(data), model)
    for segment in archive.segments:
        got = archive.binary_segment(segment)
        if not np.array_equal(got, images[segment.first : segment.first + segment.count]):
            raise VerificationFailed(
                f"images {segment.first} to {segment.first + segment.count - 1} differ when decoded"
            )
        progress(got.size)
