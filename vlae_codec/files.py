"""Reading and writing files so that nothing half-written is ever seen under a final name."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vlae_codec import __version__
from vlae_codec.errors import VlaeError

#: The name that means standard input or output.
STANDARD = "-"
#: Of a file's mode: reading, writing and executing, but not to do so as another user.
PERMISSIONS = 0o777
#: Seconds after which a temporary file is old: between its making and its locking pass some microseconds.
OLD = 60


class Attributes(NamedTuple):
    """What an archive keeps of a file beside its content: when it was modified, in ns, and who may do what with it."""

    modified: int
    permissions: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Attributes:
        """Those of a file."""
        found = os.stat(path)
        return cls(found.st_mtime_ns, found.st_mode & PERMISSIONS)


def keep_compiled() -> None:
    """Let compiled loops be kept with the user's other caches, unless told where; before numba is loaded.

    Beside the installed modules they would outlive them, and what is left there then hides an installation from its
    sources.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(cache, "vlae-codec", __version__))


@contextlib.contextmanager
def open_unchanged(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file open for reading; `VlaeError` at the end if it was written to meanwhile, so that one state was read."""

    def state() -> tuple[int, int]:
        found = os.fstat(file.fileno())
        # Of pipes and devices the times say nothing about what is read.
        return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)

    with open(path, "rb") as file:
        before = state()
        yield file
        if state() != before:
            raise VlaeError(f"{os.fspath(path)} was written to while it was read; try again when it is complete")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file, or of standard input for ``-``; `VlaeError` if the file changes meanwhile."""
    if os.fspath(path) == STANDARD:
        return sys.stdin.buffer.read()
    with open_unchanged(path) as file:
        return file.read()


def find(sources: Iterable[Path], suffixes: Collection[str], recursive: bool) -> list[tuple[str, Path]]:
    """Names and paths of the files that are named, and of those in folders that have one of some suffixes, sorted.

    A file in a folder is named by its path from there, another file by its own name. Sub-folders are visited only with
    ``recursive``, symbolic links to folders never.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    found = []
    for source in sources:
        if not source.is_dir():
            found.append((source.name, source))
            continue
        paths = []
        for folder, subfolders, names in os.walk(source, onerror=_raise):
            paths += [Path(folder, name) for name in names if Path(name).suffix.lower() in suffixes]
            if not recursive:
                subfolders.clear()
        for path in sorted(paths):
            if path.is_file():
                found.append((PurePosixPath(path.relative_to(source)).as_posix(), path))
    return found


def passed_over(sources: Iterable[Path], suffixes: Collection[str], recursive: bool) -> int:
    """How many files of the folders among the sources `find` leaves out, as they have none of the suffixes."""
    count = 0
    for source in sources:
        for _, subfolders, names in os.walk(source):
            count += sum(Path(name).suffix.lower() not in suffixes for name in names)
            if not recursive:
                subfolders.clear()
    return count


def _raise(error: OSError) -> None:
    raise error


def check_writable(path: str, force: bool) -> None:
    """Refuse an output that exists unless forced, and one whose folder is missing or closed, before any work."""
    if path == STANDARD:
        return
    target = Path(path)
    if target.is_dir():
        raise VlaeError(f"{path} is a folder, expected the name of a file")
    if target.exists() and not force:
        raise VlaeError(f"{path} exists; use --force to replace it")
    folder = target.parent
    if not folder.is_dir():
        raise VlaeError(f"{folder} is not a folder, so {target.name} cannot be written there")
    if not os.access(folder, os.W_OK):
        raise VlaeError(f"no permission to write in {folder}")


def check_other(output: str, sources: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that is one of the sources: it would replace what it is made of."""
    for source in sources:
        both = output != STANDARD and os.path.exists(output) and os.path.exists(source)
        if both and os.path.samefile(output, source):
            raise VlaeError(f"{output} is the source itself; name another output")


def attributes_of(path: str | os.PathLike[str]) -> Attributes | None:
    """Those of an ordinary file, which what is made of it gets too; None of standard input, pipes and devices."""
    ordinary = os.fspath(path) != STANDARD and os.path.isfile(path)
    return Attributes.of(path) if ordinary else None


def below(folder: Path, name: str, make: bool = True) -> Path:
    """The path of a relative name below a folder, the folders on the way made; never outside, nor through a link.

    Without ``make`` nothing is made, and `VlaeError` says what could not be.
    """
    path = folder
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    parts = name.split("/")
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise VlaeError(f"{path} is a symbolic link, which nothing is written through")
        if make:
            path.mkdir(exist_ok=True)
        elif path.exists() and not path.is_dir():
            raise VlaeError(f"{path} is not a folder, so {name} cannot be written there")
    return path / parts[-1]


def write_bytes(path: str, data: bytes, force: bool = False, attributes: Attributes | None = None) -> None:
    """Write a temporary file in the same folder, then give it its name; or write to standard output for ``-``.

    ``attributes`` are those of the new file; by default it has those of any other new file.

    Raises
    ------
    VlaeError
        If the file exists and ``force`` is false, even when it came to exist only now.
    OSError
        If it cannot be written; the message names it.
    """
    try:
        if path == STANDARD:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            _write_file(path, data, force, attributes)
    except OSError as error:
        # A full disk's error names no file. OSError makes a BrokenPipeError where it was one.
        raise OSError(error.errno, error.strerror, "standard output" if path == STANDARD else path) from None


def _lock(handle: int) -> None:
    """Lock a file while it is open, or raise BlockingIOError; nothing where the system has no such locks."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.lru_cache(maxsize=256)
def _left_in(folder: Path) -> list[Path]:
    """Temporary files that lay in a folder when this process first wrote there: to list it each time is quadratic."""
    return list(folder.glob(".vlae-*.tmp"))


def _remove_old(folder: Path, start: str) -> None:
    """Remove temporary files that an earlier, killed process left: old ones that no process has open."""
    for path in _left_in(folder.absolute()):
        if not path.name.startswith(start):
            continue
        # Where files cannot be locked, open ones can mostly not be removed.
        with contextlib.suppress(OSError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > OLD:
                _lock(file.fileno())
                path.unlink()


def _write_file(path: str, data: bytes, force: bool, attributes: Attributes | None) -> None:
    # Here, as what only reads need not load it.
    import tempfile

    target = Path(path)
    # The target is in the name, so that what a killed process left of it is found.
    start = f".vlae-{zlib.crc32(os.fsencode(target.name)):08x}-"
    _remove_old(target.parent, start)
    handle, temporary = tempfile.mkstemp(prefix=start, suffix=".tmp", dir=target.parent)
    try:
        _lock(handle)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a private file; give it the permissions that an ordinary new file has.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, attributes.permissions & PERMISSIONS if attributes else 0o666 & ~mask)
        if attributes:
            os.utime(temporary, ns=(attributes.modified, attributes.modified))
        if force:
            os.replace(temporary, target)
        else:
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise VlaeError(f"{path} exists; use --force to replace it") from None
            except OSError:
                # A file system without hard links: the check and the rename are two steps there.
                check_writable(path, force)
                os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
