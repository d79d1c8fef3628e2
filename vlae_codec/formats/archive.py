"""Archives: many images in one .vlae file, in segments that decode on their own. FORMAT.md is the specification."""

from __future__ import annotations

import io
import math
import operator
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec import files
from vlae_codec.errors import (
    CorruptFile,
    UnknownModel,
    UnsupportedImage,
    VlaeError,
    describe,
)
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import MAX_PIXELS, check_size
from vlae_codec.images.sets import Source, array_bytes, is_array
from vlae_codec.registry import MAX_MODEL_BYTES, Model, Models, find_model, model_from_bytes, model_id
from vlae_codec.stages import Progress, StageKind, expect, no_progress

from . import header as container
from .header import FileKind
from .image import info as image_info
from .request import Request
from .section_writer import CHAINS, Tag
from .sections import Sections, Segment
from .single import decompress
from .source import restore_file

#: Decoded segments that a reader keeps, the last that were used.
KEPT_SEGMENTS = 32


class _Decoded:
    """Segments as they were decoded, the one that was used last at the end."""

    def __init__(self) -> None:
        self.segments: dict[int, NDArray[np.uint8]] = {}
        #: What is wrong with segments that did not decode, so that it is found out once.
        self._broken: dict[int, str] = {}

    def get(
        self, number: int, decode: Callable[[], NDArray[np.uint8]], most: int, most_pixels: int
    ) -> NDArray[np.uint8]:
        """A segment; of those used before, so many are kept at most, and so many pixels."""
        if number in self._broken:
            raise CorruptFile(self._broken[number])
        decoded, kept = self.segments.pop(number, None), self.segments
        if decoded is None:
            try:
                decoded = decode()
            except CorruptFile as error:
                self._broken[number] = str(error)
                raise
            room = most_pixels - decoded.size
            while kept and (len(kept) >= most or sum(segment.size for segment in kept.values()) > room):
                del kept[next(iter(kept))]
        kept[number] = decoded
        return decoded


class Archive(Sections):
    """An archive whose images decode when they are asked for.

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
    kept : int
        Decoded segments of a chain that are kept, at least one; of ``max_pixels`` together at most.
    """

    def __init__(
        self, file: BinaryIO, model: Model | None = None, device: str = "auto", max_pixels: int = MAX_PIXELS
    ) -> None:
        super().__init__(file)
        self.device = device
        self.max_pixels = max_pixels
        self.kept = KEPT_SEGMENTS
        self._given = model
        self._decoded = _Decoded()

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

    def check(self) -> list[str]:
        """Decode everything; one line for each segment that is damaged."""
        problems = list(self.damaged)
        problems += [f"several images are named {name!r}" for name in self.repeated_names()]
        try:
            self.attributes()
        except CorruptFile as error:
            problems.append(str(error))
        for number, segment in enumerate(self.segments):
            try:
                # Of a file its bytes: not of every one can Pillow make an image.
                if segment.tag in CHAINS or self.source.kind == "array" or self.source_file(segment.first) is None:
                    self._image(number, 0)
            except CorruptFile as error:
                problems.append(f"{self.place(segment.first)}: {error}")
        return problems

    def info(self) -> dict[str, Any]:
        """What the archive holds and where its bits went, without decoding: as `image.info`, summed over segments."""
        bits, models, particles = _bits_of(self)
        used = sum(bits.values()) - 2 * bits["z_posterior"]
        return {
            "file_bytes": self.file.file_bytes, "mode": "archive", "images": len(self), "source": self.source.to_json(),
            "segments": len(self.segments), "particles": particles, "models": sorted(models),
            "embedded_model": self.embedded is not None,
            "bits": bits | {"header": 8 * self.file.file_bytes - used},
            "elbo_bits": bits["z_prior"] - bits["z_posterior"] + bits["pixels"],
            "bits_per_image": 8 * self.file.file_bytes / max(len(self), 1), "damaged": self.damaged,
        }  # fmt: skip

    # Segments

    def _model(self, wanted: bytes) -> Model:
        if self._given is not None:
            if self._given.id != wanted:
                raise UnknownModel(
                    f"the archive was made with model {wanted.hex()}, not with {self._given.name} "
                    f"({self._given.id.hex()})"
                )
            return self._given
        if self.embedded is not None:
            _, body, _ = self.file.section_at(self.embedded, Tag.MODEL)
            if len(body) <= MAX_MODEL_BYTES and model_id(body) == wanted:
                self._given = model_from_bytes(body, "embedded", self.device)
                return self._given
        return find_model(wanted, self.device)

    def binary_segment(self, segment: Segment) -> NDArray[np.uint8]:
        """All images of a chain, (N, S, S) of zeros and ones."""
        chain = self.chain(segment)
        model = self._model(chain.model)
        side = model.config.image_size
        if not side:
            raise CorruptFile("a chain of images names a model for photographs")
        check_size((segment.count * side, side), "the segment", self.max_pixels)
        stages, message = chain.stages(segment.count), chain.message()
        if any((stage.kind is StageKind.WITHOUT_Z) == bool(model.config.z_channels) for stage in stages):
            raise CorruptFile("the segment's batches are not of the kind that its model codes")
        images = np.concatenate(list(model.binary.decode(message, stages)))
        chain.check(images, message)
        return images

    def _image(self, number: int, within: int) -> Any:
        segment = self.segments[number]
        if segment.tag is Tag.SINGLE:
            data = self.single(segment)
            image = decompress(data, self._model_of(data), max_pixels=self.max_pixels)
            return _shaped(self.source, np.asarray(image)) if self.source.kind == "array" else image
        decoded = self._decoded.get(number, lambda: self.binary_segment(segment), self.kept, self.max_pixels)
        return _as_it_was(self.source, decoded[within])

    def source_file(self, index: int) -> bytes | None:
        """The file that image number ``index`` was; None for one of a chain. Raises as ``[]`` does."""
        segment = self.segments[bisect_right(self.segments, index, key=lambda segment: segment.first) - 1]
        if segment.tag is not Tag.SINGLE:
            return None
        data = self.single(segment)
        name = (self._segment_names(segment) or [str(index)])[0]
        return restore_file(data, self._model_of(data), name=name, max_pixels=self.max_pixels)[1]

    def _model_of(self, data: bytes) -> Model | None:
        """The model of a single image's file; None if it needs none."""
        if container.kind_of(data) is not FileKind.VLAE:
            return None
        return self._model(container.read(data, self.max_pixels)[0].model_id)

    def array(self, progress: Progress = no_progress) -> NDArray:
        """All images as the array that they were; `CorruptFile` for an archive of files."""
        if self.source.kind != "array":
            raise CorruptFile("the archive holds files, not an array")
        if self.damaged:
            raise CorruptFile(self.damaged[0])
        array, problems = self.intact(progress)
        if problems:
            raise CorruptFile(problems[0])
        return array

    def intact(self, progress: Progress = no_progress) -> tuple[NDArray, list[str]]:
        """The images of an array that are not damaged, in order, and one line for each segment that is."""
        images: list[NDArray] = []
        problems = dict.fromkeys(self.damaged)
        expect(progress, len(self) * math.prod(self.source.shape[1:3]))
        for segment in self.segments:
            try:
                images += [self[segment.first + i] for i in range(segment.count)]
            except CorruptFile as error:
                problems[f"{self.place(segment.first)}: {error}"] = None
                continue
            progress(segment.count * math.prod(self.source.shape[1:3]))
        array = np.stack(images) if images else np.empty((0, *self.source.shape[1:]))
        return array.astype(self.source.dtype), list(problems)


def _as_it_was(source: Source, bits: NDArray[np.uint8]) -> Any:
    """A binary image (S, S) of zeros and ones as it was: an image, or part of an array."""
    if source.kind == "files":
        image = Image.fromarray(bits * np.uint8(source.high))
        return image.convert("1") if source.mode == "1" else image
    shaped = _shaped(source, bits)
    return shaped.astype(bool) if source.dtype == "bool" else shaped * np.uint8(source.high)


def _shaped(source: Source, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image of an array in the array's shape: a last dimension of one is not coded."""
    shape = source.shape[1:]
    if image.shape not in (shape, shape[:-1] if shape[2:] == (1,) else shape):
        raise CorruptFile(f"an image of shape {image.shape} in an array of images of shape {shape}")
    return image.reshape(shape)


def _bits_of(sections: Sections) -> tuple[dict[str, int], set[str], int]:
    """Where the bits of all segments went, the models' ids, and the most draws of a z."""
    bits = dict.fromkeys(("z_prior", "z_posterior", "pixels", "alpha", "stored", "lanes_and_flush"), 0)
    models, particles = set(), 1
    for segment in sections.segments:
        if segment.tag in CHAINS:
            chain = sections.chain(segment)
            models.add(chain.model.hex())
            particles = max(particles, chain.particles)
            for key, cost in zip(("z_prior", "z_posterior", "pixels"), chain.costs, strict=True):
                bits[key] += cost
            elbo = chain.costs[0] - chain.costs[1] + chain.costs[2]
            bits["lanes_and_flush"] += 8 * len(chain.payload) - elbo
        else:
            one = image_info(sections.single(segment))
            models |= {one["model_id"]} if "model_id" in one else set()
            for key in bits:
                bits[key] += one.get("bits", {}).get(key, 0)
            if one["mode"] == "stored":
                bits["stored"] += 8 * one["stored_bytes"]
    return bits, models, particles


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


def info(data: bytes) -> dict[str, Any]:
    """See `Archive.info`."""
    return Archive(io.BytesIO(data)).info()


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound archive holds, in words, everything decoded; `CorruptFile` names what is damaged."""
    archive = Archive(io.BytesIO(data), models.load(), models.device, max_pixels)
    problems = archive.check()
    if problems:
        raise CorruptFile(_some(problems))
    return f"archive, {len(archive)} images"


def restore(data: bytes, request: Request) -> str:
    """Write an archive's images, or its array, and say what was written.

    Raises
    ------
    VlaeError
        If something is damaged, or something is in the way of an image, after all else has been written.
    """
    request.refuse_draws("an archive")
    archive = Archive(io.BytesIO(data), request.models.load(), request.models.device, request.max_pixels)
    output, selected = request.needed_output("an archive"), request.select
    if archive.source.kind == "array" and not selected and is_array(output):
        files.check_writable(output, request.force)
        array, problems = archive.intact(request.progress)
        if not len(array):
            raise CorruptFile(f"nothing of the array is intact: {_some(problems)}")
        files.write_bytes(output, array_bytes(array, Path(output), archive.source.key), request.force)
        done = f"array of {array.dtype}, shape {array.shape}"
        if problems:
            raise CorruptFile(f"{output}: {done}, without what is damaged: {_some(problems)}")
        return f"{output}: {done}"
    indices = [archive.index_of(name) for name in selected] or range(len(archive))
    one = request.is_one_file(len(indices))
    names, problems = archive.names, list(archive.damaged)
    attributes: dict[str, files.Attributes | None] = {}
    if request.attributes:
        try:
            attributes = dict(zip(names, archive.attributes(), strict=True))
        except CorruptFile as error:
            problems.append(str(error))
    #: Where images went, by their paths as a file system that does not tell cases apart has them.
    written: dict[str, list[str]] = {}
    count = 0
    refused: list[str] = []

    def is_free(name: str) -> bool:
        """Whether nothing is in the way of an image, neither a file nor another image; what is, is noted."""
        try:
            path = output if one else str(files.below(Path(output), name))
            for other in written.get(path.casefold(), []):
                if Path(path).exists() and Path(path).samefile(other):
                    raise VlaeError(f"{path} has been written already, as another image of the archive is {other}")
            files.check_writable(path, request.force)
        except (VlaeError, FileExistsError, NotADirectoryError) as error:
            refused.append(describe(error))
            return False
        return True

    def write(name: str, content: bytes) -> None:
        nonlocal count
        if is_free(name):
            path = output if one else str(files.below(Path(output), name))
            files.write_bytes(path, content, request.force, attributes.get(name))
            written.setdefault(path.casefold(), []).append(path)
            count += 1

    # What is in the way is known before anything is decoded.
    free = [index for index in indices if is_free(names[index])]
    problems += extract(archive, free, write, request.progress, _other_suffix(output, names[indices[0]]) if one else "")
    if refused:
        raise VlaeError(f"{count} images restored, {len(refused)} not: {_some(refused)}")
    if problems:
        raise CorruptFile(f"{count} images restored; damaged: {_some(problems)}")
    return f"{output}: {count} images"


def _other_suffix(output: str, name: str) -> str:
    """The suffix of an output whose format is another than that of an image's name; otherwise none."""
    suffix = Path(output).suffix
    same = suffix.lower() == Path(name).suffix.lower() or imaging.format_of(output) == imaging.format_of(name) != ""
    return "" if same else suffix


def _some(problems: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more
