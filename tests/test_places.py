"""Places behind URLs, of each kind: memory, an S3 server, and a file system whose names appear before their bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from vlae_codec import places
from vlae_codec.errors import VlaeError
from vlae_codec.places import Store


@pytest.fixture(params=["memory", "s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        found = f"{request.getfixturevalue('store')}/{tmp_path.name}"
    else:
        found = f"{request.param}://{tmp_path}"
    yield found
    system, path = fsspec.url_to_fs(found)
    if system.exists(path):
        system.rm(path, recursive=True)


def fill(url: str) -> None:
    system, path = fsspec.url_to_fs(url)
    for name in ("b.png", "a.PNG", "sub/c.png", "sub/deep/d[1].png", "sub/notes.txt", "x.txt"):
        system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{path}/{name}", name.encode())
    system.invalidate_cache()


def test_what_lies_below_a_url(url: str) -> None:
    fill(url)
    found = places.find([url], {".png"}, recursive=True)
    assert found.files == [(name, f"{url}/{name}") for name in ("a.PNG", "b.png", "sub/c.png", "sub/deep/d[1].png")]
    assert found.others == 2
    assert [places.read(path) for _, path in found.files] == [name.encode() for name, _ in found.files]
    assert places.find([f"{url}/"], {".png"}, recursive=False) == (
        [("a.PNG", f"{url}/a.PNG"), ("b.png", f"{url}/b.png")], 1,
    )  # fmt: skip
    # What is named is taken whatever its suffix says.
    assert places.find([f"{url}/x.txt"], {".png"}, recursive=False).files == [("x.txt", f"{url}/x.txt")]
    assert places.is_folder(f"{url}/sub")
    assert not places.is_folder(f"{url}/x.txt")


def test_what_is_not_there(url: str) -> None:
    for look in (lambda path: places.find([path], {".png"}, True), places.read, places.is_folder):
        with pytest.raises(FileNotFoundError) as caught:
            look(f"{url}/missing")
        assert caught.value.filename == f"{url}/missing"


def test_outputs_are_written_once_unless_forced(url: str) -> None:
    place = places.output(f"{url}/out")
    assert isinstance(place, Store)
    with place.made():
        assert not place.has("sub/a.vlae")
        place.write("sub/a.vlae", b"first", force=False)
        # As one does who was lost before and could not say so.
        place.write("sub/a.vlae", b"first", force=False)
        with pytest.raises(VlaeError, match=r"out/sub/a\.vlae exists; use --force"):
            place.write("sub/a.vlae", b"second", force=False)
        assert places.read(f"{url}/out/sub/a.vlae") == b"first"
        place.write("sub/a.vlae", b"second", force=True)
        assert places.read(f"{url}/out/sub/a.vlae") == b"second"
    with place.made():
        assert place.has("sub/a.vlae")
        assert not place.has("sub")
        place.check("sub/a.vlae", force=True)
        with pytest.raises(VlaeError, match="exists"):
            place.check("sub/a.vlae", force=False)
    assert [name for name, _ in places.find([f"{url}/out"], {".vlae", ".tmp"}, True).files] == ["sub/a.vlae"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = type(fsspec.filesystem("file"))
    original = system.pipe_file

    def full(self: fsspec.AbstractFileSystem, path: str, value: bytes, **more: object) -> None:
        original(self, path, value[:1], **more)
        assert Path(path).name.startswith(".vlae-")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "pipe_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        places.output(f"file://{tmp_path}/out").write("a.vlae", b"data", force=False)
    assert not list((tmp_path / "out").iterdir())


def test_protocols_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VlaeError, match="Protocol not known: nowhere"):
        places.read("nowhere://a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(VlaeError, match=r"gs://a/b needs a package that is not installed: .*gcsfs"):
        places.read("gs://a/b")
