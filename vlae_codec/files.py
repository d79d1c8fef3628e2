"""Reading and writing files so that nothing half-written is ever seen under a final name."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from .errors import VlaeError

#: The name that means standard input or output.
STANDARD = "-"


def read_bytes(path: str) -> bytes:
    """All bytes of a file, or of standard input for ``-``."""
    if path == STANDARD:
        return sys.stdin.buffer.read()
    return Path(path).read_bytes()


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


def below(folder: Path, name: str) -> Path:
    """The path of a relative name below a folder, the folders on the way made; never outside, nor through a link."""
    path = folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = name.split("/")
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise VlaeError(f"{path} is a symbolic link, which nothing is written through")
        path.mkdir(exist_ok=True)
    return path / parts[-1]


def write_bytes(path: str, data: bytes, force: bool = False) -> None:
    """Write a temporary file in the same folder, then give it its name; or write to standard output for ``-``.

    Raises
    ------
    VlaeError
        If the file exists and ``force`` is false, even when it came to exist only now.
    """
    if path == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=".vlae-", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a private file; give it the permissions that an ordinary new file has.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
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
