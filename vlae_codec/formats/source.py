"""A file of an image as the source of a .vlae file: compressed, and given back under its name."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlae_codec.errors import UnsupportedImage
from vlae_codec.images import io as imaging
from vlae_codec.images import rasters
from vlae_codec.images.io import Reason
from vlae_codec.images.metadata import metadata_of
from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.images.rasters import Form
from vlae_codec.registry import Model
from vlae_codec.stages import Progress, no_progress

from . import header as container
from .header import FileKind, SourceFile
from .single import compress_subject, decompress, rebuilt, subject_of

#: Keys of the metadata for the source file's name, and for its format where the name does not tell.
NAME, FORMAT = "name", "format"


@dataclass(frozen=True)
class FileOptions:
    """How a file is compressed.

    Attributes
    ----------
    pixels : bool
        Code the pixels in any case, and never keep the source itself: what Pillow sees of it, and of its metadata the
        entries that `metadata.KEPT` names.
    strip : bool
        The same, without metadata but for transparency.
    exact : bool
        Only bit for bit: a PNG that cannot be deflated as it was is kept whole.
    quick : bool
        Try no form that takes long, even where it may be smaller: no WebP and no JPEG XL.
    adapt : bool
        Of a model that is loaded for this: see `registry.Model`.
    named : bool
        Keep the name; without it `restore_file` must be told one with the same suffix.
    particles : int
        Of a model for binary images, in archives: see `archive_writer.archive_array`.
    verify : bool
        Decode the result and compare before returning it.
    max_pixels : int
        Refuse an image that has more.
    """

    pixels: bool = False
    strip: bool = False
    exact: bool = False
    quick: bool = False
    adapt: bool = True
    particles: int = 1
    named: bool = True
    verify: bool = True
    max_pixels: int = MAX_PIXELS


def compress_file(
    source: bytes, name: str, model: Model | None = None, options: FileOptions | None = None,
    progress: Progress = no_progress,
) -> bytes:  # fmt: skip
    """Compress the bytes of an image file, so that `restore_file` gives them back.

    A file is coded by its pixels only where it is made again of them bit for bit, or, of a PNG, all but the way in
    which its pixels are deflated. Every other file is kept whole, packed where that is smaller.

    Parameters
    ----------
    source : bytes
    name : str
        Of the file, without folders; it is restored, unless it is empty or no file could have it.
    model : Model, optional
        From `load_model`; by default the shipped one for photographs.
    options : FileOptions, optional
    progress
        As for `single.compress`.

    Raises
    ------
    UnsupportedImage
        If the file is no image; with ``pixels`` or ``strip``, if Pillow would read only part of it.
    VerificationFailed
        As for `single.compress`.
    """
    options = options or FileOptions()
    called = name or "the source"
    name = name if options.named and container.is_file_name(name) else ""
    found = None if options.strip else rasters.find(source, called, options.max_pixels)
    if options.strip or (options.pixels and not found):
        image = imaging.open_image(source, called, options.max_pixels)
        return _compress_pixels(image, name, model, options, progress)
    if found is None or (options.exact and found.form is Form.PNG):
        reason = Reason.FORMAT if found else imaging.reason_to_keep(source, called, options.max_pixels)
        return container.write_stored(reason, name, source)
    made_of = (SourceFile(found.form, name, found.recipe), found.digest)
    held = [found.picture]
    # What was taken apart is not needed any more, and a large picture takes as much memory as all else.
    del found
    data = compress_subject(held.pop(), {}, model, options.verify, progress, made_of, options.quick)
    # Only where no model was of use can packing be better.
    if container.kind_of(data) is FileKind.VLAE and len(data) <= len(source):
        return data
    stored = container.write_stored(Reason.SMALLEST, name, source)
    return stored if len(stored) <= len(data) and not options.pixels else data


def _compress_pixels(
    image: Image.Image, name: str, model: Model | None, options: FileOptions, progress: Progress
) -> bytes:
    """What Pillow sees of a file, with or without its metadata."""
    metadata = metadata_of(image)
    if options.strip:
        metadata = {key: value for key, value in metadata.items() if key == "transparency"}
    if name:
        metadata[NAME] = name
    if not imaging.has_format(name, image.format):
        metadata[FORMAT] = image.format
    return compress_subject(subject_of(image), metadata, model, options.verify, progress, quick=options.quick)


def restore_file(
    data: bytes,
    model: Model | None = None,
    *,
    name: str = "",
    progress: Progress = no_progress,
    max_pixels: int = container.MAX_PIXELS,
) -> tuple[str, bytes]:
    """The name and the bytes of the file that `compress_file` was given; `info` tells whether they are the very bytes.

    An image that was no file, or whose format cannot be written here, becomes a PNG, or a TIFF if PNG cannot hold it.
    ``name`` stands in where the file holds none. Raises as `decompress` does.
    """
    if container.kind_of(data) is FileKind.STORED:
        _, found, content = container.read_stored(data)
        progress(1)
        return found or name, content
    header, payload = container.read(data, max_pixels)
    if header.source:
        return header.source.name or name, rebuilt(header, payload, model, progress)
    image = decompress(data, model, progress=progress, max_pixels=max_pixels)
    found, fmt = str(header.metadata.get(NAME, "")), header.metadata.get(FORMAT)
    name = found if container.is_file_name(found) else name
    for choice in (str(fmt or imaging.format_of(name)), "PNG", "TIFF"):
        try:
            if choice in imaging.RESTORED:
                encoded = imaging.encode_file(image, choice)
                # Never a PNG under the name of a JPEG.
                wrong = name and choice not in (fmt, imaging.format_of(name))
                return f"{name}.{choice.lower()}" if wrong else name, encoded
        except UnsupportedImage:
            if choice == "TIFF":
                raise
    raise UnsupportedImage(f"no format found for an image of mode {image.mode}")
