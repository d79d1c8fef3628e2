"""``vlae-codec info``."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import complete_path, display, naming


@click.command()
@click.argument("source", shell_complete=complete_path)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(source: str, as_json: bool) -> None:
    """Show what the .vlae file SOURCE holds and where its bits went.

    The ELBO is the ideal code length: z under the prior, less the bits that z returned, plus the pixels. The file is
    that and the lanes, flush and header.
    """
    from vlae_codec import files
    from vlae_codec.formats import kinds

    with naming(source):
        what = kinds.info(files.read_bytes(source))
    if as_json:
        click.echo(json.dumps(what, indent=2))
    elif what["mode"] == "lossy":
        _print_lossy(what)
    elif what["mode"] == "stored":
        click.echo(
            f"{'stored':<16} {display(what['name']) or 'a source file'}, {what['source_bytes']} bytes, bit for bit: "
            f"{what['why']}"
        )
        click.echo(f"{'file':<16} {what['file_bytes']} bytes")
    else:
        _print(what)


def _print_lossy(what: dict[str, Any]) -> None:
    count = what["images"]
    click.echo(f"{'lossy':<16} {count} images of {what['width']} x {what['height']}, model {what['model_id']}")
    for key, label in (("z", "z"), ("kl", "KL(q || p)"), ("file", "file")):
        click.echo(f"{label:<16} {what['bits'][key]:>12} bits  {what['bits'][key] / count:9.2f} an image")


def _print(what: dict[str, Any]) -> None:
    total = 8 * what["file_bytes"]
    rows = _archive_rows(what) if what["mode"] == "archive" else _image_rows(what)
    for name, value in rows:
        click.echo(f"{name:<16} {value}")
    labels = {
        "z_prior": "+ z under p(z)", "z_posterior": "- z under q(z|x)", "pixels": "+ pixels",
        "alpha": "+ alpha", "stored": "+ stored files", "lanes_and_flush": "+ lanes, flush", "header": "+ header",
    }  # fmt: skip
    for key, label in labels.items():
        bits = what["bits"].get(key, 0)
        if key in ("alpha", "stored") and not bits:
            continue
        click.echo(f"{label:<16} {bits:>12} bits  {100 * bits / total:7.3f} %")
    click.echo(f"{'= file':<16} {total:>12} bits  100.000 %")
    if what["elbo_bits"] is not None:
        excess = 100 * (total / what["elbo_bits"] - 1) if what["elbo_bits"] else float("inf")
        click.echo(f"{'ELBO':<16} {what['elbo_bits']:>12} bits, the file is {excess:.3f} % larger")


def _archive_rows(what: dict[str, Any]) -> list[tuple[str, str]]:
    source = what["source"]
    kind = f"array {tuple(source['shape'])}" if source["kind"] == "array" else "files"
    models = ", ".join(what["models"]) + (", embedded" if what["embedded_model"] else "")
    drawn = f"; one of {what['particles']} draws of each z is coded" if what["particles"] > 1 else ""
    return [
        ("archive", f"{what['images']} images in {what['segments']} segments, from {kind}{drawn}"),
        ("model", models or "none"),
        ("file", f"{what['file_bytes']} bytes, {what['bits_per_image']:.2f} bits an image"),
        *[("damaged", text) for text in what["damaged"]],
    ]


def _image_rows(what: dict[str, Any]) -> list[tuple[str, str]]:
    from vlae_codec.images.orientation import TRANSPOSED

    rows = [
        (
            "image",
            f"{what['width']} x {what['height']}, {what['image_mode']}, "
            f"metadata: {', '.join(what['metadata']) or 'none'}",
        ),
        ("source", display(what["name"]) or "not a file"),
        ("restores", what["restores"]),
        ("mode", what["mode"] + (f" ({what['fallback']})" if what["mode"] == "fallback" else "") + f": {what['why']}"),
    ]
    if what["mode"] != "fallback":
        window = what["window"]
        seen = (
            f"{window['rows']} rows above, {window['left']} left, {window['right']} right"
            if window
            else "not known here"
        )
        rows.append(("model", f"{what['model'] or 'not known here'} ({what['model_id']}), window {seen}"))
        lines = "columns" if what["orientation"] & TRANSPOSED else "rows"
        stages = ", ".join(f"{stage['rows']} {lines} {stage['z']}" for stage in what["stages"])
        learning = ", the model learns from each" if what["adapts"] else ""
        messages = f"{what['messages']} messages of " if what["messages"] > 1 else ""
        rows.append(("stages", f"{stages}{learning}; {messages}{what['lanes']} lanes"))
    rows.append(("file", f"{what['file_bytes']} bytes, {what['bits_per_subpixel']:.4f} bits per subpixel"))
    return rows
