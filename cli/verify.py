"""``vlae-codec verify``."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from .folders import ManyFiles, about, files_bar, reading_options, say
from .options import Runner, gather, model_options, size_option


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(exists=True, path_type=Path), metavar="SOURCE",
              help="Compare with the file that was compressed, or with an archive's folder, bit for bit.")  # fmt: skip
@reading_options
@size_option
@model_options
@gather(many_files=ManyFiles, runner=Runner)
def verify(
    sources: tuple[Path, ...], against: Path | None, many_files: ManyFiles, max_pixels: int, runner: Runner
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
    from vlae_codec.folders import Coding, find_packed
    from vlae_codec.folders import verify as run
    from vlae_codec.formats.source import FileOptions

    paths = [path for _, path in find_packed(sources, many_files.recursive)]
    if against and len(paths) > 1:
        raise click.UsageError(f"--against is for one .vlae file, and these are {len(paths)}")
    if Path("-") in paths and len(paths) > 1:
        raise click.UsageError("standard input is checked alone: leave out the other sources")
    jobs, threads = many_files.workers(len(paths), runner.threads)
    # Worker processes have another standard input.
    jobs = 0 if Path("-") in paths else jobs
    coding = Coding(runner.model_name, runner.device, threads, FileOptions(max_pixels=max_pixels))
    coding.models.load()  # What is wrong with the model is said once, not of every file.
    findings = []
    with files_bar(runner.quiet, "verify", len(paths)) as update, closing(run(paths, coding, jobs, against)) as results:
        for finding in results:
            findings.append(finding)
            update(1)
            if finding.error is not None:
                say(about(finding.source, finding.error))
            elif not runner.quiet and not many_files.as_json:
                say(f"{finding.source}: ok ({finding.content})", err=False)
    if many_files.as_json:
        order = {str(path): number for number, path in enumerate(paths)}
        findings.sort(key=lambda finding: order[finding.source])
        counts = {status: sum(f.status == status for f in findings) for status in ("ok", "failed", "unchecked")}
        totals = {"files": len(findings), **counts}
        click.echo(json.dumps({"files": [asdict(finding) for finding in findings], "totals": totals}, indent=2))
    if any(finding.error for finding in findings):
        click.get_current_context().exit(1)
