"""Where files of a run lie: in folders of this machine, or behind any URL that fsspec knows, such as s3://bucket/key."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import re
import secrets
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from vlae_codec import files
from vlae_codec.errors import VlaeError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: Protocols where a name is seen only when all of its bytes are there.
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL; all else is a path of this machine."""
    return bool(re.match(r"\w[\w+.-]+://", os.fspath(path)))


class Found(NamedTuple):
    """What a search found: names and paths of files, and how many others it passed over, by their names."""

    files: list[tuple[str, str]]
    others: int


def find(sources: Iterable[str | os.PathLike[str]], suffixes: Collection[str], recursive: bool) -> Found:
    """Files that are named, and those in folders that have one of some suffixes, as `files.find` gives them.

    Raises
    ------
    OSError
        If a folder cannot be read, or a URL leads to nothing.
    VlaeError
        If a URL's protocol is not known or needs a package.
    """
    found: list[tuple[str, str]] = []
    others = 0
    for source in [os.fspath(each) for each in sources]:
        if is_url(source):
            more = _find_at(source, suffixes, recursive)
            found += more.files
            others += more.others
        else:
            folder = [Path(source)]
            found += [(name, str(path)) for name, path in files.find(folder, suffixes, recursive)]
            others += files.passed_over(folder, suffixes, recursive)
    return Found(found, others)


def _find_at(url: str, suffixes: Collection[str], recursive: bool) -> Found:
    with _reported(url):
        system, root = _system(url)
        # What is kept of listings would grow with all files there are.
        system.invalidate_cache()
        if system.info(root)["type"] != "directory":
            return Found([(posixpath.basename(root), url)], 0)
        found: list[tuple[str, str]] = []
        others = 0
        for folder, _, names in system.walk(root, on_error="raise"):
            # A folder of an object store may be an object itself, which has no name in it.
            wanted = [name for name in names if PurePath(name).suffix.lower() in suffixes]
            others += sum(map(bool, names)) - len(wanted)
            inside = folder[len(root) :].strip("/")
            found += [(posixpath.join(inside, name), posixpath.join(url, inside, name)) for name in wanted]
            system.invalidate_cache()
            if not recursive:
                break
    return Found(sorted(found), others)


def is_folder(path: str) -> bool:
    """Whether a path or a URL is a folder that is there."""
    if not is_url(path):
        return Path(path).is_dir()
    with _reported(path):
        system, root = _system(path)
        return system.info(root)["type"] == "directory"


def read(path: str) -> bytes:
    """All bytes of a file, as `files.read_bytes` has them."""
    if not is_url(path):
        return files.read_bytes(path)
    with _reported(path):
        system, name = _system(path)
        return system.cat_file(name)


def refuse_memory(paths: Iterable[str]) -> None:
    """Refuse memory:// where work is done in other processes, which do not see what it holds."""
    for path in paths:
        if path.startswith("memory://"):
            raise VlaeError(f"{path} is seen by this process alone: do the work in it, with --jobs 0")


def output(path: str | os.PathLike[str]) -> Folder | Store:
    """The place for a run's outputs; nothing is made yet."""
    return Store(os.fspath(path)) if is_url(path) else Folder(Path(path))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, written by one process alone: so no worker can leave half a file in it.

    Attributes
    ----------
    path : Path
        Made if it is missing; nothing is written through symbolic links below it.
    """

    path: Path

    def target(self, name: str) -> str:
        """What an output is called."""
        return str(self.path / name)

    def has(self, name: str) -> bool:
        """Whether an output is there."""
        return (self.path / name).is_file()

    def check(self, name: str, force: bool) -> None:
        """Refuse an output that cannot be written, or is there already and not to be replaced."""
        # Folders are made when something is written into them, so that a run that is stopped leaves none empty.
        if files.below(self.path, name, make=False).parent.is_dir():
            files.check_writable(self.target(name), force)

    def write(self, name: str, data: bytes, force: bool, source: str | None = None) -> None:
        """Write an output, whole or not at all, with the attributes of a source; raises as `files.write_bytes`."""
        attributes = files.attributes_of(source) if source is not None and not is_url(source) else None
        files.write_bytes(str(files.below(self.path, name)), data, force, attributes)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder for a run; a run that is stopped before its first output leaves nothing."""
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            if made:
                with contextlib.suppress(OSError):
                    self.path.rmdir()


@dataclass(frozen=True)
class Store:
    """What lies below a URL, written by many processes at once.

    Attributes
    ----------
    url : str
    """

    url: str

    def target(self, name: str) -> str:
        """What an output is called."""
        return posixpath.join(self.url, name)

    def has(self, name: str) -> bool:
        """Whether an output is there, or was when a run asked first; one request tells of its neighbours too."""
        return posixpath.basename(name) in _names(self.target(posixpath.dirname(name)).rstrip("/"))

    def check(self, name: str, force: bool) -> None:
        """Refuse an output that is there already and not to be replaced."""
        if not force and self.has(name):
            raise _exists(self.target(name))

    def write(self, name: str, data: bytes, force: bool, source: str | None = None) -> None:
        """Write an output so that it is seen only when whole; a URL's files have no attributes of a source.

        Raises
        ------
        VlaeError
            If there is another output of that name and ``force`` is false. The same one is what a worker wrote that
            was lost before it could say so.
        """
        url = self.target(name)
        with _reported(url):
            system, path = _system(url)
            try:
                _put(system, path, data, force)
            except FileExistsError:
                if system.cat_file(path) != data:
                    raise _exists(url) from None

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Prepare for a run: what an earlier one saw there is forgotten."""
        _names.cache_clear()
        with _reported(self.url):
            _system(self.url)[0].invalidate_cache()
        yield


def _put(system: AbstractFileSystem, path: str, data: bytes, force: bool) -> None:
    """Write a file that is seen only when whole; `FileExistsError` if it is there already, unless forced."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if protocols & _WHOLE:
        # Not every protocol knows the mode, and most need none.
        system.pipe_file(path, data, **({} if force else {"mode": "create"}))
        return
    if not force and system.exists(path):
        raise FileExistsError
    folder = system._parent(path)
    system.makedirs(folder, exist_ok=True)
    # As `files.write_bytes` names them.
    start = f".vlae-{zlib.crc32(posixpath.basename(path).encode('utf-8', 'surrogateescape')):08x}"
    temporary = posixpath.join(folder, f"{start}-{secrets.token_hex(4)}.tmp")
    try:
        system.pipe_file(temporary, data)
        system.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            system.rm_file(temporary)
        raise


def _exists(url: str) -> VlaeError:
    return VlaeError(f"{url} exists; use --force to replace it")


@functools.lru_cache(maxsize=16)
def _names(url: str) -> frozenset[str]:
    """Names of the files right below a URL."""
    with _reported(url), contextlib.suppress(FileNotFoundError):
        system, path = _system(url)
        entries = system.ls(path, detail=True)
        return frozenset(posixpath.basename(entry["name"]) for entry in entries if entry["type"] == "file")
    return frozenset()


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, as fsspec has it, and the path there."""
    # Here, as most runs need none.
    import fsspec

    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:
        raise VlaeError(f"{url} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise VlaeError(f"{url}: {error}") from None


@contextlib.contextmanager
def _reported(url: str) -> Iterator[None]:
    """Say what goes wrong behind a URL in this package's own errors, or the system's."""
    try:
        yield
    except OSError as error:
        # Some name no file, or call it otherwise, and some have no number.
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
        said = os.strerror(number) if number == errno.ENOENT else error.strerror or str(error) or type(error).__name__
        raise OSError(number, said, url) from None
    except (VlaeError, MemoryError):
        raise
    except Exception as error:
        # Each protocol's library has errors of its own.
        raise VlaeError(f"{url}: {type(error).__name__}: {error}") from None
