"""Folders that are URLs, in this process and in worker processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from conftest import picture
from PIL import Image
from test_cli import TINY, call, check_refused

NAMES = ("a.png", "sub/b.png", "sub/c.png")
HERE = ("-m", TINY, "-r", "-q")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture("noise", 8, 9, number)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def held(url: str) -> dict[str, bytes]:
    """All that lies below a URL or a folder."""
    system, path = fsspec.url_to_fs(url)
    system.invalidate_cache()
    return {name[len(path) + 1 :]: system.cat_file(name) for name in system.find(path)}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    yield f"memory:/{tmp_path}"
    fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)


def there_and_back(images: Path, url: str) -> None:
    fsspec.filesystem(url.partition("://")[0]).put(f"{images}/", f"{url}/in/", recursive=True)
    sources = held(str(images))
    assert held(f"{url}/in") == sources
    for arguments in (
        ("compress", f"{url}/in", "-o", f"{url}/packed"),
        ("verify", f"{url}/packed"),
        ("decompress", f"{url}/packed", "-o", f"{url}/back"),
        ("decompress", f"{url}/packed", "-o", f"{images.parent}/back/"),
        ("compress", images, "-o", f"{url}/again/"),
    ):
        result = call(*arguments, *HERE, "-j", "0")
        assert (result.exit_code, result.output) == (0, ""), arguments
    assert held(f"{url}/back") == held(str(images.parent / "back")) == sources
    assert held(f"{url}/packed") == held(f"{url}/again")


def test_there_and_back_in_memory(images: Path, memory: str) -> None:
    there_and_back(images, memory)


def test_there_and_back_over_s3(images: Path, store: str) -> None:
    there_and_back(images, store)
    # Worker processes write by themselves.
    assert call("compress", f"{store}/in", "-o", f"{store}/workers", *HERE, "-j", "2").exit_code == 0
    assert held(f"{store}/workers") == held(f"{store}/packed")


def test_a_run_that_was_stopped_goes_on(images: Path, memory: str) -> None:
    arguments = ("compress", images, "-o", memory, *HERE, "-j", "0", "--json")
    assert call(*arguments).exit_code == 0
    whole = held(memory)
    system, path = fsspec.url_to_fs(f"{memory}/sub/b.png.vlae")
    system.rm_file(path)
    system.pipe_file(f"{memory}/a.png.vlae", b"kept")
    totals = json.loads(call(*arguments, "--skip-existing").stdout)["totals"]
    assert (totals["ok"], totals["skipped"]) == (1, 2)
    assert held(memory) == whole | {"a.png.vlae": b"kept"}
    refused = call(*arguments)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0] == f"{images}/a.png: {memory}/a.png.vlae exists; use --force to replace it"
    assert call(*arguments, "--force").exit_code == 0
    assert held(memory) == whole


def test_a_name_that_is_taken(images: Path, memory: str) -> None:
    """a.bmp.vlae holds a PNG, whose name would be that of another output: the workers leave such files to the run."""
    assert call("compress", images / "a.png", "-o", images / "a.vlae", "-m", TINY, "-q").exit_code == 0
    for name in ("a.bmp.vlae", "a.bmp.png.vlae", "c.bmp.vlae"):
        (images / name).write_bytes((images / "a.vlae").read_bytes())
    (images / "a.vlae").unlink()
    result = call("decompress", images, "-o", memory, "-q", "-j", "0", "--force")
    assert result.stderr.endswith(f"{memory}/a.bmp.png is the output of another file\n")
    assert held(memory) == dict.fromkeys(("a.bmp.png", "c.bmp.png"), (images / "a.png").read_bytes())


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    check_refused(
        call("compress", images, "-o", "memory://out", *HERE, "-j", "2"), tmp_path, "memory://out", "--jobs 0"
    )
    check_refused(call("compress", "memory://none", "-o", f"{tmp_path}/out/", *HERE), tmp_path, "No such file")
    check_refused(call("verify", "nowhere://a"), tmp_path, "Protocol not known: nowhere")
    for arguments in (("memory://a.png",), ("memory://a.png", "-o", tmp_path / "out.vlae")):
        result = call("compress", *arguments, "-m", TINY)
        assert (result.exit_code, "is a URL, which needs a folder as output" in result.stderr) == (2, True)
