"""What a .vlae file is, asked once: `KINDS` names the module that explains, checks and restores it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.registry import Models

from .header import FileKind, kind_of

if TYPE_CHECKING:
    from .request import Request

#: The module of each kind of file.
KINDS = {
    FileKind.VLAE: "image", FileKind.FALLBACK: "image", FileKind.STORED: "image",
    FileKind.ARCHIVE: "archive", FileKind.SHORT_ARCHIVE: "archive", FileKind.LOSSY: "lossy",
}  # fmt: skip


class Kind(Protocol):
    """What the module of a kind offers."""

    @staticmethod
    def info(data: bytes) -> dict[str, Any]:
        """What a file holds and where its bits went, without decoding it."""

    @staticmethod
    def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
        """What a sound file holds, in words; decodes everything and raises `CorruptFile` if it is not sound."""

    @staticmethod
    def restore(data: bytes, request: Request) -> str:
        """Write what a file holds, and say in one line what was written."""


def module_of(data: bytes) -> Kind:
    """The module for a file; the errors of `header.kind_of` if it is none."""
    return cast(Kind, importlib.import_module(f"{__package__}.{KINDS[kind_of(data)]}"))


def is_single(data: bytes) -> bool:
    """Whether a file holds one image, and no more."""
    return KINDS[kind_of(data)] == "image"


def info(data: bytes) -> dict[str, Any]:
    """What a .vlae file holds and where its bits went, without decoding it."""
    return module_of(data).info(data)


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound .vlae file holds, in words.

    Raises
    ------
    NotAVlaeFile, UnsupportedVersion, CorruptFile
    UnknownModel
        If the model that made the file is not here, or the one named is another.
    """
    return module_of(data).check(data, models, max_pixels)


def restore(data: bytes, request: Request) -> str:
    """Write what a .vlae file holds, and say in one line what was written."""
    return module_of(data).restore(data, request)
