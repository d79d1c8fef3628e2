"""Learned lossless image compression: a Variational Lossy Autoencoder inside bits-back ANS coding."""

from .api import compress, decompress, info
from .archive import Archive, archive_array, archive_files
from .dataset import ImageDataset
from .errors import (
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
from .registry import Model, load_model

__all__ = [
    "Archive",
    "CorruptFile",
    "EmptyMessage",
    "ImageDataset",
    "Model",
    "NotAVlaeFile",
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
