"""``vlae-codec compress``."""

from __future__ import annotations

import time

import click

from .options import coding_options, note, progress_bar, use_threads


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, help="The .vlae file to write; - for standard output.")
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Decode and compare before the output appears."
)
@coding_options
def compress(
    source: str,
    output: str,
    verify: bool,
    model_name: str | None,
    device: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Compress the image SOURCE (- for standard input) without loss.

    RGB and grey images are coded by the model. Images of other modes (alpha, palette, 16 bits), and pictures for
    which that is smaller, are kept as lossless WebP, PNG or deflated pixels inside the .vlae file.

    \b
    Examples:
      vlae-codec compress photo.png -o photo.vlae
      vlae-codec compress --no-verify - -o - < photo.png > photo.vlae
    """
    from vlae_codec import api, files, imaging
    from vlae_codec.registry import DEFAULT_MODEL, load_model

    files.check_writable(output, force)
    use_threads(threads)
    image = imaging.open_image(files.read_bytes(source), source)
    model = load_model(model_name or DEFAULT_MODEL, device)
    begun = time.monotonic()
    pixels = image.width * image.height
    with progress_bar(quiet, "compress", pixels * (2 if verify else 1)) as update:
        data = api.compress(image, model, verify=verify, progress=update)
    files.write_bytes(output, data, force)
    seconds = time.monotonic() - begun
    what = api.info(data)
    note(
        quiet,
        f"{output}: {len(data)} bytes, {what['bits_per_subpixel']:.3f} bits per subpixel, {what['mode']}, "
        f"{pixels / 1e6 / seconds:.2f} MP/s{' with verification' if verify else ''}",
    )
