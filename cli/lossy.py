"""``vlae-codec lossy``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import coding_options, complete_path, note, use_threads


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "-o", "--output", required=True, help="The .vlae file to write; - for standard output.",
    shell_complete=complete_path,
)  # fmt: skip
@click.option(
    "--fidelity", type=click.FloatRange(0.0, 1000.0), help="How much closeness to q(z|x) counts against size."
)
@click.option("--key", default="", help="The array to take from a .npz file that holds several.")
@coding_options
def lossy(
    sources: tuple[str, ...],
    output: str,
    fidelity: float | None,
    key: str,
    model_name: str | None,
    device: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Keep only the global structure of images: z, some bits for each image.

    `decompress` draws the local detail anew, so the pixels differ from the original's. SOURCES are as for `compress`:
    a photograph, or binary images with a model for them.

    \b
    Examples:
      vlae-codec lossy digits.npy -o digits.vlae --model static-mnist
      vlae-codec decompress digits.vlae -o drawn.npy --seed 1
    """
    from vlae_codec import files
    from vlae_codec.errors import UnsupportedImage
    from vlae_codec.formats import lossy as codes
    from vlae_codec.images import io as imaging
    from vlae_codec.images.sets import Source, find_images, flat_images, is_array, load_array, open_binary, to_binary
    from vlae_codec.registry import DEFAULT_MODEL, load_model

    files.check_other(output, sources)
    files.check_writable(output, force)
    use_threads(threads)
    model = load_model(model_name or DEFAULT_MODEL, device)
    options = {} if fidelity is None else {"fidelity": fidelity}
    if not model.config.image_size:
        if len(sources) > 1 or Path(sources[0]).is_dir() or is_array(sources[0]):
            raise UnsupportedImage("lossy takes one photograph at a time; many images need a model for binary images")
        image = imaging.open_image(files.read_bytes(sources[0]), sources[0])
        file = codes.encode_photograph(image, model, Path(sources[0]).name or "image", **options)
    elif len(sources) == 1 and is_array(sources[0]):
        array, found = load_array(Path(sources[0]), key)
        bits, high = to_binary(flat_images(array), model.config.image_size)
        file = codes.encode_images(bits, model, Source("array", high, shape=bits.shape, key=found), [], **options)
    else:
        paths = find_images([Path(source) for source in sources])
        bits, source = open_binary(paths, model.config.image_size)
        file = codes.encode_images(bits, model, source, [name for name, _ in paths], **options)
    data = file.to_bytes()
    files.write_bytes(output, data, force)
    count = file.head["count"]
    note(
        quiet,
        f"{output}: {len(data)} bytes, {count} images; z: {file.bits / count:.2f} bits an image, "
        f"KL {file.kl / count:.2f}, file {8 * len(data) / count:.2f}",
    )
