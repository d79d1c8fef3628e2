"""``vlae-codec decompress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import coding_options, note, progress_bar, size_option, use_threads

if TYPE_CHECKING:
    import numpy as np

    from vlae_codec.archive import Archive
    from vlae_codec.lossy import LossyFile
    from vlae_codec.registry import Model


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", required=True,
    help="Image to write, its format by the suffix; - for PNG on standard output. For an archive a folder, "
    "or a .npy or .npz file if it was one.",
)  # fmt: skip
@click.option("--select", multiple=True, metavar="NAME", help="Archives: only the image of this name or number.")
@click.option("--mode", "how", type=click.Choice(["sample", "mean"]), default="sample", show_default=True,
              help="Lossy files: draw the detail, or average over draws.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Lossy files: how many draws.")
@click.option("--seed", type=click.IntRange(0, (1 << 31) - 1), default=0, show_default=True,
              help="Lossy files: seed of the draws.")  # fmt: skip
@size_option
@coding_options
def decompress(
    source: str,
    output: str,
    select: tuple[str, ...],
    how: str,
    samples: int,
    seed: int,
    max_pixels: int,
    model_name: str | None,
    device: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Restore what the .vlae file SOURCE holds (- for standard input).

    An image's output format must keep the pixels exactly: .png, .webp (lossless), .tiff, .bmp, .ppm. Nothing is written
    unless the checksum of the pixels is right and the output reads back as the same image.

    From a damaged archive the intact segments are restored and the damaged ones named; the exit code is 1.

    \b
    Examples:
      vlae-codec decompress photo.vlae -o photo.png
      vlae-codec decompress photographs.vlae -o folder
      vlae-codec decompress digits.vlae -o digits.npy
      vlae-codec decompress photographs.vlae --select holiday/1.png -o 1.png
    """
    from vlae_codec import api, container, files, imaging
    from vlae_codec.archive import Archive
    from vlae_codec.container import Mode
    from vlae_codec.lossy import LossyFile, find_lossy_model
    from vlae_codec.registry import choose_device, find_model, load_model

    use_threads(threads)
    data = files.read_bytes(source)
    device = choose_device(device)
    given = load_model(model_name, device) if model_name else None
    mode = container.mode_of(data)
    if mode is Mode.ARCHIVE:
        import io

        _restore_archive(Archive(io.BytesIO(data), given, device, max_pixels), output, select, force, quiet)
        return
    if select:
        raise click.UsageError(f"--select is for archives, and {source} is not one")
    if mode is Mode.LOSSY:
        file = LossyFile.from_bytes(data, max_pixels)
        _restore_lossy(file, find_lossy_model(file, given, device), output, how, samples, seed, force, quiet)
        return
    files.check_writable(output, force)
    header, _ = container.read(data, max_pixels)
    model = given
    if header.mode is Mode.VLAE and model is None:
        model = find_model(header.model_id, device)
    begun = time.monotonic()
    pixels = header.width * header.height
    with progress_bar(quiet, "decompress", pixels) as update:
        image = api.decompress(data, model, progress=update, max_pixels=max_pixels)
    encoded = imaging.encode_output(image, ".png" if output == files.STANDARD else Path(output).suffix)
    files.write_bytes(output, encoded, force)
    seconds = time.monotonic() - begun
    note(quiet, f"{output}: {image.width} x {image.height}, {image.mode}, {pixels / 1e6 / seconds:.2f} MP/s")


def _restore_archive(archive: Archive, output: str, select: tuple[str, ...], force: bool, quiet: bool) -> None:
    from vlae_codec import archive as archives
    from vlae_codec import files
    from vlae_codec.errors import CorruptFile

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

    from vlae_codec import archive as archives
    from vlae_codec import files, imaging, lossy

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
