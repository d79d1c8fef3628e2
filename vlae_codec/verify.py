"""Checking .vlae files: everything in them decoded, nothing written."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlae_codec.errors import CorruptFile, UnknownModel, describe
from vlae_codec.folders import DIED, Coding, model_for
from vlae_codec.formats import archive
from vlae_codec.formats import header as container
from vlae_codec.formats import single as api
from vlae_codec.formats.header import Mode
from vlae_codec.formats.lossy import LossyFile, decode_z, find_lossy_model
from vlae_codec.workers import run_each

from . import files


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


def verify(paths: Sequence[Path], coding: Coding, *, jobs: int = 0) -> Generator[Finding, None, None]:
    """Decode .vlae files of every kind without writing anything.

    Parameters
    ----------
    paths : sequence of Path
    coding : Coding
        Its model, if it names one, must be the one that made every file.
    jobs : int
        Worker processes; 0 for none: the work is done in this process.

    Yields
    ------
    Finding of each file, in the order in which they end.
    """
    with contextlib.closing(run_each(functools.partial(_verify, coding), paths, jobs, coding.start)) as findings:
        for path, finding in findings:
            yield finding or Finding(str(path), "failed", error=DIED)


def _verify(coding: Coding, path: Path) -> Finding:
    try:
        return Finding(str(path), "ok", check(files.read_bytes(path), coding))
    except UnknownModel as error:
        return Finding(str(path), "unchecked", error=f"cannot be checked: {describe(error)}")
    except Exception as error:
        # Whatever one file does, the others are still to be checked.
        return Finding(str(path), "failed", error=describe(error, str(path)))


def check(data: bytes, coding: Coding) -> str:
    """What a sound .vlae file holds, in words.

    Raises
    ------
    NotAVlaeFile, UnsupportedVersion, CorruptFile
    UnknownModel
        If the model that made the file is not here, or the one named is another.
    """
    mode = container.mode_of(data)
    if mode is Mode.ARCHIVE:
        images = archive.Archive(io.BytesIO(data), coding.load(), coding.device)
        problems = images.check()
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise CorruptFile("; ".join(problems[:5]) + more)
        return f"archive, {len(images)} images"
    if mode is Mode.LOSSY:
        file = LossyFile.from_bytes(data)
        coder = find_lossy_model(file, coding.load(), coding.device).coder
        decode_z(file, coder)
        width, height = file.head["size"]
        return f"lossy, {file.head['count']} images of {width} x {height}"
    if mode is Mode.STORED:
        _, name, content = container.read_stored(data)
        return f"stored, {name or 'a source file'} of {len(content)} bytes"
    what = api.info(data)
    if what["restores"] != "pixels":
        api.restore_file(data, model_for(data, coding))
        return f"{mode.name.lower()}, {what['width']} x {what['height']}, {what['restores']}"
    image = api.decompress(data, model_for(data, coding))
    return f"{mode.name.lower()}, {image.width} x {image.height}, {image.mode}"
