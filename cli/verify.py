"""``vlae-codec verify``."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from .folders import ManyFiles, about, files_bar, reading_options, say
from .options import Runner, complete_path, gather, model_options, size_option


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option("--against", type=click.Path(exists=True, path_type=Path), metavar="SOURCE",
              help="Compare with the file that was compressed, or with an archive's folder, bit for bit.")  # fmt: skip
@reading_options
@size_option
@model_options
@gather(many_files=ManyFiles, runner=Runner)
def verify(
    sources: tuple[str, ...], against: Path | None, many_files: ManyFiles, max_pixels: int, runner: Runner
) -> None:
    """Check .vlae files (- for standard input), and those in folders, without writing anything.

    Everything is decoded and held against its checksums. The exit code is 1 if anything is wrong, or cannot be checked
    because the model that made it is not here.

    \b
    Examples:
      vlae-codec verify photo.vlae
      vlae-codec verify backup --recursive
      vlae-codec verify photo.vlae --against photo.png
    """
    from vlae_codec.checking import verify as run
    from vlae_codec.files import STANDARD
    from vlae_codec.folders import Coding, find_packed
    from vlae_codec.formats.source import FileOptions

    paths = [path for _, path in find_packed(sources, many_files.recursive).files]
    if against and len(paths) > 1:
        raise click.UsageError(f"--against is for one .vlae file, and these are {len(paths)}")
    if STANDARD in paths and len(paths) > 1:
        raise click.UsageError("standard input is checked alone: leave out the other sources")
    engine, threads = many_files.workers(len(paths), runner)
    # Worker processes have another standard input.
    engine = 0 if STANDARD in paths else engine
    coding = Coding(runner.model_name, runner.device, threads, FileOptions(max_pixels=max_pixels)).loaded(engine)
    findings = []
    with (
        files_bar(runner.quiet, "verify", len(paths)) as update,
        closing(run(paths, coding, engine, against)) as results,
    ):
        for finding in results:
            findings.append(finding)
            update(1)
            if finding.error is not None:
                say(about(finding.source, finding.error))
            elif not runner.quiet and not many_files.as_json:
                say(f"{finding.source}: ok ({finding.content})", err=False)
    if many_files.as_json:
        order = {path: number for number, path in enumerate(paths)}
        findings.sort(key=lambda finding: order[finding.source])
        counts = {status: sum(f.status == status for f in findings) for status in ("ok", "failed", "unchecked")}
        totals = {"files": len(findings), **counts}
        click.echo(json.dumps({"files": [asdict(finding) for finding in findings], "totals": totals}, indent=2))
    if any(finding.error for finding in findings):
        click.get_current_context().exit(1)
