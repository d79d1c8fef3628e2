"""Each folder imports only from what stands below it, and nothing in it is too large to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: From the lowest up; within a row a module may import its neighbours.
LAYERS = (
    ("compiled", "errors", "waiting"), ("files", "fields", "stages"), ("places", "workers"), ("entropy",), ("models",),
    ("coding",), ("images", "packing"), ("registry",), ("formats",), ("folders", "evaluate", "plugins"),
    ("checking", "explore"), ("cli",),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
#: Most lines of a file and of a class, and most parameters of a function, besides its own object.
MOST_LINES, MOST_OF_A_CLASS, MOST_PARAMETERS = 450, 200, 8
#: What is over the limits still; none is to be added.
LARGE = {"photo.py: PhotoCoder"}
FILES = sorted(path for folder in ("vlae_codec", "models", "cli") for path in (ROOT / folder).rglob("*.py"))


def room(path: Path) -> str:
    """The row's entry that a file belongs to; none for the package's own names."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "vlae_codec" else parts[0]


class Imports(ast.NodeVisitor):
    """What a module imports of the package, but for what only type checkers see."""

    def __init__(self, path: Path) -> None:
        self.package = ["vlae_codec", *[part for part in path.relative_to(ROOT).parent.parts if part != "vlae_codec"]]
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        start = self.package[: len(self.package) - node.level + 1] if node.level else []
        base = [*start, *([node.module] if node.module else [])]
        self.found |= {".".join([*base, alias.name]) for alias in node.names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_what_stands_below_it(path: Path) -> None:
    imports = Imports(path)
    imports.visit(ast.parse(path.read_text()))
    rooms = {name.split(".")[1] for name in imports.found if name.startswith("vlae_codec.")} & set(RANK)
    if room(path) != "__init__":
        assert not {name for name in rooms if RANK[name] > RANK[room(path)]}


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a function has, besides its own object."""
    found = node.args
    names = [each.arg for each in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    names += [each.arg for each in (found.vararg, found.kwarg) if each]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def too_large(path: Path) -> list[str]:
    """What of a file is over the limits."""
    text = path.read_text()
    found = [path.name] if text.count("\n") > MOST_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= MOST_OF_A_CLASS:
            found.append(f"{path.name}: {node.name}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node) > MOST_PARAMETERS:
            found.append(f"{path.name}: {node.name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_too_large(path: Path) -> None:
    assert not set(too_large(path)) - LARGE


def test_what_is_let_pass_is_too_large() -> None:
    assert {name for path in FILES for name in too_large(path)} == LARGE


def test_what_is_too_large_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("class A:\n    def f(self, a, b, c, d, e, f, g, *, h): ...\n" + "    x = 1\n" * 198)
    assert too_large(path) == []
    path.write_text("class A:\n    def f(self, a, b, c, d, e, f, g, *, h, **i): ...\n" + "    x = 1\n" * 199)
    assert too_large(path) == ["a.py: A", "a.py: f"]
    path.write_text("x = 1\n" * 451)
    assert too_large(path) == ["a.py"]
