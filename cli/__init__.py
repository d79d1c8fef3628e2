"""The command line; one module for each sub-command."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, cast

import click

from vlae_codec import __version__
from vlae_codec.files import keep_compiled

from .options import display

keep_compiled()

#: The module of each command, and its name there; a command is loaded when it is called or described.
_COMMANDS = {
    "completion": "completion", "compress": "compress", "decompress": "decompress", "eval": "evaluate",
    "explore": "explore", "export": "export", "info": "info", "list": "list_images", "lossy": "lossy",
    "train": "train", "verify": "verify",
}  # fmt: skip
#: What libraries in other languages say, in a RuntimeError, where Python would raise a MemoryError.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def _flush_or_drop() -> None:
    """Python flushes standard output again when it ends; what cannot be written must not be an error twice."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Group(click.Group):
    """Turns the errors that users can cause into one line and exit code 1, and Ctrl-C into one and 130."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{_COMMANDS[cmd_name]}", __name__)
        return cast(click.Command, getattr(module, _COMMANDS[cmd_name]))

    def invoke(self, ctx: click.Context) -> Any:
        from vlae_codec.errors import VlaeError, describe

        code = 1
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except RuntimeError as error:
            if not any(words in str(error).lower() for words in _NO_MEMORY):
                raise
            message = describe(MemoryError())
        except (VlaeError, MemoryError, OSError) as error:
            message = describe(error)
        except KeyboardInterrupt as error:
            # 128 and the signal's number, as shells have it.
            message, code = str(error) or "interrupted", 130
        click.echo(display(f"vlae-codec: {message}"), err=True)
        _flush_or_drop()
        ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vlae-codec")
def main() -> None:
    """Compress images without loss: photographs, and sets of small binary images.

    \b
    vlae-codec compress photo.png -o photo.vlae
    vlae-codec decompress photo.vlae -o photo.png
    vlae-codec info photo.vlae
    """
