"""Learned lossless image compression: a Variational Lossy Autoencoder inside bits-back ANS coding."""

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
from vlae_codec.formats.archive import Archive, archive_array, archive_files
from vlae_codec.formats.single import compress, decompress, info
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
