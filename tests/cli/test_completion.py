from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner
from vlae_codec.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_this_program(shell: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_VLAE_CODEC_COMPLETE={shell}_complete" in result.stdout
    program = shutil.which(shell)
    if program:
        script = tmp_path / "script"
        script.write_text(result.stdout)
        subprocess.run([program, "-n", script], check=True)


def test_other_shells_are_refused() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "bash" in result.stderr


def completions(*words: str) -> list[tuple[str, str]]:
    kind = get_completion_class("bash")
    assert kind is not None
    found = kind(main, {}, "vlae-codec", "_VLAE_CODEC_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


def test_commands_options_and_paths_are_completed() -> None:
    assert completions("com") == [("plain", "completion"), ("plain", "compress")]
    assert completions("compress", "--embed") == [("plain", "--embed-model")]
    for words in (("compress", "a.png", "b"), ("compress", "-o", "b"), ("decompress", "b"), ("info", "b"),
                  ("decompress", "--model", "b"), ("lossy", "b"), ("export", "-o", "b"), ("eval", "b")):  # fmt: skip
        assert completions(*words) == [("file", "b")], words
