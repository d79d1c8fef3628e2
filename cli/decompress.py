"""``vlae-codec decompress``."""

from __future__ import annotations

from dataclasses import dataclass

import click

from .folders import ManyFiles, folder_options, is_folder, refuse_urls, run_folder
from .options import (
    Runner,
    Target,
    attributes_option,
    coding_options,
    complete_path,
    gather,
    naming,
    progress_bar,
    size_option,
)


@dataclass(frozen=True)
class Drawn:
    """How lossy files are shown."""

    how: str | None
    samples: int
    seed: int


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "-o", "--output", shell_complete=complete_path,
    help="Image to write, its format by the suffix; - for standard output; by default the source's name and format. "
    "For an archive or several files a folder: ends in / or exists; for several files a URL; for an array a .npy or "
    ".npz file.",
)  # fmt: skip
@click.option("--select", multiple=True, metavar="NAME", help="Archives: only the image of this name or number.")
@click.option("--mode", "how", type=click.Choice(["sample", "mean"]),
              help="Lossy files: draw the detail (default for binary images), or show the mean: of binary images over "
              "draws, of a photograph what z alone tells (default).")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Lossy files: how many draws.")
@click.option("--seed", type=click.IntRange(0, (1 << 31) - 1), default=0, show_default=True,
              help="Lossy files: seed of the draws.")  # fmt: skip
@attributes_option
@folder_options
@size_option
@coding_options
@gather(target=Target, drawn=Drawn, many_files=ManyFiles, runner=Runner)
def decompress(
    sources: tuple[str, ...], target: Target, select: tuple[str, ...], drawn: Drawn, many_files: ManyFiles,
    max_pixels: int, runner: Runner,
) -> None:  # fmt: skip
    """Restore what the .vlae file SOURCES holds (- for standard input).

    With a folder as output, SOURCES may be several .vlae files of single images, and folders of them: a.png.vlae
    becomes a.png there.

    Without --output an image gets the name and the format of the file that was compressed, in the current folder. A
    format given by --output must keep the pixels exactly: .png, .webp (lossless), .tiff, .bmp, .ppm. Nothing is written
    unless the checksum of the pixels is right and the output reads back as the same image.

    From a damaged archive the intact segments are restored and the damaged ones named, as are files that exist and so
    are in the way of an image; the exit code is 1.

    \b
    Examples:
      vlae-codec decompress photo.vlae
      vlae-codec decompress photo.vlae -o photo.tiff
      vlae-codec decompress photographs.vlae -o folder
      vlae-codec decompress packed -o photographs/ --recursive
      vlae-codec decompress digits.vlae -o digits.npy
      vlae-codec decompress photographs.vlae --select holiday/1.png -o 1.png
    """
    from vlae_codec import files, folders, places
    from vlae_codec.errors import VlaeError
    from vlae_codec.formats import kinds
    from vlae_codec.formats.request import Draws, Request
    from vlae_codec.formats.source import FileOptions
    from vlae_codec.registry import Models

    single = len(sources) == 1 and not places.is_folder(sources[0])
    data = places.read(sources[0]) if single else b""
    with naming(sources[0]):
        many = not single or kinds.is_single(data)
    output, draws = target.output, Draws(drawn.samples, drawn.seed, None if drawn.how is None else drawn.how == "mean")
    if output is not None and is_folder(output) and many:
        if select:
            raise click.UsageError("--select is for a single archive")
        if draws != Draws():
            raise click.UsageError("--mode, --samples and --seed are for a single lossy file")
        options = FileOptions(max_pixels=max_pixels)
        coding = folders.Coding(runner.model_name, runner.device, runner.threads, options, target.attributes)
        plan = folders.plan_decompress(sources, many_files.recursive)
        run_folder("decompress", plan, target, coding, many_files, runner)
        return
    refuse_urls(sources)
    many_files.refuse()
    if not single:
        found = f"{sources[0]} is a folder, its files" if len(sources) == 1 else "several files"
        raise VlaeError(f"{found} need a folder as output: give --output with a / at its end")
    runner.use_threads()
    if output is not None:
        files.check_other(output, sources)
    with progress_bar(runner.quiet, "decompress") as update:
        request = Request(
            output, target.force, Models(runner.model_name, runner.device), select, draws, max_pixels, update,
            target.attributes, files.attributes_of(sources[0]) if target.attributes else None,
        )  # fmt: skip
        with naming(sources[0]):
            done = kinds.restore(data, request)
    runner.note(done)
