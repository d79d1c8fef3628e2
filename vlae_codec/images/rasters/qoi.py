"""QOI files as the format's own encoder writes them: its choices are fixed, so the pixels make the bytes again."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from .loops import QOI_END, decode_qoi, encode_qoi

START = 14
#: Pixels that one byte stands for at most.
RUN = 62


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height; None if this is no QOI file, or one too short for its size."""
    if len(data) < START + QOI_END or data[:4] != b"qoif" or data[12] not in (3, 4):
        return None
    width, height = struct.unpack_from(">II", data, 4)
    return (width, height) if 0 < width * height <= RUN * len(data) else None


def read(data: bytes) -> tuple[NDArray[np.uint8], bytes] | None:
    """Pixels (H, W, C), and the header's last bytes and what follows the operations; None if they make other bytes."""
    found = size(data)
    if found is None:
        return None
    pixels = np.empty((found[0] * found[1], 4), np.uint8)
    used = decode_qoi(np.frombuffer(data, np.uint8, offset=START), pixels)
    values = pixels.reshape(found[1], found[0], 4)[..., : data[12]]
    others = data[12:START] + data[START + used :]
    return (values, others) if used >= 0 and write(values, others) == data else None


def write(values: NDArray[np.uint8], others: bytes) -> bytes:
    """The inverse of `read`; other bytes if the pixels are others."""
    height, width, channels = values.shape
    pixels = np.full((height * width, 4), 255, np.uint8)
    pixels[:, :channels] = values.reshape(height * width, channels)
    out = np.empty(5 * height * width + 1, np.uint8)
    length = encode_qoi(pixels, out)
    return b"qoif" + struct.pack(">II", width, height) + others[:2] + out[:length].tobytes() + others[2:]
