"""``vlae-codec lossy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from .options import Runner, Target, coding_options, complete_path, gather


@dataclass(frozen=True)
class Size:
    """How much z may tell."""

    quality: int | None
    most_bytes: int | None
    fidelity: float | None


@click.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "-o", "--output", required=True, help="The .vlae file to write; - for standard output.",
    shell_complete=complete_path,
)  # fmt: skip
@click.option("--quality", type=click.IntRange(1, 100), help="Photographs: how much z tells, 1 to 100; default: 50.")
@click.option("--bytes", "most_bytes", type=click.IntRange(1), metavar="N",
              help="Photographs: the best quality whose file has at most N bytes.")  # fmt: skip
@click.option("--fidelity", type=click.FloatRange(0.0, 1000.0),
              help="Binary images: how much closeness to q(z|x) counts against size; default: 2.5.")  # fmt: skip
@click.option("--key", default="", help="The array to take from a .npz file that holds several.")
@coding_options
@gather(target=Target, size=Size, runner=Runner)
def lossy(sources: tuple[str, ...], target: Target, size: Size, key: str, runner: Runner) -> None:
    """Keep only the global structure of images: z, some bits for each image.

    `decompress` shows what z tells of a photograph, with detail drawn anew by --mode sample, or draws binary images
    anew: the pixels differ from the original's. SOURCES are as for `compress`: a photograph (a .vlae file of one will
    do), or binary images with a model for them.

    \b
    Examples:
      vlae-codec lossy photo.png -o photo.vlae --bytes 4000
      vlae-codec decompress photo.vlae -o seen.png
      vlae-codec decompress photo.vlae -o drawn.png --mode sample --seed 1
      vlae-codec lossy digits.npy -o digits.vlae --model static-mnist
      vlae-codec decompress digits.vlae -o drawn.npy --seed 1
    """
    from vlae_codec import files
    from vlae_codec.errors import UnsupportedImage
    from vlae_codec.formats import lossy as codes
    from vlae_codec.images.sets import Source, find_images, flat_images, is_array, load_array, open_binary, to_binary
    from vlae_codec.registry import LOSSY_MODEL, load_model

    output = target.output
    assert output is not None
    files.check_other(output, sources)
    files.check_writable(output, target.force)
    runner.use_threads()
    model = load_model(runner.model_name or LOSSY_MODEL, runner.device)
    options = {} if size.fidelity is None else {"fidelity": size.fidelity}
    if size.quality is not None and size.most_bytes is not None:
        raise click.UsageError("--quality and --bytes both choose the size: give one of them")
    if model.config.image_size and (size.quality is not None or size.most_bytes is not None):
        raise click.UsageError("--quality and --bytes are for photographs; binary images take --fidelity")
    if not model.config.image_size:
        if size.fidelity is not None:
            raise click.UsageError("--fidelity is for binary images; photographs take --quality or --bytes")
        if len(sources) > 1 or Path(sources[0]).is_dir() or is_array(sources[0]):
            raise UnsupportedImage("lossy takes one photograph at a time; many images need a model for binary images")
        image = codes.open_photograph(files.read_bytes(sources[0]), sources[0])
        name = Path(sources[0]).name or "image"
        file = codes.encode_photograph(
            image, model, name, quality=size.quality or codes.QUALITY, most_bytes=size.most_bytes
        )  # fmt: skip
    elif len(sources) == 1 and is_array(sources[0]):
        array, found = load_array(Path(sources[0]), key)
        bits, high = to_binary(flat_images(array), model.config.image_size)
        file = codes.encode_images(bits, model, Source("array", high, shape=bits.shape, key=found), [], **options)
    else:
        paths = find_images([Path(source) for source in sources])
        bits, source = open_binary(paths, model.config.image_size)
        file = codes.encode_images(bits, model, source, [name for name, _ in paths], **options)
    data = file.to_bytes()
    files.write_bytes(output, data, target.force)
    count = file.head["count"]
    runner.note(
        f"{output}: {len(data)} bytes, {count} images; z: {file.bits / count:.2f} bits an image, "
        f"KL {file.kl / count:.2f}, file {8 * len(data) / count:.2f}",
    )
