"""What each command loads: nothing that it does not need, as torch and numba take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN
from PIL import Image

import vlae_codec

SCRIPT = """
import json, sys
if len(sys.argv) > 1:
    from vlae_codec.cli import main
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        assert not end.code, end.code
else:
    import vlae_codec
    vlae_codec.VlaeError
names = ("torch", "numba", "scipy", "numpy", "PIL", "tqdm", "PIL.PngImagePlugin")
print(json.dumps([name for name in names if name in sys.modules]))
"""
NETWORKS = {"torch", "numba", "scipy"}


def loaded(*arguments: object, cwd: Path | None = None) -> set[str]:
    """Which of the large libraries a command has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=True, cwd=cwd
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [(), ("--version",), ("--help",), ("compress", "--help"), ("completion", "bash")], ids=" ".join
)
def test_what_asks_for_no_file_loads_no_library(arguments: tuple[str, ...]) -> None:
    assert not loaded(*arguments)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("info", "tiny-smooth-bits_back"), ("info", "palette-fallback"), ("info", "tiny-binary-array"),
        ("info", "tiny-binary-lossy"), ("list", "tiny-binary-array"),
        ("info", "tiny-binary-particles-array"), ("list", "tiny-binary-particles-array"),
    ],
)  # fmt: skip
def test_what_decodes_nothing_loads_no_network(command: str, name: str) -> None:
    assert loaded(command, GOLDEN / f"{name}.vlae") == {"numpy", "PIL"}


@pytest.mark.parametrize("kind", ["bits_back", "plain_z", "without_z"])
def test_decoding_a_photograph_on_the_cpu_needs_no_torch(kind: str, tmp_path: Path) -> None:
    packed = GOLDEN / f"tiny-smooth-{kind}.vlae"
    assert "torch" not in loaded("decompress", packed, "-o", tmp_path / "a.png", "--device", "cpu")


@pytest.mark.parametrize("model", ["photo", "photo-global"])
def test_encoding_a_photograph_on_the_cpu_needs_no_torch(model: str, tmp_path: Path) -> None:
    packed = tmp_path / "a.vlae"
    assert "torch" not in loaded("compress", GOLDEN / "lake.png", "-o", packed, "--device", "cpu", "--model", model)
    assert vlae_codec.info(packed.read_bytes())["mode"].startswith("vlae")


@pytest.mark.parametrize(("name", "unwanted"), [("a.jpg", NETWORKS), ("a.gif", NETWORKS), ("palette.png", {"torch"})])
def test_what_no_model_codes_loads_no_network(name: str, unwanted: set[str], tmp_path: Path) -> None:
    with Image.open(GOLDEN / "smooth.png") as image:
        image.quantize(16).save(tmp_path / name) if name != "a.jpg" else image.save(tmp_path / name)
    packed = tmp_path / f"{name}.vlae"
    assert not loaded("compress", tmp_path / name, "-o", packed) & unwanted
    assert not loaded("decompress", packed, "-o", tmp_path / f"again-{name}") & unwanted
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_modules_run_from_a_checkout_whatever_is_installed() -> None:
    """There `python -m` finds the checkout's package, without what an installation puts inside."""
    finders = "sys.meta_path[:] = [each for each in sys.meta_path if 'editable' not in repr(each).lower()]"
    script = f"import sys; {finders}; import vlae_codec.cli.bench, vlae_codec.models.plan as p; print(p.__file__)"
    root = GOLDEN.parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert Path(done.stdout.strip()) == root / "models" / "plan.py"
