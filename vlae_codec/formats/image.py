"""Files of one image as a kind: `info` is that of `single`, and here is how they are checked and restored."""

from __future__ import annotations

import time
from pathlib import Path

from vlae_codec import files
from vlae_codec.errors import UnsupportedImage, VlaeError
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.registry import Model, Models

from . import header as container
from . import single
from .header import FileKind
from .request import Request
from .single import info

__all__ = ["check", "info", "model_for", "restore"]


def model_for(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> Model | None:
    """The model for a file, on the device that was chosen; None where none is needed."""
    if container.kind_of(data) is FileKind.VLAE:
        return models.load() or models.find(container.read(data, max_pixels)[0].model_id)
    return models.load()


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound file holds, in words; see `kinds.check`."""
    kind = container.kind_of(data)
    if kind is FileKind.STORED:
        _, name, content = container.read_stored(data)
        return f"stored, {name or 'a source file'} of {len(content)} bytes"
    what, model = info(data), model_for(data, models, max_pixels)
    if what["restores"] != "pixels":
        single.restore_file(data, model, max_pixels=max_pixels)
        return f"{kind.name.lower()}, {what['width']} x {what['height']}, {what['restores']}"
    image = single.decompress(data, model, max_pixels=max_pixels)
    return f"{kind.name.lower()}, {image.width} x {image.height}, {image.mode}"


def restore(data: bytes, request: Request) -> str:
    """Write the image as a file, by default with the name and the format of its source."""
    if request.select:
        raise VlaeError("--select is for archives, and this is a file of one image")
    begun = time.monotonic()
    output, encoded = _restored(data, request)
    files.write_bytes(output, encoded, request.force, request.kept)
    what = info(data)
    if what["mode"] == "stored":
        return f"{output}: the source file as it was"
    speed = what["width"] * what["height"] / 1e6 / (time.monotonic() - begun)
    return f"{output}: {what['width']} x {what['height']}, {what['image_mode']}, {speed:.2f} MP/s"


def _restored(data: bytes, request: Request) -> tuple[str, bytes]:
    """Where the image goes, and the bytes of its file; the place is checked before any work."""
    what = info(data)
    output, original, kept = request.output, str(what["name"]), what["restores"] != "pixels"
    if output is None and not original:
        raise UnsupportedImage("the file does not name its source; name an output with --output")
    suffix = Path(output or original).suffix
    as_it_was = output in (None, files.STANDARD) or suffix.lower() == Path(original).suffix.lower()
    if kept and not as_it_was:
        as_it_was = not suffix or imaging.format_of(output or "") == imaging.format_of(original) != ""
    # The pixels of a JPEG come back as a PNG, under a name that says so.
    anew = kept or imaging.format_of(original) in imaging.RESTORED
    files.check_writable(output or (original if anew else f"{original}.png"), request.force)
    if container.kind_of(data) is FileKind.STORED and as_it_was:
        return output or original, single.restore_file(data)[1]
    model = model_for(data, request.models, request.max_pixels)
    if output in (None, files.STANDARD) or (as_it_was and anew):
        name, encoded = single.restore_file(data, model, progress=request.progress, max_pixels=request.max_pixels)
        return output or name, encoded
    image = single.decompress(data, model, progress=request.progress, max_pixels=request.max_pixels)
    return output or original, imaging.encode_output(image, suffix)
