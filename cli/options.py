"""Options and the progress bar that several sub-commands share."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from tqdm import tqdm

Command = TypeVar("Command", bound=Callable)


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tell the shell to complete paths, for parameters of text that may be one."""
    return [CompletionItem(incomplete, type="file")]


def gather(**records: type) -> Callable[[Command], Command]:
    """Give a command its options as records: each argument named here is a dataclass, of the options that it lists."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            for name, record in records.items():
                names = [field.name for field in dataclasses.fields(record)]
                given[name] = record(**{option: given.pop(option) for option in names if option in given})
            return function(*args, **given)

        command: Any = gathered
        return command

    return decorate


@dataclasses.dataclass(frozen=True)
class Target:
    """What is written: where, and how."""

    output: str | None
    force: bool
    attributes: bool = True


@dataclasses.dataclass(frozen=True)
class Runner:
    """Which model runs, where, and what is said of it."""

    model_name: str | None
    device: str
    threads: int | None
    quiet: bool

    def use_threads(self) -> None:
        """Apply ``--threads``."""
        use_threads(self.threads)

    def note(self, text: str) -> None:
        """See `note`."""
        note(self.quiet, text)


def model_options(function: Command) -> Command:
    """Those of every command that runs a model on files; a `Runner`."""
    model_help = "Model to use; default: photo to compress, the one that made the file to decompress."
    device_help = "Where the networks run; the bytes do not depend on it."
    decorators = [
        click.option("-m", "--model", "model_name", metavar="NAME|PATH", help=model_help, shell_complete=complete_path),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help=device_help),
        click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores, or 1 with workers."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def coding_options(function: Command) -> Command:
    """Those of every command that codes pixels into files; a `Runner` and a `Target`'s ``force``."""
    force = click.option("-f", "--force", is_flag=True, help="Replace the output if it exists.")
    return model_options(force(function))


def size_option(function: Command) -> Command:
    """``--max-pixels``, of the commands that decode an image; the default is `container.MAX_PIXELS`."""
    option = click.option(
        "--max-pixels", type=click.IntRange(1), default=1 << 28, show_default=True, metavar="N",
        help="Refuse images with more pixels, as each takes memory.",
    )  # fmt: skip
    return option(function)


def attributes_option(function: Command) -> Command:
    """``--attributes/--no-attributes``, of the commands that write archives or restore them."""
    option = click.option(
        "--attributes/--no-attributes", default=True, show_default=True,
        help="Keep files' times of modification and permissions; an archive holds those of its files.",
    )  # fmt: skip
    return option(function)


def use_threads(threads: int | None) -> None:
    """Apply ``--threads``."""
    if threads is not None:
        from vlae_codec.models.exact.loops import set_threads

        set_threads(threads)


#: Seconds before a bar is shown.
BAR_DELAY = 2
_WITH_TOTAL = "{desc}: {percentage:3.0f}%|{bar}| {n:.2f} of {total:.2f} MP, {rate_noinv_fmt}, {remaining} left"
_WITHOUT = "{desc}: {n:.2f} MP, {rate_noinv_fmt}"


class Bar:
    """A `vlae_codec.stages.Progress` that is shown; with the time left once it is told what to `expect`."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def __call__(self, pixels: int) -> None:
        """So many pixels are done."""
        self.bar.update(pixels)

    def expect(self, pixels: int) -> None:
        """So many more pixels will come in all."""
        self.bar.total = (self.bar.total or 0) + pixels
        self.bar.bar_format = _WITH_TOTAL


@contextmanager
def progress_bar(quiet: bool, what: str) -> Iterator[Bar]:
    """A bar with MP/s and, where it is known how many pixels come, the time left; on a terminal, after two seconds."""
    from tqdm import tqdm

    shown = not quiet and sys.stderr.isatty()
    # No thread that wakes up slow bars.
    tqdm.monitor_interval = 0
    # Of all time so far, as the parts of a bar are as long as they are expected to take.
    with tqdm(
        desc=what, unit="MP", unit_scale=1e-6, delay=BAR_DELAY, disable=not shown, leave=False, smoothing=0,
        bar_format=_WITHOUT,
    ) as bar:  # fmt: skip
        yield Bar(bar)


def display(name: str) -> str:
    """A file's name as a terminal can show it: it may hold bytes that are no text."""
    return name.encode("utf-8", "replace").decode()


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Name a file in what is wrong with it, and say what it is where it is another image."""
    from vlae_codec.errors import CorruptFile, NotAVlaeFile, UnknownModel, UnsupportedVersion

    try:
        yield
    except (CorruptFile, NotAVlaeFile, UnknownModel, UnsupportedVersion) as error:
        text, called = str(error), "standard input" if path == "-" else path
        found = _image_format(path) if isinstance(error, NotAVlaeFile) else ""
        if found:
            text = f"a {found} image, not a .vlae file"
        if os.path.basename(path) not in text or found:
            error.args = (f"{called}: {text}",)
        raise


def _image_format(path: str) -> str:
    """Pillow's name of the format of a file; empty for none that it knows."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.format or ""
    except Exception:
        # Pillow raises almost anything.
        return ""


def note(quiet: bool, text: str) -> None:
    """One line of result on stderr, so that stdout stays free for data."""
    if not quiet:
        click.echo(display(text), err=True)
