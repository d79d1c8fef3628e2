"""``vlae-codec compress``."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .folders import ManyFiles, about, folder_options, is_folder, refuse_urls, run_folder, say
from .options import (
    Runner,
    Target,
    attributes_option,
    coding_options,
    complete_path,
    gather,
    naming,
    note,
    progress_bar,
    size_option,
)

if TYPE_CHECKING:
    from vlae_codec.formats.source import FileOptions
    from vlae_codec.registry import Model


@dataclass(frozen=True)
class Archived:
    """What is for archives alone."""

    segment: int | None
    embed_model: bool
    key: str
    particles: int

    def refuse(self, what: str) -> None:
        """Refuse the options where no archive is made, as they would do nothing there."""
        if self.segment or self.embed_model or self.key or self.particles > 1:
            raise click.UsageError(f"--segment, --embed-model, --key and --particles are for archives, and this {what}")


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option("-o", "--output", shell_complete=complete_path,
              help="The .vlae file to write, - for standard output, or a folder: ends in / or exists, or is a URL. "
              "Default, of one SOURCE: its name with .vlae added.")  # fmt: skip
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Decode and compare before the output appears."
)
@click.option("--pixels", is_flag=True, help="Code the pixels even of a JPEG, or where the source file is smaller.")
@click.option("--strip", is_flag=True, help="Leave out metadata.")
@click.option("--exact", is_flag=True, help="Only bit for bit: else the source is kept as it is.")
@click.option("--quick", is_flag=True, help="Try no WebP and JPEG XL, which take long where they may be smaller.")
@click.option("--adapt/--no-adapt", default=None,
              help="Let the model learn from a photograph while it codes it: smaller, but slower. Default: yes, "
              "but not with --effort 1.")  # fmt: skip
@click.option("-e", "--effort", type=click.IntRange(1, 2), metavar="1|2",
              help="In place of --model: 1 is fast, which does not learn unless told to, 2 is photo.")  # fmt: skip
@click.option("--segment", type=click.IntRange(1), help="Archives: images that decode together. Default: 4096.")
@click.option("--embed-model", is_flag=True, help="Archives: put the model into the file, so that it decodes without.")
@click.option("--particles", type=click.IntRange(1, 64), default=1, show_default=True, metavar="K",
              help="Archives of binary images: draw z K times and code one: smaller, and K times slower.")  # fmt: skip
@click.option("--key", default="", help="The array to take from a .npz file that holds several.")
@attributes_option
@folder_options
@size_option
@coding_options
@gather(target=Target, archived=Archived, many_files=ManyFiles, runner=Runner)
def compress(
    sources: tuple[str, ...], target: Target, archived: Archived, many_files: ManyFiles, runner: Runner,
    effort: int | None, adapt: bool | None, **coding: Any,
) -> None:  # fmt: skip
    """Compress images without loss.

    With a folder as output, each image becomes a file of its own: a.png becomes a.png.vlae there. Folders may be URLs
    that fsspec knows, such as s3://bucket/folder, and the work may be done by many machines: --engine ray.

    One image SOURCE (- for standard input) becomes one image's file, of which the source comes back bit for bit: BMP,
    PGM, PPM, PAM, TGA, SGI, QOI, uncompressed TIFF and most PNG files from their pixels, which are coded by the model
    or, where that is smaller, as lossless WebP, PNG or deflated pixels. Of other PNG files pixels and chunks come back;
    --exact keeps those as they are. JPEG and all else is stored as it is; --pixels codes the pixels that are seen.

    Several images, a folder, or an array of images in a .npy or .npz file become an archive. So do single images with a
    model for binary images of one size, such as static-mnist; those cost a few bytes each in company.

    \b
    Examples:
      vlae-codec compress photo.png
      vlae-codec compress photo.png -o photo.vlae -e 1
      vlae-codec compress --no-verify - -o - < photo.png > photo.vlae
      vlae-codec compress my/photographs -o photographs.vlae
      vlae-codec compress my/photographs -o packed/ --recursive
      vlae-codec compress s3://mine/photographs -o s3://mine/packed --recursive --engine ray
      vlae-codec compress digits.npy -o digits.vlae --model static-mnist --embed-model
      vlae-codec compress digits.npy -o digits.vlae --model static-mnist --particles 16
    """
    from vlae_codec import files, folders
    from vlae_codec.formats.source import FileOptions
    from vlae_codec.images.sets import is_array
    from vlae_codec.registry import DEFAULT_MODEL, EFFORTS, load_model

    learns = True
    if effort is not None:
        if runner.model_name is not None:
            raise click.UsageError("--effort names a model, and so does --model: give one of them")
        name, learns = EFFORTS[effort]
        runner = replace(runner, model_name=name)
    options = FileOptions(adapt=learns if adapt is None else adapt, **coding)
    if target.output is None:
        refuse_urls(sources)
        if len(sources) > 1 or sources[0] == files.STANDARD or Path(sources[0]).is_dir():
            raise click.UsageError("name an output with --output: only one source that is a file gives it a name")
        target = replace(target, output=f"{sources[0]}.vlae")
    output = target.output or ""
    if is_folder(output):
        archived.refuse("makes a file each")
        run = folders.Coding(
            runner.model_name or DEFAULT_MODEL, runner.device, runner.threads, options, target.attributes
        )
        plan = folders.plan_compress(sources, many_files.recursive)
        run_folder("compress", plan, target, run, many_files, runner)
        return
    refuse_urls(sources)
    single = len(sources) == 1 and not Path(sources[0]).is_dir() and not is_array(sources[0])
    many_files.refuse(many=not single)
    files.check_other(output, sources)
    files.check_writable(output, target.force)
    runner.use_threads()
    model = load_model(runner.model_name or DEFAULT_MODEL, runner.device, options.adapt)
    if single and not model.config.image_size:
        archived.refuse("is one image")
        _compress_file(sources[0], target, model, options, runner)
        return
    if not options.adapt and model.config.image_size:
        raise click.UsageError(f"--no-adapt is for photographs, and model {model.name} is for binary images")
    if options.pixels or options.strip:
        raise click.UsageError("--pixels and --strip are for single images, not for archives")
    _compress_archive(sources, target, model, options, archived, many_files.keep_going, runner)


def _compress_file(source: str, target: Target, model: Model, options: FileOptions, runner: Runner) -> None:
    from vlae_codec import files
    from vlae_codec.formats import image
    from vlae_codec.formats.source import compress_file
    from vlae_codec.images.io import Reason

    begun, output = time.monotonic(), target.output or ""
    content = files.read_bytes(source)
    name = "" if source == files.STANDARD else Path(source).name
    with naming(source), progress_bar(runner.quiet, "compress") as update:
        data = compress_file(content, name, model, options, update)
    files.write_bytes(output, data, target.force, files.attributes_of(source) if target.attributes else None)
    _warn_of(output, runner.quiet)
    what = image.info(data)
    if what["mode"] == "stored":
        advice = "; --pixels codes its pixels all the same" if what["why"] == Reason.LOSSY.text else ""
        runner.note(f"{output}: {len(data)} bytes, the source as it is: {what['why']}{advice}")
        return
    if what["restores"] == "pixels":
        kept = ", ".join(what["metadata"]) or "no metadata"
        runner.note(f"{output}: holds the pixels and {kept}; all else that the source held is dropped")
    speed = what["width"] * what["height"] / 1e6 / (time.monotonic() - begun)
    runner.note(
        f"{output}: {len(data)} bytes, {what['restores']}, {what['bits_per_subpixel']:.3f} bits per subpixel, "
        f"{what['mode']}, {speed:.2f} MP/s{' with verification' if options.verify else ''}",
    )


def _compress_archive(
    sources: tuple[str, ...], target: Target, model: Model, options: FileOptions, archived: Archived, keep_going: bool,
    runner: Runner,
) -> None:  # fmt: skip
    from vlae_codec import files
    from vlae_codec.errors import VlaeError, describe
    from vlae_codec.formats import archive_writer as archive
    from vlae_codec.images.sets import find_images, is_array, load_array

    begun, output = time.monotonic(), target.output or ""
    broken: list[Path] = []
    shared: dict[str, Any] = {
        "segment": archived.segment or archive.SEGMENT, "embed": archived.embed_model, "verify": options.verify,
    }  # fmt: skip
    if len(sources) == 1 and is_array(sources[0]):
        array, found = load_array(Path(sources[0]), archived.key)
        with progress_bar(runner.quiet, "compress") as update:
            data = archive.archive_array(
                array, model, key=found, progress=update, particles=archived.particles, **shared
            )
        count = len(array)
    else:
        paths = find_images([Path(source) for source in sources])

        def fail(path: Path, error: Exception) -> None:
            broken.append(path)
            say(about(str(path), describe(error, str(path))))

        with progress_bar(runner.quiet, "compress") as update:
            data = archive.archive_files(
                paths, model, progress=update, attributes=target.attributes, failed=fail if keep_going else None,
                max_pixels=options.max_pixels, exact=options.exact, quick=options.quick,
                particles=archived.particles, **shared,
            )  # fmt: skip
        count = len(paths) - len(broken)
    files.write_bytes(output, data, target.force)
    _warn_of(output, runner.quiet)
    seconds = time.monotonic() - begun
    runner.note(
        f"{output}: {len(data)} bytes, {count} images, {len(data) / count:.2f} bytes each, {count / seconds:.1f} "
        f"images/s{' with verification' if options.verify else ''}",
    )
    if broken:
        raise VlaeError(f"{len(broken)} of {len(broken) + count} files are not in the archive")


def _warn_of(output: str, quiet: bool) -> None:
    """Say so where a .vlae file has an image's name."""
    from vlae_codec.images.io import image_suffixes

    if Path(output).suffix.lower() in image_suffixes():
        note(quiet, f"{output} is a .vlae file under an image's name, which other programs cannot open")
