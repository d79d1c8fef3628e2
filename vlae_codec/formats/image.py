"""Files of one image as a kind: how they are explained, checked and restored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlae_codec import files
from vlae_codec.errors import CorruptFile, UnsupportedImage, VlaeError
from vlae_codec.images import io as imaging
from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.images.rasters import Form
from vlae_codec.registry import Model, Models, find_config, window_of
from vlae_codec.stages import StageKind

from . import header as container
from .header import FileKind
from .single import CODED_MODES, decompress
from .source import FORMAT, NAME, restore_file

if TYPE_CHECKING:
    from .request import Request

#: What comes back of a source file, by the form in which it is kept; None for those that are stored.
RESTORES = {
    None: "bit for bit", Form.RASTER: "bit for bit", Form.QOI: "bit for bit", Form.PNG_EXACT: "bit for bit",
    Form.PNG: "same pixels and metadata",
}  # fmt: skip


def model_for(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> Model | None:
    """The model for a file, on the device that was chosen; None where none is needed."""
    if container.kind_of(data) is FileKind.VLAE:
        return models.load() or models.find(container.read(data, max_pixels)[0].model_id)
    return models.load()


def info(data: bytes) -> dict[str, Any]:
    """What a .vlae file holds and where its bits went, without decoding it.

    Returns
    -------
    dict. Of a stored file: ``file_bytes``, ``mode`` (``stored``), ``why``, ``name``, ``source_bytes``,
    ``stored_bytes``. Otherwise at least ``file_bytes``, ``width``, ``height``, ``pixels`` (the number of subpixels),
    ``bits_per_subpixel``, ``mode`` (``vlae``, ``vlae-no-z`` or ``fallback``), ``model``, ``window``, ``elbo_bits`` and
    ``bits``: ``z_prior`` (pushed under p(z)), ``z_posterior`` (popped under q(z|x)), ``pixels``, ``lanes_and_flush``,
    ``header``. ``restores`` tells what comes back: ``bit for bit`` the source file, its ``same pixels and metadata``,
    or just ``pixels`` of what was no file. For a fallback, ``model``, ``window`` and ``elbo_bits`` are None
    and ``pixels`` is its payload.
    """
    if container.kind_of(data) is FileKind.STORED:
        reason, name, content = container.read_stored(data)
        return {
            "file_bytes": len(data), "format_version": container.VERSION, "mode": "stored", "why": reason.text,
            "restores": RESTORES[None], "name": name, "source_bytes": len(content),
            "stored_bytes": min(len(content), len(data)),
        }  # fmt: skip
    header, payload = container.read(data, container.MAX_SIDE**2)
    image_mode = header.pillow_mode if header.file_kind is FileKind.FALLBACK else header.pixel_kind.image_mode
    try:
        bands = len(Image.new(image_mode, (1, 1)).getbands())
    except ValueError:
        raise CorruptFile(f"the file holds an image of mode {image_mode!r}, which Pillow does not know") from None
    subpixels = header.width * header.height * bands
    result: dict[str, Any] = {
        "file_bytes": len(data),
        "format_version": container.VERSION,
        "width": header.width,
        "height": header.height,
        "image_mode": image_mode,
        "pixels": subpixels,
        "bits_per_subpixel": 8 * len(data) / subpixels,
        "name": header.source.name if header.source else header.metadata.get(NAME, ""),
        "restores": RESTORES[header.source.form] if header.source else "pixels",
        "metadata": sorted(set(header.metadata) - {NAME, FORMAT}),
    }
    overhead = 8 * (len(data) - len(payload))
    if header.file_kind is FileKind.FALLBACK:
        bits = {
            "z_prior": 0,
            "z_posterior": 0,
            "pixels": 8 * len(payload),
            "alpha": 0,
            "lanes_and_flush": 0,
            "header": overhead,
        }
        return result | {
            "mode": "fallback", "fallback": header.fallback_kind.name.lower(), "model": None, "window": None,
            "why": "smaller than the VLAE" if image_mode in CODED_MODES else f"no model codes mode {image_mode}",
            "bits": bits, "elbo_bits": None,
        }  # fmt: skip
    prior, posterior, pixels = header.costs
    elbo = prior - posterior + pixels
    bits = {
        "z_prior": prior, "z_posterior": posterior, "pixels": pixels, "alpha": 8 * len(header.alpha),
        "lanes_and_flush": 8 * len(payload) - elbo, "header": overhead - 8 * len(header.alpha),
    }  # fmt: skip
    holds_z = any(stage.kind is not StageKind.WITHOUT_Z for stage in header.stages)
    known = find_config(header.model_id)
    return result | {
        "mode": "vlae" if holds_z else "vlae-no-z",
        "why": "WebP, PNG and deflated pixels are larger, or were judged so by a quick try",
        "model": known[0] if known else None,
        "model_id": header.model_id.hex(),
        "window": window_of(known[1]) if known else None,
        "coded_channels": header.channels,
        "values": [int(row.sum()) for row in header.occurring] if header.occurring is not None else [],
        "adapts": header.adapts,
        "orientation": header.orientation,
        "messages": len(header.lengths) + 1,
        "lanes": header.lanes,
        "stages": [{"rows": s.count, "z": s.kind.name.lower().replace("_", "-")} for s in header.stages],
        "bits": bits,
        "elbo_bits": elbo,
    }


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound file holds, in words; see `kinds.check`."""
    kind = container.kind_of(data)
    if kind is FileKind.STORED:
        _, name, content = container.read_stored(data)
        return f"stored, {name or 'a source file'} of {len(content)} bytes"
    what, model = info(data), model_for(data, models, max_pixels)
    if what["restores"] != "pixels":
        restore_file(data, model, max_pixels=max_pixels)
        return f"{kind.name.lower()}, {what['width']} x {what['height']}, {what['restores']}"
    image = decompress(data, model, max_pixels=max_pixels)
    return f"{kind.name.lower()}, {image.width} x {image.height}, {image.mode}"


def restore(data: bytes, request: Request) -> str:
    """Write the image as a file, by default with the name and the format of its source."""
    if request.select:
        raise VlaeError("--select is for archives, and this is a file of one image")
    request.refuse_draws("a file of one image without loss")
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
        return output or original, restore_file(data)[1]
    model = model_for(data, request.models, request.max_pixels)
    if output in (None, files.STANDARD) or (as_it_was and anew):
        name, encoded = restore_file(data, model, progress=request.progress, max_pixels=request.max_pixels)
        return output or name, encoded
    image = decompress(data, model, progress=request.progress, max_pixels=request.max_pixels)
    return output or original, imaging.encode_output(image, suffix)
