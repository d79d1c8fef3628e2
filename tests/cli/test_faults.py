"""Faults around a command: whatever happens, the output is complete or absent, and the user reads one line.

Each runs in a process of its own, as these faults are of processes. Nothing here needs, or fails without, being root.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, binary_images, picture, vlae_file
from PIL import Image

from vlae_codec import archive_array, load_model
from vlae_codec.errors import VlaeError
from vlae_codec.files import open_unchanged, read_bytes
from vlae_codec.stages import StageKind

TINY = str(GOLDEN / "tiny.safetensors")
BINARY = str(GOLDEN / "tiny-binary.safetensors")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals and limits of POSIX")

#: Forks a process for each request, everything imported: a start from nothing would take seconds.
SERVER = """
import json, os, resource, signal, sys
from vlae_codec import files, registry
from vlae_codec.coding import binary, photo
from vlae_codec.formats import archive, kinds, lossy, single
from vlae_codec.cli import main
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for descriptor, path in enumerate(request["streams"]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
        sys.argv = ["vlae-codec", *request["arguments"]]
        exec(request["before"])
        main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs the command line, each time in a process of its own, after a line of Python that is given."""

    def __init__(self, folder: Path) -> None:
        self.streams = [os.devnull, str(folder / "stdout"), str(folder / "stderr")]
        # One thread: where memory is too short to start another, OpenMP and numba wait for it for ever.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments: str | Path, before: str = "", stdout: str = "") -> int:
        """Begin, and give the process's number."""
        for path in self.streams[1:]:
            Path(path).write_text("")
        streams = [self.streams[0], stdout or self.streams[1], self.streams[2]]
        request = {"arguments": [str(a) for a in arguments], "before": before, "streams": streams}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def finish(self) -> Result:
        """Wait for what was started."""
        assert self.server.stdout is not None
        code = int(self.server.stdout.readline())
        return Result(code, *(Path(path).read_text() for path in self.streams[1:]))

    def __call__(self, *arguments: str | Path, before: str = "", stdout: str = "") -> Result:
        self.start(*arguments, before=before, stdout=stdout)
        return self.finish()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLAE_CODEC_MODELS", str(GOLDEN))
        commands = Commands(tmp_path_factory.mktemp("streams"))
    yield commands
    commands.server.communicate()


def check_one_line(result: Result, *parts: str, code: int = 1) -> None:
    """The exit code, and one line on stderr that holds the parts; no traceback, nothing that Python says at its end."""
    assert result.code == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vlae-codec: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(picture("smooth", 40, 50)).save(path)
    return path


@pytest.fixture
def packed(run: Commands, tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "in.vlae"
    with Image.open(source) as image:
        path.write_bytes(vlae_file(image, StageKind.BITS_BACK, load_model(TINY, "cpu")))
    # Compiles the loops, where that is still to be done: the compiled code is a file too, and commands have their own.
    for command, subject in (("compress", source), ("decompress", path)):
        assert run(command, subject, "-o", "-", "-m", TINY, stdout=os.devnull).code == 0
    return path


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"in.png", "in.vlae"}


# -- a full disk -----------------------------------------------------------------------------------------------------

#: As if the disk were full after so many bytes: a write beyond them is an error, in place of the signal.
FULL = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize("room", [300, 1000])
def test_a_disk_that_is_full(run: Commands, tmp_path: Path, source: Path, packed: Path, room: int) -> None:
    for arguments in (
        ("compress", source, "-o", tmp_path / "out.vlae"),
        ("decompress", packed, "-o", tmp_path / "out.png"),
    ):
        result = run(*arguments, "-m", TINY, before=FULL.format(room))
        check_one_line(result, f"{arguments[-1]}: ", "File too large")
        assert left_in(tmp_path) == set()


def test_an_output_that_exists_outlives_a_full_disk(run: Commands, tmp_path: Path, source: Path) -> None:
    (tmp_path / "out.vlae").write_bytes(b"before")
    result = run("compress", source, "-o", tmp_path / "out.vlae", "-f", "-m", TINY, before=FULL.format(1000))
    check_one_line(result, "File too large")
    assert (tmp_path / "out.vlae").read_bytes() == b"before"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_standard_output_that_is_full(run: Commands, source: Path, packed: Path) -> None:
    for arguments in (("compress", source, "-o", "-", "-m", TINY), ("info", packed)):
        check_one_line(run(*arguments, stdout="/dev/full"), "No space left on device")


# -- sources that cannot be read -------------------------------------------------------------------------------------


def test_sources_that_cannot_be_read(run: Commands, tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "folder.vlae").mkdir()
    out = tmp_path / "out"
    check_one_line(run("compress", tmp_path / "missing.png", "-o", out, "-m", TINY), "missing.png", "No such file")
    check_one_line(run("compress", tmp_path / "broken.png", "-o", out, "-m", TINY), "broken.png", "No such file")
    check_one_line(run("decompress", tmp_path / "folder.vlae", "-o", out), "folder.vlae is a folder", "--output")
    assert not out.exists()


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="run by root, who may read every file")
def test_a_source_without_permission(run: Commands, tmp_path: Path, source: Path) -> None:
    source.chmod(0)
    check_one_line(run("compress", source, "-o", tmp_path / "out.vlae", "-m", TINY), "in.png", "Permission denied")
    assert left_in(tmp_path) == set()


def test_a_pipe_that_closes_early(run: Commands, tmp_path: Path, source: Path, packed: Path) -> None:
    for path, command, message in (
        (source, "compress", "cannot be read"),
        (packed, "decompress", "checksum of the file"),
    ):
        pipe, data = tmp_path / "pipe", path.read_bytes()
        os.mkfifo(pipe)
        # Opening waits for the reader; the thread ends with it, as half a file always fits into a pipe.
        writer = threading.Thread(target=pipe.write_bytes, args=(data[: len(data) // 2],))
        writer.start()
        result = run(command, pipe, "-o", tmp_path / "out.png", "-m", TINY)
        writer.join()
        check_one_line(result, message)
        pipe.unlink()
        assert left_in(tmp_path) == set()


def test_a_source_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(b"first")

    def read_while(change: str) -> None:
        with open_unchanged(path):
            if change == "longer":
                path.write_bytes(b"first and second")
            elif change == "other bytes":
                path.write_bytes(b"FIRST")
                os.utime(path, (1, 1))
            else:
                # The file that was opened stays as it was.
                other = tmp_path / "other.png"
                other.write_bytes(b"second")
                other.replace(path)

    for change in ("longer", "other bytes"):
        with pytest.raises(VlaeError, match=r"in\.png was written to while it was read"):
            read_while(change)
    read_while("replaced")
    assert read_bytes(path) == b"second"


# -- an end in the middle --------------------------------------------------------------------------------------------


def test_ctrl_c(run: Commands, tmp_path: Path) -> None:
    # Images enough for minutes.
    array = tmp_path / "in.npy"
    np.save(array, np.tile(binary_images(400, 8), (200, 1, 1)))
    # Compiles the loops: an interruption of numba itself is said by Python, in lines of its own.
    archive_array(binary_images(40, 8), load_model(BINARY, "cpu"))
    arguments = ("compress", array, "-o", tmp_path / "out.vlae", "-m", BINARY, "--segment", "20")
    # A shell's background jobs, such as a test run may be, ignore the signal and hand that down.
    process = run.start(*arguments, before="signal.signal(signal.SIGINT, signal.default_int_handler)")
    time.sleep(0.7)
    os.kill(process, signal.SIGINT)
    check_one_line(run.finish(), "interrupted", code=130)
    assert left_in(tmp_path) == {"in.npy"}


#: Writes files as the commands do, one after the other, until it is killed.
WRITER = """
data = [open(path, "rb").read() for path in sys.argv[2:]]
while True:
    for one in data:
        files.write_bytes(sys.argv[1], one, force=True)
"""


def test_kill_while_writing(run: Commands, tmp_path: Path, packed: Path) -> None:
    """Killed at ten moments of a loop that does nothing but write: the name always holds one complete file."""
    out, large = tmp_path / "out.vlae", tmp_path / "large"
    large.write_bytes(random.Random(0).randbytes(8 << 20))
    complete = {packed.read_bytes(), large.read_bytes()}
    moments = random.Random(1)
    for _ in range(10):
        process = run.start(out, packed, large, before=WRITER)
        time.sleep(moments.uniform(0.02, 0.1))
        os.kill(process, signal.SIGKILL)
        assert run.finish().code == -signal.SIGKILL
        assert not out.exists() or out.read_bytes() in complete
    assert out.exists(), "no moment came after a write, so the test says nothing"
    assert list(tmp_path.glob(".vlae-*.tmp")), "no moment hit a write, so the test says nothing"
    # What is left lies in nobody's way.
    again = run("decompress", packed, "-o", tmp_path / "again.png", "-m", TINY)
    assert again.code == 0, again.stderr
    folder = run("compress", tmp_path, "-o", tmp_path / "folder.vlae", "-m", TINY, "-q")
    assert folder.code == 0, folder.stderr
    assert run("list", tmp_path / "folder.vlae", "--names").stdout.split() == ["again.png", "in.png"]


def test_kill_at_any_moment_of_a_command(run: Commands, tmp_path: Path, source: Path, packed: Path) -> None:
    moments = random.Random(2)
    with Image.open(source) as image:
        expected = image.tobytes()
    for _ in range(10):
        process = run.start("decompress", packed, "-o", tmp_path / "out.png", "-m", TINY, "-f")
        time.sleep(moments.uniform(0, 0.6))
        os.kill(process, signal.SIGKILL)
        run.finish()
        if (tmp_path / "out.png").exists():
            with Image.open(tmp_path / "out.png") as image:
                assert image.tobytes() == expected


# -- want of memory --------------------------------------------------------------------------------------------------

#: What is mapped now and some more may be used. Compiled loops are loaded first, as their loader aborts without memory.
SCARCE = """
from PIL import Image
model = registry.load_model({model!r}, "cpu")
single.decompress(single.compress(Image.linear_gradient("L").resize((40, 40)).convert("RGB"), model), model)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + {room}, mapped + {room}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system has no /proc/self/statm")
@pytest.mark.parametrize("room", [1 << 20, 40 << 20, 100 << 20])
def test_want_of_memory(run: Commands, tmp_path: Path, room: int) -> None:
    source = tmp_path / "in.png"
    Image.new("RGB", (7000, 7000)).save(source)
    before = SCARCE.format(model=TINY, room=room)
    result = run("compress", source, "-o", tmp_path / "out.vlae", "-m", TINY, before=before)
    check_one_line(result, "not enough memory")
    assert left_in(tmp_path) == set()
