"""The command line; one module for each sub-command."""

from __future__ import annotations

from typing import Any

import click

from .completion import completion
from .compress import compress
from .decompress import decompress
from .evaluate import evaluate
from .export import export
from .info import info
from .listing import list_images
from .lossy import lossy
from .train import train


class _Group(click.Group):
    """Turns the errors that users can cause into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from vlae_codec.errors import VlaeError

        try:
            return super().invoke(ctx)
        except VlaeError as error:
            message = str(error)
        except MemoryError:
            message = "not enough memory for this image"
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        click.echo(f"vlae-codec: {' '.join(message.split())}", err=True)
        ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vlae-codec")
def main() -> None:
    """Compress images without loss: photographs, and sets of small binary images.

    \b
    vlae-codec compress photo.png -o photo.vlae
    vlae-codec decompress photo.vlae -o photo.png
    vlae-codec info photo.vlae
    """


for command in (compress, decompress, lossy, list_images, info, evaluate, train, export, completion):
    main.add_command(command)
