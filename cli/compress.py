"""``vlae-codec compress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .options import coding_options, note, progress_bar, size_option, use_threads


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The .vlae file to write; - for standard output.")
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Decode and compare before the output appears."
)
@click.option("--segment", type=click.IntRange(1), help="Archives: images that decode together. Default: 4096.")
@click.option("--embed-model", is_flag=True, help="Archives: put the model into the file, so that it decodes without.")
@click.option("--key", default="", help="The array to take from a .npz file that holds several.")
@size_option
@coding_options
def compress(
    sources: tuple[str, ...],
    output: str,
    verify: bool,
    segment: int | None,
    embed_model: bool,
    key: str,
    max_pixels: int,
    model_name: str | None,
    device: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Compress images without loss.

    One image SOURCE (- for standard input) becomes one image's file. RGB and grey images are coded by the model. Images
    of other modes (alpha, palette, 16 bits), and pictures for which that is smaller, are kept as lossless WebP, PNG or
    deflated pixels inside the .vlae file.

    Several images, a folder, or an array of images in a .npy or .npz file become an archive. So do single images with a
    model for binary images of one size, such as static-mnist; those cost a few bytes each in company.

    \b
    Examples:
      vlae-codec compress photo.png -o photo.vlae
      vlae-codec compress --no-verify - -o - < photo.png > photo.vlae
      vlae-codec compress my/photographs -o photographs.vlae
      vlae-codec compress digits.npy -o digits.vlae --model static-mnist --embed-model
    """
    from vlae_codec import api, archive, files, imaging
    from vlae_codec.archive import SEGMENT, find_images, is_array, load_array
    from vlae_codec.chain import ImageCoder
    from vlae_codec.registry import DEFAULT_MODEL, load_model

    files.check_writable(output, force)
    use_threads(threads)
    model = load_model(model_name or DEFAULT_MODEL, device)
    single = len(sources) == 1 and not Path(sources[0]).is_dir() and not is_array(sources[0])
    begun = time.monotonic()
    passes = 2 if verify else 1
    if single and not isinstance(model.coder, ImageCoder):
        if segment or embed_model or key:
            raise click.UsageError("--segment, --embed-model and --key are for archives, and this is one image")
        image = imaging.open_image(files.read_bytes(sources[0]), sources[0], max_pixels)
        pixels = image.width * image.height
        with progress_bar(quiet, "compress", pixels * passes) as update:
            data = api.compress(image, model, verify=verify, progress=update, max_pixels=max_pixels)
        files.write_bytes(output, data, force)
        what = api.info(data)
        note(
            quiet,
            f"{output}: {len(data)} bytes, {what['bits_per_subpixel']:.3f} bits per subpixel, {what['mode']}, "
            f"{pixels / 1e6 / (time.monotonic() - begun):.2f} MP/s{' with verification' if verify else ''}",
        )
        return
    options: dict[str, Any] = {"segment": segment or SEGMENT, "embed": embed_model, "verify": verify}
    if len(sources) == 1 and is_array(sources[0]):
        array, found = load_array(Path(sources[0]), key)
        with progress_bar(quiet, "compress", array.size * passes) as update:
            data = archive.archive_array(array, model, key=found, progress=update, **options)
        count = len(array)
    else:
        paths = find_images([Path(source) for source in sources])
        with progress_bar(quiet, "compress", None) as update:
            data = archive.archive_files(paths, model, progress=update, max_pixels=max_pixels, **options)
        count = len(paths)
    files.write_bytes(output, data, force)
    seconds = time.monotonic() - begun
    note(
        quiet,
        f"{output}: {len(data)} bytes, {count} images, {len(data) / count:.2f} bytes each, {count / seconds:.1f} "
        f"images/s{' with verification' if verify else ''}",
    )
