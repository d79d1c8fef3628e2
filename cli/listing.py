"""``vlae-codec list``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import display


@click.command("list")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_images(source: Path, as_json: bool) -> None:
    """List the images in the archive SOURCE, in order, without decoding them."""
    from vlae_codec.errors import CorruptFile
    from vlae_codec.formats.sections import Sections

    with source.open("rb") as file:
        archive = Sections(file)
        names = archive.names
        if as_json:
            click.echo(json.dumps({"images": names, "damaged": archive.damaged}, indent=2))
        else:
            for name in names:
                click.echo(display(name))
        if archive.damaged:
            raise CorruptFile(f"damaged: {'; '.join(archive.damaged)}")
