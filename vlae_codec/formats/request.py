"""What is to be restored of a .vlae file, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vlae_codec import files
from vlae_codec.errors import VlaeError
from vlae_codec.images.pixels import MAX_PIXELS
from vlae_codec.registry import Models
from vlae_codec.stages import Progress, no_progress


@dataclass(frozen=True)
class Draws:
    """How lossy files are drawn, see `lossy.reconstruct`; ``mean`` None is as suits the kind of image."""

    samples: int = 1
    seed: int = 0
    mean: bool | None = None


@dataclass(frozen=True)
class Request:
    """An order to restore a file.

    Attributes
    ----------
    output : str, optional
        A file or folder, or - for standard output; by default the name that the file holds.
    force : bool
        Replace outputs that exist.
    models : Models
        Which model, and where it runs.
    select : tuple of str
        Names or numbers of an archive's images; all of them if empty.
    draws : Draws
    attributes : bool
        Restore the times of modification and the permissions that an archive holds.
    kept : Attributes, optional
        What the file of a single image gets.
    max_pixels : int
        Refuse images that have more.
    progress : function
    """

    output: str | None = None
    force: bool = False
    models: Models = field(default_factory=Models)
    select: tuple[str, ...] = ()
    draws: Draws = field(default_factory=Draws)
    max_pixels: int = MAX_PIXELS
    progress: Progress = no_progress
    attributes: bool = True
    kept: files.Attributes | None = None

    def needed_output(self, what: str) -> str:
        """The output; `VlaeError` if there is none."""
        if self.output is None:
            raise VlaeError(f"{what} is not a single image: name an output with --output")
        return self.output

    def refuse_draws(self, what: str) -> None:
        """`VlaeError` if draws are asked for, where they would change nothing."""
        if self.draws != Draws():
            raise VlaeError(f"--mode, --samples and --seed are for lossy files, and this is {what}")

    def is_one_file(self, count: int) -> bool:
        """Whether so many images go into the output itself, not below it: one does, unless it is a folder."""
        assert self.output is not None
        return count == 1 and not Path(self.output).is_dir() and bool(Path(self.output).suffix)

    def write(self, path: str, data: bytes) -> None:
        """Write an output, whole or not at all."""
        files.check_writable(path, self.force)
        files.write_bytes(path, data, self.force)
