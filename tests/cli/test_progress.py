from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import binary_images, picture
from PIL import Image
from vlae_codec.cli import main, options


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is written to a terminal, bars from the beginning on."""
    from tqdm import tqdm

    initial = tqdm.__init__
    monkeypatch.setattr(options, "BAR_DELAY", 0)
    monkeypatch.setattr(tqdm, "__init__", lambda *args, **rest: initial(*args, mininterval=0, miniters=0, **rest))
    return Terminal()


def frames(terminal: Terminal, what: str) -> list[tuple[int, str]]:
    """Percentages of a bar's frames that have one, and the rest."""
    found = re.findall(rf"{what}: +(\d+)%\|.*?\| ([^\r]*)", terminal.getvalue())
    return [(int(percent), rest) for percent, rest in found]


def run(stream: io.StringIO, *arguments: object) -> None:
    with contextlib.redirect_stderr(stream):
        main([str(a) for a in arguments], standalone_mode=False)


def test_one_bar_for_one_image(terminal: Terminal, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(picture("smooth", 180, 200)).save(source)
    run(terminal, "compress", source, "-o", tmp_path / "a.vlae", "-m", "tiny")
    run(terminal, "decompress", tmp_path / "a.vlae", "-o", tmp_path / "b.png")
    for what in ("compress", "decompress"):
        shown = frames(terminal, what)
        percents = [percent for percent, _ in shown]
        assert percents == sorted(percents)
        assert percents[-1] == 100
        for _, rest in shown:
            assert re.match(r"0\.0\d of 0\.04 MP, +(\?|[\d.]+) ?MP/s, (\?|\d\d:\d\d) left", rest), rest
    assert len({percent for percent, _ in frames(terminal, "compress")}) > 5


def test_arrays_too(terminal: Terminal, tmp_path: Path) -> None:
    for number, array in enumerate((binary_images(30, 8), np.stack([picture("smooth", 40, 50)] * 3))):
        np.save(tmp_path / "a.npy", array)
        model = "tiny" if number else "tiny-binary"
        run(terminal, "compress", tmp_path / "a.npy", "-o", tmp_path / f"{number}.vlae", "-m", model)
        run(terminal, "decompress", tmp_path / f"{number}.vlae", "-o", tmp_path / f"{number}.npy")
        for what in ("compress", "decompress"):
            assert [percent for percent, _ in frames(terminal, what)][-1] == 100
        terminal.seek(0)
        terminal.truncate()


def test_of_files_no_end_is_known(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(picture("smooth", 100, 100, number)).save(tmp_path / "in" / f"{number}.png")
    run(terminal, "compress", tmp_path / "in", "-o", tmp_path / "a.vlae", "-m", "tiny")
    assert "compress: 0.02 MP, " in terminal.getvalue()
    assert "%" not in terminal.getvalue()


def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(options, "BAR_DELAY", 0)
    Image.fromarray(picture("smooth", 40, 40)).save(tmp_path / "a.png")
    run(stream, "compress", tmp_path / "a.png", "-o", tmp_path / "a.vlae", "-m", "tiny")
    assert stream.getvalue().count("\n") == 1
    assert "compress:" not in stream.getvalue()
