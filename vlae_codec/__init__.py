"""Learned lossless image compression: a Variational Lossy Autoencoder inside bits-back ANS coding."""

from .api import compress, decompress, info
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
    "CorruptFile",
    "EmptyMessage",
    "Model",
    "NotAVlaeFile",
    "UnknownModel",
    "UnsafeModel",
    "UnsupportedImage",
    "UnsupportedVersion",
    "VerificationFailed",
    "VlaeError",
    "compress",
    "decompress",
    "info",
    "load_model",
]
__version__ = "0.1.0"
