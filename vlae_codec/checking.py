"""Checks of many .vlae files in worker processes, which write nothing."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlae_codec import files, places
from vlae_codec.errors import UnknownModel, VlaeError, describe
from vlae_codec.folders import DIED, Coding
from vlae_codec.formats import image, kinds
from vlae_codec.formats.archive import Archive, extract
from vlae_codec.formats.source import restore_file
from vlae_codec.workers import Engine, run_each

#: What a file holds that differs from its original, by what `image.info` says of it.
_HELD = {
    "bit for bit": "another file",
    "same pixels and metadata": "a PNG's pixels and chunks alone, or another file; compress it with --exact",
    "pixels": "pixels alone",
}


@dataclass(frozen=True)
class Finding:
    """What a file's check found.

    Attributes
    ----------
    source : str
    status : str
        ``ok``; ``failed``; or ``unchecked`` where the model that made the file is not here.
    content : str, optional
        Of files that are ok, such as ``vlae, 768 x 512, RGB``.
    error : str, optional
        Of the others.
    """

    source: str
    status: str
    content: str | None = None
    error: str | None = None


def verify(
    paths: Sequence[str], coding: Coding, engine: Engine = 0, against: Path | None = None
) -> Generator[Finding, None, None]:
    """Decode .vlae files of every kind without writing anything.

    Parameters
    ----------
    paths : sequence of str
        Paths and URLs.
    coding : Coding
        Its model, if it names one, must be the one that made every file.
    engine : int or Ray
        Where the work is done, see `workers.Engine`; by default in this process.
    against : Path, optional
        The file that was compressed, or the folder of an archive's files, which must be the same bit for bit.

    Yields
    ------
    Finding of each file, in the order in which they end.
    """
    if engine:
        places.refuse_memory(paths)
    work = functools.partial(_verify, coding, against)
    with contextlib.closing(run_each(work, paths, engine, coding.start)) as findings:
        for path, finding in findings:
            yield finding or Finding(path, "failed", error=DIED)


def _verify(coding: Coding, against: Path | None, path: str) -> Finding:
    try:
        data = places.read(path)
        if against is None:
            return Finding(path, "ok", kinds.check(data, coding.models, coding.options.max_pixels))
        return Finding(path, "ok", _compared(data, against, coding))
    except UnknownModel as error:
        return Finding(path, "unchecked", error=f"cannot be checked: {describe(error)}")
    except Exception as error:
        # Whatever one file does, the others are still to be checked.
        return Finding(path, "failed", error=describe(error, path))


def _compared(data: bytes, original: Path, coding: Coding) -> str:
    """What is the same bit for bit, in words; `VlaeError` names what differs."""
    if kinds.is_single(data):
        model = image.model_for(data, coding.models, coding.options.max_pixels)
        name, content = restore_file(data, model, max_pixels=coding.options.max_pixels)
        original = original / name if original.is_dir() else original
        if content != files.read_bytes(original):
            found = image.info(data)["restores"]
            raise VlaeError(f"differs from {original}: the .vlae file holds {_HELD[found]}")
        return f"{original}, bit for bit"
    archive = Archive(io.BytesIO(data), coding.models.load(), coding.models.device, coding.options.max_pixels)
    if archive.source.kind != "files" or not original.is_dir():
        raise VlaeError("an archive of files is compared with their folder, and other archives with nothing")
    differing = []

    def compare(name: str, content: bytes) -> None:
        try:
            if content != files.read_bytes(original / name):
                differing.append(f"{name} differs")
        except (VlaeError, OSError) as error:
            differing.append(f"{name}: {describe(error)}")

    differing += archive.damaged + extract(archive, range(len(archive)), compare)
    if differing:
        raise VlaeError("; ".join(differing[:5]) + (f"; and {len(differing) - 5} more" if len(differing) > 5 else ""))
    return f"{len(archive)} files of {original}, bit for bit"
