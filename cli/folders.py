"""What the commands share that work on many files in worker processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command, Runner, Target

if TYPE_CHECKING:
    from vlae_codec.folders import Coding, Outcome, Plan
    from vlae_codec.workers import Engine


@dataclass(frozen=True)
class ManyFiles:
    """The options of a command on many files."""

    recursive: bool
    jobs: int | None
    as_json: bool
    engine: str = "auto"
    address: str | None = None
    keep_going: bool = True
    skip_existing: bool = False

    def workers(self, count: int, runner: Runner) -> tuple[Engine, int | None]:
        """What does the work on so many files, this process that on a single one unless asked; and each's threads."""
        from vlae_codec.registry import FOLDER_VARIABLE
        from vlae_codec.workers import Ray, default_jobs

        threads = runner.threads
        if self.engine == "ray":
            if self.jobs is not None:
                raise click.UsageError("--jobs is for this machine; how many tasks run on a cluster is Ray's to say")
            known = os.environ.get(FOLDER_VARIABLE)
            variables = ((FOLDER_VARIABLE, known),) if known else ()
            return Ray(self.address, threads or 1, int(runner.device.startswith("cuda")), variables), threads or 1
        if self.address:
            raise click.UsageError("--address is for --engine ray")
        if self.jobs == 0 or (self.jobs is None and count == 1):
            return 0, threads
        threads = threads or 1
        return self.jobs or default_jobs(threads), threads

    def refuse(self, many: bool = False) -> None:
        """Refuse the options where one file is written, as they would do nothing there; ``many``: of many sources."""
        given = self.recursive or self.jobs is not None or self.as_json or self.skip_existing
        if given or self.engine != "auto" or self.address:
            raise click.UsageError(
                "--recursive, --jobs, --engine, --address, --skip-existing and --json need a folder as output: end it "
                "in /"
            )
        if not (self.keep_going or many):
            raise click.UsageError("--fail-fast is for several sources, and this is one")


def reading_options(function: Command) -> Command:
    """The options of commands that only read; a `ManyFiles`."""
    return _options(function, [])


def folder_options(function: Command) -> Command:
    """The options of commands that write a folder; a `ManyFiles`."""
    return _options(function, [
        click.option("--keep-going/--fail-fast", default=True, show_default=True,
                     help="Folders and archives: go on after a file that fails, or stop."),
        click.option("--skip-existing", is_flag=True, help="Folders: do nothing for outputs that exist."),
    ])  # fmt: skip


def _options(function: Command, more: list[Callable]) -> Command:
    decorators = [
        click.option("-r", "--recursive", is_flag=True, help="Folders: visit sub-folders."),
        click.option("-j", "--jobs", type=click.IntRange(0), help="Folders: worker processes; default: as many as keep "
                     "the cores busy; 0: none, the work is done in this process."),
        click.option("--engine", type=click.Choice(["auto", "ray"]), default="auto", show_default=True,
                     help="Folders: work on this machine, or on a Ray cluster."),
        click.option("--address", help="The cluster's address, for --engine ray; default: what RAY_ADDRESS says, or "
                     "that of this machine's cluster, or a new one of this machine alone."),
        *more,
        click.option("--json", "as_json", is_flag=True, help="Folders: print JSON on stdout."),
    ]  # fmt: skip
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


#: What a command looks for in folders.
_KINDS = {"compress": "images", "decompress": ".vlae files"}


def is_folder(output: str) -> bool:
    """Whether an output means a folder: it ends in a slash, is one already, or is a URL."""
    from vlae_codec.places import is_url

    return is_url(output) or output.endswith(("/", os.sep)) or Path(output).is_dir()


def refuse_urls(sources: Sequence[str]) -> None:
    """Refuse URLs where no folder is written."""
    from vlae_codec.places import is_url

    for source in sources:
        if is_url(source):
            raise click.UsageError(f"{source} is a URL, which needs a folder as output: end it in /")


@contextmanager
def files_bar(quiet: bool, what: str, count: int) -> Iterator[Callable[[int], object]]:
    """A bar of files done, on a terminal."""
    from tqdm import tqdm

    shown = not quiet and sys.stderr.isatty()
    # No thread that wakes up slow bars.
    tqdm.monitor_interval = 0
    with tqdm(total=count, desc=what, unit="file", disable=not shown, leave=False) as bar:
        yield bar.update


def say(text: str, err: bool = True) -> None:
    """One line, without disturbing a bar."""
    from tqdm import tqdm

    # A file's name may hold bytes that are no text.
    tqdm.write(click.format_filename(text), file=sys.stderr if err else sys.stdout)


def about(path: str, error: str) -> str:
    """What is wrong with a file, as one line that names it once, with its folders."""
    name = os.path.basename(path)
    return f"{path}{error[len(name) :]}" if error.startswith(f"{name} ") else f"{path}: {error}"


def run_folder(what: str, plan: Plan, target: Target, coding: Coding, many_files: ManyFiles, runner: Runner) -> None:
    """Compress or decompress files into a folder, show what became of them, and exit with code 1 if one failed."""
    from dataclasses import replace

    from vlae_codec import files, folders
    from vlae_codec.errors import VlaeError

    tasks, quiet = plan.tasks, runner.quiet
    if any(task.source == files.STANDARD for task in tasks):
        raise VlaeError("standard input has no name that its output could have in a folder; name an output file")
    if target.force and many_files.skip_existing:
        raise click.UsageError("--force replaces outputs that exist, --skip-existing keeps them: give one of them")
    engine, threads = many_files.workers(len(tasks), runner)
    run = folders.compress if what == "compress" else folders.decompress
    # Of millions of files, what became of each is not kept unless it is asked for.
    done: list[Outcome] = []
    totals = folders.Totals()
    assert target.output is not None
    outcomes = run(
        tasks, target.output, replace(coding.loaded(engine), threads=threads), engine=engine, force=target.force,
        skip_existing=many_files.skip_existing,
    )  # fmt: skip
    with files_bar(quiet, what, len(tasks)) as update, closing(outcomes):
        for outcome in outcomes:
            totals.add(outcome)
            if many_files.as_json:
                done.append(outcome)
            update(1)
            if outcome.error is not None:
                say(about(outcome.source, outcome.error))
                if not many_files.keep_going:
                    break
    summary = totals.summary() | {"passed_over": plan.passed_over}
    if not quiet:
        if plan.passed_over:
            say(f"{plan.passed_over} other files passed over, as their names are not of {_KINDS[what]}")
        say(_table(summary))
        if totals.files < len(tasks):
            say(f"stopped at the first failure, {len(tasks) - totals.files} files not done")
    if many_files.as_json:
        order = {task.source: number for number, task in enumerate(tasks)}
        done.sort(key=lambda outcome: order[outcome.source])
        click.echo(json.dumps({"files": [asdict(outcome) for outcome in done], "totals": summary}, indent=2))
    if totals.failed:
        click.get_current_context().exit(1)


def _table(totals: dict[str, Any]) -> str:
    ratio = "-" if totals["ratio"] is None else f"{totals['ratio']:.4f}"
    cells = [("files", totals["files"]), ("ok", totals["ok"]), ("skipped", totals["skipped"]),
             ("failed", totals["failed"]), ("bytes in", totals["bytes_in"]), ("bytes out", totals["bytes_out"]),
             ("out / in", ratio)]  # fmt: skip
    widths = [max(len(name), len(str(value))) + 2 for name, value in cells]
    rows = ([name for name, _ in cells], [str(value) for _, value in cells])
    return "\n".join("".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
