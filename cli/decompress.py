"""``vlae-codec decompress``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .options import coding_options, note, progress_bar, use_threads


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", required=True, help="Image to write, its format by the suffix; - for PNG on standard output."
)
@coding_options
def decompress(
    source: str, output: str, model_name: str | None, device: str, threads: int | None, force: bool, quiet: bool
) -> None:
    """Restore the image in the .vlae file SOURCE (- for standard input).

    The output's format must keep the pixels exactly: .png, .webp (lossless), .tiff, .bmp, .ppm. Nothing is written
    unless the checksum of the pixels is right and the output reads back as the same image.

    \b
    Example:
      vlae-codec decompress photo.vlae -o photo.png
    """
    from vlae_codec import api, container, files, imaging
    from vlae_codec.registry import choose_device, find_model, load_model

    files.check_writable(output, force)
    use_threads(threads)
    data = files.read_bytes(source)
    header, _ = container.read(data)
    device = choose_device(device)
    model = None
    if header.mode is container.Mode.VLAE:
        model = load_model(model_name, device) if model_name else find_model(header.model_id, device)
    begun = time.monotonic()
    pixels = header.width * header.height
    with progress_bar(quiet, "decompress", pixels) as update:
        image = api.decompress(data, model, progress=update)
    encoded = imaging.encode_output(image, ".png" if output == files.STANDARD else Path(output).suffix)
    files.write_bytes(output, encoded, force)
    seconds = time.monotonic() - begun
    note(quiet, f"{output}: {image.width} x {image.height}, {image.mode}, {pixels / 1e6 / seconds:.2f} MP/s")
