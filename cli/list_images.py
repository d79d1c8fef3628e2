"""``vlae-codec list``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import display, naming


@click.command("list")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--names", "names_only", is_flag=True, help="Print names alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_images(source: Path, names_only: bool, as_json: bool) -> None:
    """List the images in the archive SOURCE, in order, without decoding them: the bytes of each, and its name.

    Images that decode together share their segment's bytes.
    """
    from vlae_codec.errors import CorruptFile
    from vlae_codec.formats.sections import Sections

    with naming(str(source)), source.open("rb") as file:
        archive = Sections(file)
        names, sizes = archive.names, archive.sizes()
        if as_json:
            rounded = [round(size, 2) for size in sizes]
            click.echo(json.dumps({"images": names, "bytes": rounded, "damaged": archive.damaged}, indent=2))
        else:
            for name, size in zip(names, sizes, strict=True):
                click.echo(display(name) if names_only else f"{size:12.2f} {display(name)}")
        if archive.damaged:
            raise CorruptFile(f"damaged: {'; '.join(archive.damaged)}")
