"""What an image file says beside its pixels, as values that JSON holds, and back into an image or a file.

A PNG's chunks are kept as they are. Of other formats the entries of Pillow's ``Image.info`` that `KEPT` names are kept,
and the tags of a TIFF file.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from vlae_codec.errors import CorruptFile

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
#: Key of the metadata under which a PNG's chunks lie.
PNG_CHUNKS = "png"
#: Key of the tags of a TIFF file, and of its compression.
TIFF_TAGS, TIFF_COMPRESSION = "tiff", "compression"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks that hold the pixels themselves; tRNS is kept as ``transparency``.
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
#: Chunks that must come after the palette.
LATE_CHUNKS = (b"bKGD", b"hIST")
#: Chunks whose meaning depends on the number of bits of a sample.
DEPTH_CHUNKS = (b"bKGD", b"hIST", b"sBIT", b"tRNS")
#: Chunks of an animation.
ANIMATION_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
#: Tags of a TIFF file that say how its pixels, its profile and its other directories are stored.
STRUCTURAL_TAGS = frozenset(
    [*range(254, 260), 262, 263, 266, 273, *range(277, 282), 284, 288, 289, 292, 293, 297, 301, 317, *range(320, 326),
     330, 338, 339, 347, *range(512, 533), 700, 34665, 34675, 34853, 40965]
)  # fmt: skip
#: Compressions of TIFF that lose nothing and that Pillow writes.
TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "group3", "group4")


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """The kept entries of ``Image.info``, and PNG text, as values that JSON holds."""
    encoded = {key: _to_json(image.info[key]) for key, kinds in KEPT.items() if isinstance(image.info.get(key), kinds)}
    text = {key: str(value) for key, value in getattr(image, "text", {}).items() if key not in KEPT}
    if text:
        encoded["text"] = text
    return encoded


def metadata_of_file(image: Image.Image, data: bytes) -> dict[str, Any]:
    """The metadata of an image as its file has them, the form that `encode_options` gives back to the same format."""
    if image.format == "PNG":
        chunks = [chunk for chunk in png_chunks(data) if chunk[0] not in PIXEL_CHUNKS]
        chunks.sort(key=lambda chunk: chunk[0] in LATE_CHUNKS)
        kept = b"".join(_chunk(*chunk) for chunk in chunks)
        encoded: dict[str, Any] = {PNG_CHUNKS: base64.b64encode(kept).decode()} if kept else {}
        if "transparency" in image.info:
            encoded["transparency"] = _to_json(image.info["transparency"])
        return encoded
    encoded = metadata_of(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Resolution lies in the tags.
        encoded.pop("dpi", None)
        tags = [
            [tag, image.tag_v2.tagtype[tag], _tag_to_json(image.tag_v2[tag])]
            for tag in sorted(image.tag_v2)
            if tag not in STRUCTURAL_TAGS
        ]
        if tags:
            encoded[TIFF_TAGS] = tags
        if image.info.get("compression") in TIFF_COMPRESSIONS:
            encoded[TIFF_COMPRESSION] = image.info["compression"]
    return encoded


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return [v if isinstance(v, int) else float(v) for v in value]
    return value


def _tag_to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_tag_to_json(part) for part in value]
    if isinstance(value, TiffImagePlugin.IFDRational):
        return {"rational": [int(value.numerator), int(value.denominator)]}
    return _to_json(value)


def _tag_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tag_from_json(part) for part in value)
    if isinstance(value, dict):
        if "rational" in value:
            numerator, denominator = value["rational"]
            return TiffImagePlugin.IFDRational(int(numerator), int(denominator))
        return base64.b64decode(value["bytes"], validate=True)
    return value


def restore_metadata(image: Image.Image, metadata: dict[str, Any]) -> None:
    """Put metadata back into ``Image.info``; `CorruptFile` if they are not of the form that this module writes."""
    try:
        for key, value in metadata.items():
            if key == PNG_CHUNKS:
                image.info.update(_info_of_chunks(base64.b64decode(value, validate=True)))
            elif key == "text":
                image.info.update({str(k): str(v) for k, v in value.items()})
            elif key == TIFF_TAGS:
                # Checked here, used by `encode_options`.
                resolution = [_tag_from_json(v) for tag, _, v in value if tag in (282, 283)]
                if len(resolution) == 2 and all(resolution):
                    image.info["dpi"] = tuple(float(v[0] if isinstance(v, tuple) else v) for v in resolution)
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
        # Pillow reads the chunks of a PNG, and its decoders raise almost anything on damaged data.
        raise CorruptFile(f"the metadata cannot be restored: {error}") from None


# -- PNG ---------------------------------------------------------------------------------------------------------------


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and bodies of the chunks of a PNG file; stops where the file does."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        yield name, data[at + 8 : at + 8 + length]
        if name == b"IEND":
            return
        at += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _split_chunks(kept: bytes) -> list[tuple[bytes, bytes]]:
    return [chunk for chunk in png_chunks(PNG_SIGNATURE + kept) if chunk[0] not in PIXEL_CHUNKS]


def _info_of_chunks(kept: bytes) -> dict[str, Any]:
    """What Pillow reads from chunks: those of a PNG file of one pixel."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(b"\0\0"))
    early = b"".join(_chunk(*chunk) for chunk in _split_chunks(kept) if chunk[0] not in LATE_CHUNKS)
    carrier = PNG_SIGNATURE + header + early + pixel + _chunk(b"IEND", b"")
    with Image.open(io.BytesIO(carrier), formats=("PNG",)) as image:
        image.load()
        return {str(key): value for key, value in image.info.items()}


def insert_chunks(png: bytes, metadata: dict[str, Any]) -> bytes:
    """A PNG file with the chunks that metadata hold, where the PNG specification wants them."""
    kept = _split_chunks(base64.b64decode(metadata[PNG_CHUNKS]))
    out, late = bytearray(PNG_SIGNATURE), True
    for name, body in png_chunks(png):
        if name == b"IDAT" and late:
            late = False
            out += b"".join(_chunk(*chunk) for chunk in kept if chunk[0] in LATE_CHUNKS)
        out += _chunk(name, body)
        if name == b"IHDR":
            out += b"".join(_chunk(*chunk) for chunk in kept if chunk[0] not in LATE_CHUNKS)
    return bytes(out)


def png_text(image: Image.Image) -> PngInfo:
    """What Pillow does not write into a PNG by itself: text, XMP, gamma, sRGB and chromaticities."""
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


# -- other formats -----------------------------------------------------------------------------------------------------


def encode_options(image: Image.Image, fmt: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Options for `Image.save` that write an image's metadata into a file of a format."""
    names = ["icc_profile", "exif", "dpi", "transparency", "comment", "xmp"]
    options = {key: image.info[key] for key in names if key in image.info}
    if fmt == "PNG":
        options.pop("xmp", None)
        options["pnginfo"] = png_text(image)
    elif fmt == "TIFF" and TIFF_TAGS in metadata:
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, kind, value in metadata[TIFF_TAGS]:
            directory.tagtype[tag] = kind
            directory[tag] = _tag_from_json(value)
        options.pop("dpi", None)
        options["tiffinfo"] = directory
    if fmt == "TIFF" and metadata.get(TIFF_COMPRESSION) in TIFF_COMPRESSIONS:
        options["compression"] = metadata[TIFF_COMPRESSION]
    return options
