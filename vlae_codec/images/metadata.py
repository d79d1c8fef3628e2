"""What an image says beside its pixels, as values that JSON holds, and back into an image or a file.

These are the entries of Pillow's ``Image.info`` that `KEPT` names, and text. A file that is made again as it was needs
none of them: see `rasters`.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlae_codec.errors import CorruptFile

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

#: Entries of ``Image.info`` that are kept, and what they are made of: a PNG may hold text under any of these names.
KEPT: dict[str, tuple[type, ...]] = {
    "icc_profile": (bytes,),
    "exif": (bytes,),
    "xmp": (bytes,),
    "dpi": (tuple,),
    "gamma": (float, int),
    "srgb": (int,),
    "chromaticity": (tuple,),
    "transparency": (bytes, int, tuple),
    "comment": (bytes, str),
    "aspect": (tuple,),
}


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """The kept entries of ``Image.info``, and PNG text, as values that JSON holds."""
    encoded = {key: _to_json(image.info[key]) for key, kinds in KEPT.items() if isinstance(image.info.get(key), kinds)}
    text = {key: str(value) for key, value in getattr(image, "text", {}).items() if key not in KEPT}
    if text:
        encoded["text"] = text
    return encoded


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return [v if isinstance(v, int) else float(v) for v in value]
    return value


def restore_metadata(image: Image.Image, metadata: dict[str, Any]) -> None:
    """Put metadata back into ``Image.info``; `CorruptFile` if they are not of the form that this module writes."""
    try:
        for key, value in metadata.items():
            if key == "text":
                image.info.update({str(k): str(v) for k, v in value.items()})
            elif key in KEPT:
                if isinstance(value, dict):
                    value = base64.b64decode(value["bytes"], validate=True)
                value = tuple(value) if isinstance(value, list) else value
                if not isinstance(value, KEPT[key]):
                    raise ValueError(f"{key} is {value!r}")
                image.info[key] = value
    except MemoryError:
        raise
    except Exception as error:
        # Base64 and tuples of damaged data raise of several kinds.
        raise CorruptFile(f"the metadata cannot be restored: {error}") from None


def png_text(image: Image.Image) -> PngInfo:
    """What Pillow does not write into a PNG by itself: text, XMP, gamma, sRGB and chromaticities."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    reserved = {*KEPT, "text"}
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str) and key not in reserved:
            chunks.add_itxt(key, value) if not value.isascii() else chunks.add_text(key, value)
    if isinstance(image.info.get("xmp"), bytes):
        chunks.add_itxt("XML:com.adobe.xmp", image.info["xmp"].decode("utf-8", "replace"))
    if isinstance(image.info.get("gamma"), (int, float)):
        chunks.add(b"gAMA", struct.pack(">I", round(image.info["gamma"] * 100000)))
    if isinstance(image.info.get("srgb"), int):
        chunks.add(b"sRGB", bytes([image.info["srgb"] & 3]))
    chromaticity = image.info.get("chromaticity")
    if isinstance(chromaticity, tuple) and len(chromaticity) == 8:
        chunks.add(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in chromaticity)))
    return chunks


def encode_options(image: Image.Image, fmt: str) -> dict[str, Any]:
    """Options for `Image.save` that write an image's metadata into a file of a format."""
    names = ["icc_profile", "exif", "dpi", "transparency", "comment", "xmp"]
    options = {key: image.info[key] for key in names if key in image.info}
    if fmt == "PNG":
        options.pop("xmp", None)
        options["pnginfo"] = png_text(image)
    return options
