"""Files are written whole or not at all, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlae_codec import files

KILLED = """
import os, signal, sys
from vlae_codec import files
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write_bytes(sys.argv[1], b"half of it")
"""


def age(folder: Path) -> None:
    for path in folder.glob(".vlae-*.tmp"):
        os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "a.vlae"
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)]).returncode < 0
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".vlae-")
    # A young one may be another process's, which has only just begun.
    files.write_bytes(str(target), b"whole")
    assert left.exists()
    age(tmp_path)
    files.write_bytes(str(tmp_path / "another.vlae"), b"whole")
    assert left.exists()
    files.write_bytes(str(target), b"whole", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vlae", "another.vlae"]
    assert target.read_bytes() == b"whole"


@pytest.mark.skipif(os.name == "nt", reason="no such locks")
def test_what_another_process_writes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.vlae"
    seen: list[bytes] = []

    def second(handle: int) -> None:
        # While the first waits for its disk, however long, the same is written once more.
        monkeypatch.undo()
        age(tmp_path)
        # Another process would list the folder for itself.
        files._left_in.cache_clear()
        files.write_bytes(str(target), b"second")
        seen.append(target.read_bytes())

    monkeypatch.setattr(os, "fsync", second)
    files.write_bytes(str(target), b"first", force=True)
    assert seen == [b"second"]
    assert target.read_bytes() == b"first"
    assert not list(tmp_path.glob(".*"))


def test_many_files_list_their_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: listed.append(path) or glob(path, pattern))
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        files.write_bytes(f"{number}.vlae", b"")
    assert listed == [tmp_path]
    assert len(os.listdir(tmp_path)) == 20
