"""Many files in worker processes: one .vlae file for each image and back."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath, PurePosixPath
from typing import Any, NamedTuple

from vlae_codec import places
from vlae_codec.errors import UnsupportedImage, VlaeError, describe
from vlae_codec.formats import image, kinds
from vlae_codec.formats.source import FileOptions, compress_file, restore_file
from vlae_codec.images import io as imaging
from vlae_codec.registry import Models
from vlae_codec.workers import Engine, Ray, run_each

#: What the name of a compressed file ends in.
SUFFIX = ".vlae"
#: What is said of a file whose worker process ended in the middle of it.
DIED = "the process that worked on it died: killed, or out of memory"


class Task(NamedTuple):
    """One file's work.

    Attributes
    ----------
    source : str
        A path or a URL.
    name : str
        Of the output, a relative path below the output folder.
    """

    source: str
    name: str


class Plan(NamedTuple):
    """The work of a run, and how many files of its folders are none of it, by their names."""

    tasks: list[Task]
    passed_over: int


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
        Give outputs the permissions and the time of modification of their sources, where both are on this machine.
    model_file : bytes, optional
        The model, where its name or path means nothing to the workers.
    """

    model: str | None = None
    device: str = "auto"
    threads: int | None = 1
    options: FileOptions = field(default_factory=FileOptions)
    attributes: bool = True
    model_file: bytes | None = field(default=None, repr=False)

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
        return Models(self.model, self.device, self.options.adapt, self.model_file)

    def loaded(self, engine: Engine) -> Coding:
        """The same, ready for an engine: what is wrong with the model is said once, before any work."""
        if not isinstance(engine, Ray):
            self.models.load()
            return self
        # Where the command runs there may be no GPU; and on other machines not this model.
        model = replace(self.models, device="cpu").load()
        return replace(self, model_file=model.data if model else None)


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
    """A worker's answer: what it wrote or, with ``data``, what is to be written; or what went wrong."""

    name: str
    bytes_in: int = 0
    bytes_out: int = 0
    data: bytes | None = None
    seconds: float = 0.0
    error: str | None = None


def plan_compress(sources: Sequence[str | os.PathLike[str]], recursive: bool = False) -> Plan:
    """What `compress` will do: each image of the sources becomes a file of its own name with .vlae added.

    Parameters
    ----------
    sources : sequence
        Files, folders and URLs.
    recursive : bool
        Visit sub-folders.

    Raises
    ------
    UnsupportedImage
        If there are no images.
    VlaeError
        If two outputs collide.
    """
    found, others = places.find(sources, imaging.image_suffixes(), recursive)
    if not found:
        raise UnsupportedImage(f"no images found in {_listed(sources, recursive)}")
    return Plan(_checked([Task(path, name + SUFFIX) for name, path in found]), others)


def plan_decompress(sources: Sequence[str | os.PathLike[str]], recursive: bool = False) -> Plan:
    """What `decompress` will do: each .vlae file of the sources becomes the image that its name says.

    A name that says no image gets .png added.

    Raises
    ------
    VlaeError
        If there are no .vlae files, or two outputs collide.
    """
    found, others = find_packed(sources, recursive)
    return Plan(_checked([Task(path, _planned_name(name)) for name, path in found]), others)


def find_packed(sources: Sequence[str | os.PathLike[str]], recursive: bool = False) -> places.Found:
    """The .vlae files that `places.find` finds; `VlaeError` if there are none."""
    found = places.find(sources, {SUFFIX}, recursive)
    if not found.files:
        raise VlaeError(f"no .vlae files found in {_listed(sources, recursive)}")
    return found


def _listed(sources: Sequence[str | os.PathLike[str]], recursive: bool) -> str:
    return ", ".join([os.fspath(source) for source in sources]) + (
        "" if recursive else "; --recursive visits sub-folders"
    )


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
    return base if _format(PurePath(base).suffix) else f"{base}.png"


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
    base, suffix = _packed_name(name), PurePath(original).suffix if original else ".png"
    if not re.fullmatch(r"(\.\w{1,16})?", suffix):
        suffix = ".png"
    own = PurePath(base).suffix
    if own.lower() == suffix.lower() or (_format(own) and _format(own) == _format(suffix)):
        return base
    return base + suffix


def compress(
    tasks: Sequence[Task], folder: str | os.PathLike[str], coding: Coding, *, engine: Engine = 0, force: bool = False,
    skip_existing: bool = False,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Compress image files into a folder, one .vlae file each.

    Parameters
    ----------
    tasks : sequence of Task
        From `plan_compress`.
    folder : path or URL
        A folder is made if it is missing; nothing is written through symbolic links below it.
    coding : Coding
    engine : int or Ray
        Where the work is done, see `workers.Engine`; by default in this process.
    force : bool
        Replace outputs that exist; otherwise those files fail.
    skip_existing : bool
        Do nothing for outputs that exist.

    Yields
    ------
    Outcome of each file, in the order in which they end. Outputs appear whole or not at all: a folder's are written
    here, so that it does not matter when a worker dies or the iterator is closed, those behind a URL by the workers.

    Raises
    ------
    OSError
        If the folder cannot be made.
    VlaeError
        If the engine cannot work, or the URL cannot be reached.
    """
    return _Run(_compress, places.output(folder), coding, engine, force, skip_existing).outcomes(tasks)


def decompress(
    tasks: Sequence[Task], folder: str | os.PathLike[str], coding: Coding, *, engine: Engine = 0, force: bool = False,
    skip_existing: bool = False,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Restore the images of .vlae files, given by `plan_decompress`, below a folder; otherwise as `compress`."""
    return _Run(_decompress, places.output(folder), coding, engine, force, skip_existing).outcomes(tasks)


#: Makes of a file's bytes the name and the bytes of its output.
_Code = Callable[[Coding, Task, bytes], tuple[str, bytes]]


@dataclass(frozen=True)
class _Run:
    """Many files' way into one place."""

    code: _Code
    place: places.Folder | places.Store
    coding: Coding
    engine: Engine
    force: bool
    skip_existing: bool

    def outcomes(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Do the work."""
        if self.engine:
            places.refuse_memory([self.place.target(""), *(task.source for task in tasks)])
        taken = {task.name for task in tasks}
        with self.place.made():
            ready = []
            for task in tasks:
                outcome = self._refused(task, task.name, taken)
                if outcome:
                    yield outcome
                else:
                    ready.append(task)
            work = _Work(
                self.code, self.coding, self.force, self.place if isinstance(self.place, places.Store) else None
            )
            with contextlib.closing(run_each(work, ready, self.engine, self.coding.start)) as answers:
                for task, answer in answers:
                    coded = answer or _Coded(task.name, error=DIED)
                    # What a file held can call for another name than was planned.
                    outcome = self._refused(task, coded.name, taken) if coded.name != task.name else None
                    if coded.error is None:
                        taken.add(coded.name)
                    yield outcome or self._written(task, coded)

    def _refused(self, task: Task, name: str, taken: set[str]) -> Outcome | None:
        """The outcome where an output is not to be written."""
        target = self.place.target(name)
        try:
            if name != task.name and name in taken:
                raise VlaeError(f"{target} is the output of another file")
            if self.skip_existing and self.place.has(name):
                return Outcome(task.source, target, "skipped")
            self.place.check(name, self.force)
        except (VlaeError, OSError) as error:
            return Outcome(task.source, target, "failed", error=describe(error, task.source))
        return None

    def _written(self, task: Task, coded: _Coded) -> Outcome:
        target, error = self.place.target(coded.name), coded.error
        if coded.data is not None:
            try:
                source = task.source if self.coding.attributes else None
                self.place.write(coded.name, coded.data, self.force, source)
            except (VlaeError, OSError) as problem:
                error = describe(problem, task.source)
        if error is not None:
            return Outcome(task.source, target, "failed", error=error)
        return Outcome(task.source, target, "ok", coded.bytes_in, coded.bytes_out, round(coded.seconds, 6))


@dataclass(frozen=True)
class _Work:
    """What a worker does with a file; it writes into a ``store`` itself where the output's name is as planned."""

    code: _Code
    coding: Coding
    force: bool
    store: places.Store | None

    def __call__(self, task: Task) -> _Coded:
        begun = time.monotonic()
        try:
            data = places.read(task.source)
            name, result = self.code(self.coding, task, data)
            seconds = time.monotonic() - begun
            written = self.store is not None and name == task.name
            if self.store is not None and written:
                self.store.write(name, result, self.force)
        except Exception as error:
            # Whatever one file does, the others are still to be done.
            return _Coded(task.name, error=describe(error, task.source))
        return _Coded(name, len(data), len(result), None if written else result, seconds)


def _compress(coding: Coding, task: Task, data: bytes) -> tuple[str, bytes]:
    return task.name, compress_file(data, PurePath(task.source).name, coding.models.load(), coding.options)


def _decompress(coding: Coding, task: Task, data: bytes) -> tuple[str, bytes]:
    if not kinds.is_single(data):
        raise VlaeError("an archive or a lossy file: restore it by a command of its own")
    model = image.model_for(data, coding.models, coding.options.max_pixels)
    original, result = restore_file(data, model, max_pixels=coding.options.max_pixels)
    name = restored_name(PurePath(task.source).name, original)
    return str(PurePosixPath(task.name).with_name(name)), result


@dataclass
class Totals:
    """Counts of outcomes by status, and bytes of the files that are ok."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one file."""
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        self.bytes_in += outcome.bytes_in or 0
        self.bytes_out += outcome.bytes_out or 0

    @property
    def files(self) -> int:
        """Files counted."""
        return self.ok + self.failed + self.skipped

    @property
    def ratio(self) -> float | None:
        """Bytes out for each byte in; None of no bytes."""
        return self.bytes_out / self.bytes_in if self.bytes_in else None

    def summary(self) -> dict[str, Any]:
        """All of it."""
        return {"files": self.files, **asdict(self), "ratio": self.ratio}
