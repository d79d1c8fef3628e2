"""``vlae-codec completion``."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and paths in SHELL (bash from version 4.4).

    \b
    To install it:
      vlae-codec completion bash >> ~/.bashrc
      vlae-codec completion zsh >> ~/.zshrc
      vlae-codec completion fish > ~/.config/fish/completions/vlae-codec.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # Not kind.source, which for bash runs the bash found here: the script may be for another machine.
    script = ShellComplete.source(kind(ctx.find_root().command, {}, "vlae-codec", "_VLAE_CODEC_COMPLETE"))
    click.echo(script.rstrip())
