"""``vlae-codec explore``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import complete_path, use_threads


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8653, show_default=True, help="0 for any free one.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page.")
@click.option(
    "-m", "--model", "model_names", multiple=True, metavar="NAME|PATH", shell_complete=complete_path,
    help="Models for 28x28 digits in the order of the slider; repeatable. Default: those that ship.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where networks run.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
def explore(port: int, browser: bool, model_names: tuple[str, ...], device: str, threads: int | None) -> None:
    """Serve a page that shows what z tells of a digit or a photograph, and what the pixels cost.

    The page is for this machine alone, and asks nothing of any other. Ctrl-C ends it.

    \b
    Examples:
      vlae-codec explore
      vlae-codec explore --port 8000 --no-browser
      vlae-codec explore -m window-1.safetensors -m static-mnist
    """
    from vlae_codec.errors import VlaeError

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise VlaeError(f"explore needs {error.name}: pip install 'vlae-codec[explore]'") from None
    import webbrowser

    from vlae_codec.explore import server
    from vlae_codec.explore.digits import CHOICES, Choice, load_choice

    use_threads(threads)
    choices = [Choice(Path(name).stem, name) for name in model_names] or list(CHOICES)
    for choice in choices:
        load_choice(choice, device)
    at = server.listen(port)
    address = f"http://{server.HOST}:{at.getsockname()[1]}/"
    click.echo(f"{address}  (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)
    server.serve(server.create_app(choices, device=device), at)
