"""The codec ``vlae`` of Zarr 3, which makes a .vlae file of each chunk of pixels.

>>> import numpy as np
>>> import zarr
>>> array = zarr.create_array(
...     {}, shape=(4, 16, 16, 3), chunks=(2, 16, 16, 3), dtype="uint8", serializer=VlaeCodec(), compressors=None
... )
>>> array[:] = 7
>>> bool((array[:] == 7).all())
True
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import parse_named_configuration

from vlae_codec.errors import CorruptFile, UnsupportedImage
from vlae_codec.registry import DEFAULT_MODEL

from .numcodecs import Vlae

#: The codec's name in an array's metadata.
NAME = "vlae"


@dataclass(frozen=True)
class VlaeCodec(ArrayBytesCodec):
    """Arrays of uint8, shape (..., H, W) or (..., H, W, 3); a last dimension of 3 means RGB.

    A chunk's images lie below each other in one .vlae file. Chunks that are whole images, and not parts of some, are
    the smallest. It takes the place of the codec ``bytes`` (Zarr's ``serializer``); nothing makes its chunks smaller,
    so leave out ``compressors``.

    Parameters
    ----------
    model : str
        The name of a model that is shipped, or lies in the folder that ``VLAE_CODEC_MODELS`` names.
    """

    is_fixed_size = False
    model: str = DEFAULT_MODEL

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VlaeCodec:
        """The codec of an array's metadata."""
        _, configuration = parse_named_configuration(data, NAME, require_configuration=False)
        return cls(**(configuration or {}))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """As the array's metadata hold it."""
        return {"name": NAME, "configuration": {"model": self.model}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays of other dtypes and too few dimensions (`UnsupportedImage`)."""
        kind = dtype.to_native_dtype()
        if kind != np.uint8 or len(shape) < 2:
            raise UnsupportedImage(
                f"array of {kind}, {len(shape)} dimensions; expected uint8 (..., H, W) or (..., H, W, 3)"
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Zarr asks this of codecs whose output has one size only."""
        raise NotImplementedError("the size depends on the pixels")

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        chunk = np.ascontiguousarray(chunk_array.as_numpy_array())
        colour = chunk.shape[-1:] == (3,) and chunk.ndim > 2
        data = Vlae(self.model).encode(chunk.reshape(-1, *chunk.shape[-1 - colour :]))
        return chunk_spec.prototype.buffer.from_bytes(data)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        chunk = Vlae(self.model).decode(chunk_bytes.to_bytes())
        if chunk.size != np.prod(chunk_spec.shape):
            raise CorruptFile(f"the chunk has shape {chunk.shape}, expected {chunk_spec.shape}")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(chunk.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)
