"""``vlae-codec decompress``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .folders import Batch, folder_options, is_folder, run_folder
from .options import coding_options, complete_path, note, progress_bar, size_option, use_threads

if TYPE_CHECKING:
    import numpy as np

    from vlae_codec.formats.archive import Archive
    from vlae_codec.formats.lossy import LossyFile
    from vlae_codec.registry import Model


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "-o", "--output", shell_complete=complete_path,
    help="Image to write, its format by the suffix; - for standard output; by default the source's name and format. "
    "For an archive or several files a folder: ends in / or exists; for an array a .npy or .npz file.",
)  # fmt: skip
@click.option("--select", multiple=True, metavar="NAME", help="Archives: only the image of this name or number.")
@click.option("--mode", "how", type=click.Choice(["sample", "mean"]), default="sample", show_default=True,
              help="Lossy files: draw the detail, or average over draws.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Lossy files: how many draws.")
@click.option("--seed", type=click.IntRange(0, (1 << 31) - 1), default=0, show_default=True,
              help="Lossy files: seed of the draws.")  # fmt: skip
@folder_options
@size_option
@coding_options
def decompress(
    sources: tuple[str, ...],
    output: str | None,
    select: tuple[str, ...],
    how: str,
    samples: int,
    seed: int,
    batch: Batch,
    max_pixels: int,
    model_name: str | None,
    device: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Restore what the .vlae file SOURCES holds (- for standard input).

    With a folder as output, SOURCES may be several .vlae files of single images, and folders of them: a.png.vlae
    becomes a.png there.

    Without --output an image gets the name and the format of the file that was compressed, in the current folder. A
    format given by --output must keep the pixels exactly: .png, .webp (lossless), .tiff, .bmp, .ppm. Nothing is written
    unless the checksum of the pixels is right and the output reads back as the same image.

    From a damaged archive the intact segments are restored and the damaged ones named; the exit code is 1.

    \b
    Examples:
      vlae-codec decompress photo.vlae
      vlae-codec decompress photo.vlae -o photo.tiff
      vlae-codec decompress photographs.vlae -o folder
      vlae-codec decompress packed -o photographs/ --recursive
      vlae-codec decompress digits.vlae -o digits.npy
      vlae-codec decompress photographs.vlae --select holiday/1.png -o 1.png
    """
    from vlae_codec import files, folders
    from vlae_codec.errors import VlaeError
    from vlae_codec.formats import header as container
    from vlae_codec.formats import single as api
    from vlae_codec.formats.archive import Archive
    from vlae_codec.formats.header import Mode
    from vlae_codec.formats.lossy import LossyFile, find_lossy_model
    from vlae_codec.registry import choose_device, load_model

    single = len(sources) == 1 and not Path(sources[0]).is_dir()
    data = files.read_bytes(sources[0]) if single else b""
    mode = container.mode_of(data) if single else None
    if mode not in (Mode.ARCHIVE, Mode.LOSSY) and output is not None and is_folder(output):
        if select:
            raise click.UsageError("--select is for a single archive")
        coding = folders.Coding(model_name, device, threads, max_pixels=max_pixels)
        tasks = folders.plan_decompress([Path(source) for source in sources], batch.recursive)
        run_folder("decompress", tasks, output, coding, batch, force, quiet)
        return
    batch.refuse()
    if not single:
        found = f"{sources[0]} is a folder, its files" if len(sources) == 1 else "several files"
        raise VlaeError(f"{found} need a folder as output: give --output with a / at its end")
    use_threads(threads)
    device = choose_device(device)
    given = load_model(model_name, device) if model_name else None
    if mode in (Mode.ARCHIVE, Mode.LOSSY) and output is None:
        raise click.UsageError(f"{sources[0]} is not a single image: name an output with --output")
    if mode is Mode.ARCHIVE:
        import io

        assert output is not None
        _restore_archive(Archive(io.BytesIO(data), given, device, max_pixels), output, select, force, quiet)
        return
    if select:
        raise click.UsageError(f"--select is for archives, and {sources[0]} is not one")
    if mode is Mode.LOSSY:
        assert output is not None
        file = LossyFile.from_bytes(data, max_pixels)
        _restore_lossy(file, find_lossy_model(file, given, device), output, how, samples, seed, force, quiet)
        return
    begun = time.monotonic()
    with progress_bar(quiet, "decompress", None) as update:
        output, encoded = _restore_image(data, given, device, output, force, update, max_pixels)
    files.write_bytes(output, encoded, force)
    what = api.info(data)
    if mode is Mode.STORED:
        note(quiet, f"{output}: the source file as it was")
        return
    speed = what["width"] * what["height"] / 1e6 / (time.monotonic() - begun)
    note(quiet, f"{output}: {what['width']} x {what['height']}, {what['image_mode']}, {speed:.2f} MP/s")


def _restore_image(
    data: bytes, model: Model | None, device: str, output: str | None, force: bool, update: Callable[[int], None],
    max_pixels: int,
) -> tuple[str, bytes]:  # fmt: skip
    """Where a single image goes, and the bytes of its file; the place is checked before any work."""
    from vlae_codec import files
    from vlae_codec.errors import UnsupportedImage
    from vlae_codec.formats import header as container
    from vlae_codec.formats import single as api
    from vlae_codec.images import io as imaging
    from vlae_codec.registry import find_model

    what = api.info(data)
    original = str(what["name"])
    if output is None and not original:
        raise UnsupportedImage("the file does not name its source; name an output with --output")
    files.check_writable(output or original, force)
    suffix = Path(output or original).suffix
    as_it_was = output in (None, files.STANDARD) or suffix.lower() == Path(original).suffix.lower()
    kept = what["restores"] != "pixels"
    if kept and not as_it_was:
        as_it_was = not suffix or imaging.format_of(output or "") == imaging.format_of(original) != ""
    if container.mode_of(data) is container.Mode.STORED:
        if not as_it_was:
            raise UnsupportedImage(
                f"the file holds {original or 'its source'} as it is, which cannot become {suffix}: decompress it "
                "without --output, then convert"
            )
        return output or original, api.restore_file(data)[1]
    header, _ = container.read(data, max_pixels)
    if header.mode is container.Mode.VLAE and model is None:
        model = find_model(header.model_id, device)
    # The pixels of a JPEG come back as a PNG, under a name that says so.
    if output in (None, files.STANDARD) or (as_it_was and (kept or imaging.format_of(original) in imaging.RESTORED)):
        name, encoded = api.restore_file(data, model, progress=update, max_pixels=max_pixels)
        return output or name, encoded
    image = api.decompress(data, model, progress=update, max_pixels=max_pixels)
    return output or original, imaging.encode_output(image, suffix)


def _restore_archive(archive: Archive, output: str, select: tuple[str, ...], force: bool, quiet: bool) -> None:
    from vlae_codec import files
    from vlae_codec.errors import CorruptFile
    from vlae_codec.formats import archive as archives

    indices = [archive.index_of(name) for name in select] or range(len(archive))
    if archive.source.kind == "array" and not select and archives.is_array(output):
        files.check_writable(output, force)
        with progress_bar(quiet, "decompress", None) as update:
            array = archive.array(update)
        files.write_bytes(output, archives.array_bytes(array, Path(output), archive.source.key), force)
        note(quiet, f"{output}: array of {array.dtype}, shape {array.shape}")
        return
    # One selected image goes into a file, unless the output is a folder.
    one = len(indices) == 1 and not Path(output).is_dir() and bool(Path(output).suffix)
    written: list[str] = []

    def write(name: str, data: bytes) -> None:
        path = output if one else str(files.below(Path(output), name))
        files.check_writable(path, force)
        files.write_bytes(path, data, force)
        written.append(path)

    with progress_bar(quiet, "decompress", None) as update:
        problems = archives.extract(archive, indices, write, update, Path(output).suffix if one else "")
    note(quiet, f"{output}: {len(written)} images")
    problems = archive.damaged + problems
    if problems:
        raise CorruptFile(f"{len(written)} images restored; damaged: {'; '.join(problems[:5])}")


def _restore_lossy(
    file: LossyFile, model: Model, output: str, how: str, samples: int, seed: int, force: bool, quiet: bool
) -> None:
    from PIL import Image

    from vlae_codec import files
    from vlae_codec.formats import archive as archives
    from vlae_codec.formats import lossy
    from vlae_codec.images import io as imaging

    draws = lossy.reconstruct(file, model, samples=samples, seed=seed, mean=how == "mean")
    source = archives.Source.from_json(file.head["source"])
    if archives.is_array(output):
        files.check_writable(output, force)
        array: np.ndarray = draws[0] if len(draws) == 1 else draws
        files.write_bytes(output, archives.array_bytes(array, Path(output), source.key), force)
        note(quiet, f"{output}: array of {array.dtype}, shape {array.shape}")
        return
    names = file.head["names"] or [str(i) for i in range(file.head["count"])]
    binary = draws.ndim == 4 and how == "sample"
    one = len(names) * len(draws) == 1 and bool(Path(output).suffix)
    for number, draw in enumerate(draws):
        for name, pixels in zip(names, draw * 255 if binary else draw, strict=True):
            part = f"-{number + 1}" if len(draws) > 1 else ""
            path = output if one else str(files.below(Path(output), f"{Path(name).with_suffix('')}{part}.png"))
            files.check_writable(path, force)
            files.write_bytes(path, imaging.encode_output(Image.fromarray(pixels), Path(path).suffix), force)
    note(quiet, f"{output}: {draws.shape[0] * draws.shape[1]} images drawn")
