"""Image files taken apart into samples and what else they hold, so that the very bytes can be made again.

`find` takes a file apart, `rebuild` is its inverse. What `find` does not know is for its caller to keep whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.errors import CorruptFile
from vlae_codec.fields import Reader
from vlae_codec.images.pixels import MAX_PIXELS, check_size

#: A file is taken apart if its samples are more than one part in so many of its bytes.
SHARE = 2


class Form(IntEnum):
    """How a source file is made again from its pixels."""

    #: Samples lie where a layout says.
    RASTER = 0
    #: The format's own encoder, whose choices are fixed.
    QOI = 1
    #: Filtered and deflated as it was.
    PNG_EXACT = 2
    #: The same pixels and chunks, deflated anew.
    PNG = 3


@dataclass(frozen=True)
class Found:
    """A file taken apart.

    Attributes
    ----------
    form : Form
    values : array
        Pixels: uint8 (H, W) or (H, W, C), uint16 (H, W), or bool (H, W).
    indexed : bool
        Whether they are no brightness, so that no model fits them.
    recipe : bytes
        What `rebuild` needs besides.
    digest : bytes
        Of what comes back: 8 bytes.
    """

    form: Form
    values: NDArray = field(repr=False)
    indexed: bool
    recipe: bytes = field(repr=False)
    digest: bytes

    @property
    def picture(self) -> NDArray[np.uint8] | Image.Image:
        """An array where a model may fit the pixels, else an image."""
        plain = self.values.dtype == np.uint8 and not self.indexed
        return self.values if plain else Image.fromarray(self.values)


def find(data: bytes, name: str = "the source", max_pixels: int = MAX_PIXELS) -> Found | None:
    """A file taken apart, so that `rebuild` gives the very bytes, or of a PNG at least all but its deflated stream.

    None if it is of no format that is known here, or not as its format's readers want it.

    Raises
    ------
    UnsupportedImage
        If it has more than ``max_pixels``.
    """
    # Modules of formats are loaded when they are first needed, as are loops, which are compiled.
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _find_png(data, name, max_pixels)
    if data[:4] == b"qoif":
        return _find_qoi(data, name, max_pixels)
    return _find_raster(data, name, max_pixels)


def _find_raster(data: bytes, name: str, max_pixels: int) -> Found | None:
    from . import bmp, pnm, sgi, tga, tiff
    from .layout import to_values

    # The one without a magic comes last.
    for read in (bmp.read, pnm.read, sgi.read, tiff.read, tga.read):
        layout = read(data)
        if layout is not None and layout.fits(len(data)):
            check_size((layout.width, layout.height), name, max_pixels)
            taken = layout.take(data) if layout.total * SHARE >= len(data) else None
            if taken is None:
                return None
            samples, others = taken
            values = to_values(samples)
            return Found(Form.RASTER, values, layout.indexed, layout.to_bytes() + others, digest_of_parts([data]))
    return None


def _find_png(data: bytes, name: str, max_pixels: int) -> Found | None:
    from . import png
    from .layout import to_values

    shape = png.read_shape(data)
    if shape is None:
        return None
    check_size((shape.width, shape.height), name, max_pixels)
    found = png.read(data)
    if found is None:
        return None
    values = to_values(found.samples)
    if shape.depth == 1:
        values = values.astype(np.bool_)
    if found.stream:
        return Found(Form.PNG_EXACT, values, shape.indexed, png.to_recipe(found), digest_of_parts([data]))
    parts = (found.before, found.after, found.samples.tobytes())
    return Found(Form.PNG, values, shape.indexed, png.to_recipe(found), digest_of_parts(parts))


def _find_qoi(data: bytes, name: str, max_pixels: int) -> Found | None:
    from . import qoi

    size = qoi.size(data)
    if size is None:
        return None
    check_size(size, name, max_pixels)
    found = qoi.read(data)
    return Found(Form.QOI, found[0], False, found[1], digest_of_parts([data])) if found else None


def rebuild(form: Form, recipe: bytes, picture: NDArray | Image.Image, digest: bytes) -> bytes:
    """The file that `find` took apart, from its pixels.

    Raises
    ------
    CorruptFile
        If the recipe does not fit the pixels, or what comes back is not what was taken apart.
    """
    values = np.asarray(picture)
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    parts: Iterable[bytes]
    if form is Form.RASTER:
        from .layout import Layout, from_values

        reader = Reader(recipe)
        layout = Layout.read(reader, *values.shape[:2])
        data = layout.put(from_values(values, layout.channels, layout.size), recipe[reader.at :])
        parts = [data]
    elif form is Form.QOI:
        from . import qoi

        if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint8:
            raise CorruptFile(f"pixels of shape {values.shape} in a QOI file, expected three or four channels")
        data = qoi.write(values, recipe)
        parts = [data]
    else:
        from . import png

        found = png.from_recipe(recipe, values, form is Form.PNG_EXACT)
        data = png.rewritten(found, lambda data: digest_of_parts([data]) == digest)
        parts = [data] if found.stream else (found.before, found.after, found.samples.tobytes())
    got = digest_of_parts(parts)
    if got != digest:
        raise CorruptFile(f"checksum of the file made again is {got.hex()}, {digest.hex()} is stored")
    return data


def digest_of_parts(parts: Iterable[bytes]) -> bytes:
    """The first 8 bytes of BLAKE2b over some bytes."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part)
    return state.digest()
