"""Many files in worker processes: one .vlae file for each image and back, and checks that write nothing."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vlae_codec.errors import UnknownModel, UnsupportedImage, VlaeError, describe
from vlae_codec.formats import image, kinds
from vlae_codec.formats.archive import Archive, extract
from vlae_codec.formats.source import FileOptions, compress_file, restore_file
from vlae_codec.images import io as imaging
from vlae_codec.registry import Models
from vlae_codec.workers import run_each

from . import files

#: What the name of a compressed file ends in.
SUFFIX = ".vlae"
#: What is said of a file whose worker process ended in the middle of it.
DIED = "the process that worked on it died: killed, or out of memory"
#: What a file holds that differs from its original, by what `image.info` says of it.
_HELD = {
    "bit for bit": "another file",
    "same pixels and metadata": "a PNG's pixels and chunks alone, or another file; compress it with --exact",
    "pixels": "pixels alone",
}


@dataclass(frozen=True)
class Task:
    """One file's work.

    Attributes
    ----------
    source : Path
    name : str
        Of the output, a relative path below the output folder.
    """

    source: Path
    name: str


@dataclass(frozen=True)
class Coding:
    """How the files of a run are coded.

    Attributes
    ----------
    model : str, optional
        Name or path; None to restore with the models that made the files.
    device : str
    threads : int, optional
        CPU threads of each process; None for all cores.
    options : FileOptions
        Of them only ``max_pixels`` tells how to restore.
    attributes : bool
        Give outputs the permissions and the time of modification of their sources.
    """

    model: str | None = None
    device: str = "auto"
    threads: int | None = 1
    options: FileOptions = field(default_factory=FileOptions)
    attributes: bool = True

    def start(self) -> None:
        """Make a process ready: the threads set, the model loaded, which the registry then keeps."""
        if self.threads is not None:
            from vlae_codec.models.exact.loops import set_threads

            set_threads(self.threads)
        # What is wrong with the model is said of the first file.
        with contextlib.suppress(VlaeError, OSError, MemoryError):
            self.models.load()

    @property
    def models(self) -> Models:
        """Which model, and where it runs."""
        return Models(self.model, self.device, self.options.adapt)


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    source, output : str
    status : str
        ``ok``, ``failed`` or ``skipped``.
    bytes_in, bytes_out : int, optional
        Of files that are ok.
    seconds : float
        Coding alone, without the start of processes.
    error : str, optional
        Of files that failed.
    """

    source: str
    output: str
    status: str
    bytes_in: int | None = None
    bytes_out: int | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class _Coded:
    """A worker's answer: what to write, or what went wrong."""

    name: str
    data: bytes = b""
    bytes_in: int = 0
    seconds: float = 0.0
    error: str | None = None


def plan_compress(sources: Sequence[Path], recursive: bool = False) -> list[Task]:
    """What `compress` will do: each image of the sources becomes a file of its own name with .vlae added.

    Raises
    ------
    UnsupportedImage
        If there are no images.
    VlaeError
        If two outputs collide.
    """
    found = files.find(sources, imaging.image_suffixes(), recursive)
    if not found:
        raise UnsupportedImage(f"no images found in {_listed(sources, recursive)}")
    return _checked([Task(path, name + SUFFIX) for name, path in found])


def plan_decompress(sources: Sequence[Path], recursive: bool = False) -> list[Task]:
    """What `decompress` will do: each .vlae file of the sources becomes the image that its name says.

    A name that says no image gets .png added.

    Raises
    ------
    VlaeError
        If there are no .vlae files, or two outputs collide.
    """
    return _checked([Task(path, _planned_name(name)) for name, path in find_packed(sources, recursive)])


def find_packed(sources: Sequence[Path], recursive: bool = False) -> list[tuple[str, Path]]:
    """Names and paths, as `files.find` gives them, of .vlae files; `VlaeError` if there are none."""
    found = files.find(sources, {SUFFIX}, recursive)
    if not found:
        raise VlaeError(f"no .vlae files found in {_listed(sources, recursive)}")
    return found


def _listed(sources: Sequence[Path], recursive: bool) -> str:
    return ", ".join(map(str, sources)) + ("" if recursive else "; --recursive visits sub-folders")


def _checked(tasks: list[Task]) -> list[Task]:
    """The tasks, if no output is another's or a folder of another's."""
    owners: dict[str, Task] = {}
    for task in tasks:
        other = owners.setdefault(task.name, task)
        if other is not task:
            raise VlaeError(f"{other.source} and {task.source} would both become {task.name}")
    for task in tasks:
        for parent in PurePosixPath(task.name).parents:
            if str(parent) in owners:
                other = owners[str(parent)]
                raise VlaeError(f"{other.source} would become {other.name}, a folder that {task.source} needs")
    return tasks


def _packed_name(name: str) -> str:
    """The name of what a .vlae file was made of, as the file's own name has it."""
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name


def _format(suffix: str) -> str | None:
    return imaging.formats_by_suffix().get(suffix.lower())


def _planned_name(name: str) -> str:
    base = _packed_name(name)
    return base if _format(Path(base).suffix) else f"{base}.png"


def restored_name(name: str, original: str) -> str:
    """The name for what a .vlae file held: never one of another image format than that of its bytes.

    Parameters
    ----------
    name : str
        Of the .vlae file.
    original : str
        Of what it held, by `source.restore_file`; empty for a PNG without a name.

    Examples
    --------
    >>> restored_name("a.jpg.vlae", "b.jpeg"), restored_name("a.jpg.vlae", ""), restored_name("a.vlae", "b.jpg")
    ('a.jpg', 'a.jpg.png', 'a.jpg')
    """
    base, suffix = _packed_name(name), Path(original).suffix if original else ".png"
    if not re.fullmatch(r"(\.\w{1,16})?", suffix):
        suffix = ".png"
    own = Path(base).suffix
    if own.lower() == suffix.lower() or (_format(own) and _format(own) == _format(suffix)):
        return base
    return base + suffix


def compress(
    tasks: Sequence[Task], folder: Path, coding: Coding, *, jobs: int = 0, force: bool = False,
    skip_existing: bool = False,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Compress image files into a folder, one .vlae file each.

    Parameters
    ----------
    tasks : sequence of Task
        From `plan_compress`.
    folder : Path
        Made if it is missing; nothing is written through symbolic links below it.
    coding : Coding
    jobs : int
        Worker processes; 0 for none: the work is done in this process.
    force : bool
        Replace outputs that exist; otherwise those files fail.
    skip_existing : bool
        Do nothing for outputs that exist.

    Yields
    ------
    Outcome of each file, in the order in which they end. Outputs are written here, whole or not at all, so that it does
    not matter when a worker dies or the iterator is closed.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    return _run(functools.partial(_compress, coding), tasks, folder, coding, jobs, force, skip_existing)


def decompress(
    tasks: Sequence[Task], folder: Path, coding: Coding, *, jobs: int = 0, force: bool = False,
    skip_existing: bool = False,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Restore the images of .vlae files, given by `plan_decompress`, below a folder; otherwise as `compress`."""
    return _run(functools.partial(_decompress, coding), tasks, folder, coding, jobs, force, skip_existing)


def _run(
    work: Callable[[Task], _Coded], tasks: Sequence[Task], folder: Path, coding: Coding, jobs: int, force: bool,
    skip_existing: bool,
) -> Generator[Outcome, None, None]:  # fmt: skip
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield from _run_into(work, tasks, folder, coding, jobs, force, skip_existing)
    finally:
        if made:
            # A run that was stopped before its first output leaves nothing.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _run_into(
    work: Callable[[Task], _Coded], tasks: Sequence[Task], folder: Path, coding: Coding, jobs: int, force: bool,
    skip_existing: bool,
) -> Generator[Outcome, None, None]:  # fmt: skip
    taken = {task.name for task in tasks}

    def refused(task: Task, name: str) -> Outcome | None:
        """The outcome where an output is not to be written."""
        source, target = str(task.source), str(folder / name)
        try:
            if name != task.name and name in taken:
                raise VlaeError(f"{target} is the output of another file")
            if skip_existing and Path(target).is_file():
                return Outcome(source, target, "skipped")
            # Folders are made when something is written into them, so that a run that is stopped leaves none empty.
            if files.below(folder, name, make=False).parent.is_dir():
                files.check_writable(target, force)
        except (VlaeError, OSError) as error:
            return Outcome(source, target, "failed", error=describe(error, source))
        return None

    def written(task: Task, coded: _Coded) -> Outcome:
        source, target, error = str(task.source), str(folder / coded.name), coded.error
        if error is None:
            taken.add(coded.name)
            try:
                attributes = files.attributes_of(task.source) if coding.attributes else None
                files.write_bytes(str(files.below(folder, coded.name)), coded.data, force, attributes)
            except (VlaeError, OSError) as problem:
                error = describe(problem, source)
        if error is not None:
            return Outcome(source, target, "failed", error=error)
        return Outcome(source, target, "ok", coded.bytes_in, len(coded.data), round(coded.seconds, 6))

    ready = []
    for task in tasks:
        outcome = refused(task, task.name)
        if outcome:
            yield outcome
        else:
            ready.append(task)
    with contextlib.closing(run_each(work, ready, jobs, coding.start)) as answers:
        for task, answer in answers:
            coded = answer or _Coded(task.name, error=DIED)
            # What a file held can call for another name than was planned.
            outcome = refused(task, coded.name) if coded.name != task.name else None
            yield outcome or written(task, coded)


def _timed(task: Task, code: Callable[[bytes], tuple[str, bytes]]) -> _Coded:
    """A worker's answer for a file; ``code`` makes its output's name and bytes."""
    begun = time.monotonic()
    try:
        data = files.read_bytes(task.source)
        name, result = code(data)
    except Exception as error:
        # Whatever one file does, the others are still to be done.
        return _Coded(task.name, error=describe(error, str(task.source)))
    return _Coded(name, result, len(data), time.monotonic() - begun)


def _compress(coding: Coding, task: Task) -> _Coded:
    def code(data: bytes) -> tuple[str, bytes]:
        return task.name, compress_file(data, task.source.name, coding.models.load(), coding.options)

    return _timed(task, code)


def _decompress(coding: Coding, task: Task) -> _Coded:
    def code(data: bytes) -> tuple[str, bytes]:
        if not kinds.is_single(data):
            raise VlaeError("an archive or a lossy file: restore it by a command of its own")
        model = image.model_for(data, coding.models, coding.options.max_pixels)
        original, result = restore_file(data, model, max_pixels=coding.options.max_pixels)
        return str(PurePosixPath(task.name).with_name(restored_name(task.source.name, original))), result

    return _timed(task, code)


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
    paths: Sequence[Path], coding: Coding, jobs: int = 0, against: Path | None = None
) -> Generator[Finding, None, None]:
    """Decode .vlae files of every kind without writing anything.

    Parameters
    ----------
    paths : sequence of Path
    coding : Coding
        Its model, if it names one, must be the one that made every file.
    jobs : int
        Worker processes; 0 for none: the work is done in this process.
    against : Path, optional
        The file that was compressed, or the folder of an archive's files, which must be the same bit for bit.

    Yields
    ------
    Finding of each file, in the order in which they end.
    """
    work = functools.partial(_verify, coding, against)
    with contextlib.closing(run_each(work, paths, jobs, coding.start)) as findings:
        for path, finding in findings:
            yield finding or Finding(str(path), "failed", error=DIED)


def _verify(coding: Coding, against: Path | None, path: Path) -> Finding:
    try:
        data = files.read_bytes(path)
        if against is None:
            return Finding(str(path), "ok", kinds.check(data, coding.models, coding.options.max_pixels))
        return Finding(str(path), "ok", _compared(data, against, coding))
    except UnknownModel as error:
        return Finding(str(path), "unchecked", error=f"cannot be checked: {describe(error)}")
    except Exception as error:
        # Whatever one file does, the others are still to be checked.
        return Finding(str(path), "failed", error=describe(error, str(path)))


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


def totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts by status, and bytes of the files that are ok; ``ratio`` is bytes out for each byte in."""
    bytes_in = sum(outcome.bytes_in or 0 for outcome in outcomes)
    bytes_out = sum(outcome.bytes_out or 0 for outcome in outcomes)
    counts = {status: sum(o.status == status for o in outcomes) for status in ("ok", "failed", "skipped")}
    ratio = bytes_out / bytes_in if bytes_in else None
    return {"files": len(outcomes), **counts, "bytes_in": bytes_in, "bytes_out": bytes_out, "ratio": ratio}
