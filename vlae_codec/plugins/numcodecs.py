"""The codec ``vlae`` for chunks of uint8 pixels in numcodecs, whose codecs Zarr uses.

>>> import numpy as np
>>> from numcodecs.registry import get_codec
>>> import vlae_codec.plugins.numcodecs
>>> chunk = np.arange(2 * 16 * 16, dtype=np.uint8).reshape(2, 16, 16)
>>> codec = get_codec({"id": "vlae"})
>>> bool((codec.decode(codec.encode(chunk)) == chunk).all())
True
"""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray
from numcodecs.registry import register_codec
from numpy.typing import NDArray
from PIL import Image

from vlae_codec.errors import CorruptFile, UnsupportedImage
from vlae_codec.formats import single as api
from vlae_codec.registry import DEFAULT_MODEL, load_model

#: Begins the comment of a chunk's image, before N, where N images lie below each other.
STACK = "images below each other: "
#: Zarr calls from many threads. One of them already uses every core, and not each of numba's thread pools bears two.
_LOCK = threading.Lock()


class Vlae(Codec):
    """Chunks of uint8, C order, shape (H, W), (H, W, 3), (N, H, W) or (N, H, W, 3); a last dimension of 3 means RGB.

    A chunk becomes an ordinary .vlae file. Of N images that is one image of N * H rows, with N in its comment.

    Parameters
    ----------
    model : str
        The name of a model that is shipped, or lies in the folder that ``VLAE_CODEC_MODELS`` names.
    """

    codec_id = "vlae"

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        self.model = model

    def encode(self, buf: Any) -> bytes:
        """Compress a chunk and verify it; `UnsupportedImage` for other shapes, dtypes and orders."""
        chunk = ensure_ndarray(buf)
        colour = chunk.shape[-1:] == (3,) and chunk.ndim > 2
        if chunk.dtype != np.uint8 or chunk.ndim not in (2, 3, 3 + colour) or not chunk.size:
            raise UnsupportedImage(
                f"chunk of {chunk.dtype}, shape {chunk.shape}; expected uint8 (H, W), (H, W, 3), (N, H, W) or "
                "(N, H, W, 3)"
            )
        if not chunk.flags.c_contiguous:
            # numcodecs passes on memory, not indices: what decodes as rows would be taken for columns.
            raise UnsupportedImage(f"chunk of strides {chunk.strides}, expected one in C order without gaps")
        sides = chunk.ndim - colour
        image = Image.fromarray(chunk.reshape(-1, *chunk.shape[sides - 1 :]))
        if sides == 3:
            image.info["comment"] = f"{STACK}{len(chunk)}"
        with _LOCK:
            return api.compress(image, load_model(self.model))

    def decode(self, buf: Any, out: Any = None) -> NDArray[np.uint8]:
        """The chunk, uint8 of its shape, or ``out`` (C order, as many bytes) filled with it.

        Raises
        ------
        VlaeError
            If the data are damaged or made by a model that is not here, or ``out`` does not fit.
        """
        with _LOCK:
            image = api.decompress(ensure_bytes(buf))
        if image.mode not in ("L", "RGB"):
            raise CorruptFile(f"the chunk has mode {image.mode}, expected L or RGB")
        chunk = np.array(image)
        comment = image.info.get("comment")
        if comment is not None:
            chunk = _unstack(chunk, str(comment))
        if out is None:
            return chunk
        target = ensure_ndarray(out)
        if target.nbytes != chunk.nbytes or not target.flags.c_contiguous:
            raise UnsupportedImage(
                f"out has {target.nbytes} bytes of strides {target.strides}, expected {chunk.nbytes} in C order"
            )
        target.reshape(-1).view(np.uint8)[:] = chunk.reshape(-1)
        return out


def _unstack(tall: NDArray[np.uint8], comment: str) -> NDArray[np.uint8]:
    """Images (N, H, W[, 3]) from (N * H, W[, 3]) and the comment that says N."""
    match = re.fullmatch(STACK + "([1-9][0-9]{0,8})", comment)
    if match is None or len(tall) % int(match[1]):
        raise CorruptFile(f"the chunk of shape {tall.shape} has the comment {comment!r}, expected {STACK}N")
    return tall.reshape(int(match[1]), -1, *tall.shape[1:])


register_codec(Vlae)
