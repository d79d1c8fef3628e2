"""What a .vlae file is, asked once: `KINDS` names the module that explains, checks and restores it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.registry import Models

from .header import Mode, mode_of
from .request import Request

#: The module of each kind of file.
KINDS = {
    Mode.VLAE: "image", Mode.FALLBACK: "image", Mode.STORED: "image", Mode.ARCHIVE: "archive", Mode.LOSSY: "lossy",
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


def kind_of(data: bytes) -> Kind:
    """The module for a file; the errors of `header.mode_of` if it is none."""
    return cast(Kind, importlib.import_module(f"{__package__}.{KINDS[mode_of(data)]}"))


def is_single(data: bytes) -> bool:
    """Whether a file holds one image, and no more."""
    return KINDS[mode_of(data)] == "image"


def info(data: bytes) -> dict[str, Any]:
    """What a .vlae file holds and where its bits went, without decoding it."""
    return kind_of(data).info(data)


def check(data: bytes, models: Models, max_pixels: int = MAX_PIXELS) -> str:
    """What a sound .vlae file holds, in words.

    Raises
    ------
    NotAVlaeFile, UnsupportedVersion, CorruptFile
    UnknownModel
        If the model that made the file is not here, or the one named is another.
    """
    return kind_of(data).check(data, models, max_pixels)


def restore(data: bytes, request: Request) -> str:
    """Write what a .vlae file holds, and say in one line what was written."""
    return kind_of(data).restore(data, request)
