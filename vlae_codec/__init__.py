"""Learned lossless image compression: a Variational Lossy Autoencoder inside bits-back ANS coding."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import vlae_codec.waiting  # noqa: F401  before torch and numba are loaded
from vlae_codec.errors import (
    CorruptFile,
    EmptyMessage,
    NotAVlaeFile,
    UnknownModel,
    UnsafeModel,
    UnsupportedImage,
    UnsupportedVersion,
    VerificationFailed,
    VlaeError,
)

if TYPE_CHECKING:
    from vlae_codec.formats.archive import Archive
    from vlae_codec.formats.archive_writer import archive_array, archive_files
    from vlae_codec.formats.image import info
    from vlae_codec.formats.single import compress, decompress
    from vlae_codec.plugins.torch import ImageDataset, SegmentSampler
    from vlae_codec.registry import Model, load_model

__all__ = [
    "Archive",
    "CorruptFile",
    "EmptyMessage",
    "ImageDataset",
    "Model",
    "NotAVlaeFile",
    "SegmentSampler",
    "UnknownModel",
    "UnsafeModel",
    "UnsupportedImage",
    "UnsupportedVersion",
    "VerificationFailed",
    "VlaeError",
    "archive_array",
    "archive_files",
    "compress",
    "decompress",
    "info",
    "load_model",
]
__version__ = "0.1.0"

# An installation has models/ and cli/ inside; in a checkout they lie beside, and `python -m` there finds this folder
# before the one that is installed.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "cli")):
    __path__.append(os.path.dirname(os.path.dirname(__file__)))

#: Where each name is that is imported when it is first asked for, so that a command loads what it needs.
_HOMES = {
    "Archive": "formats.archive", "archive_array": "formats.archive_writer", "archive_files": "formats.archive_writer",
    "compress": "formats.single", "decompress": "formats.single", "info": "formats.image",
    "ImageDataset": "plugins.torch", "SegmentSampler": "plugins.torch", "Model": "registry", "load_model": "registry",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
