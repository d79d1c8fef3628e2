"""``vlae-codec info``."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(source: str, as_json: bool) -> None:
    """Show what the .vlae file SOURCE holds and where its bits went.

    The ELBO is the ideal code length: z under the prior, less the bits that z returned, plus the pixels. The file is
    that and the lanes, flush and header.
    """
    from vlae_codec import api, files

    what = api.info(files.read_bytes(source))
    if as_json:
        click.echo(json.dumps(what, indent=2))
        return
    total = 8 * what["file_bytes"]
    rows = [
        (
            "image",
            f"{what['width']} x {what['height']}, {what['image_mode']}, "
            f"metadata: {', '.join(what['metadata']) or 'none'}",
        ),
        ("mode", what["mode"] + (f" ({what['fallback']})" if what["mode"] == "fallback" else "")),
    ]
    if what["mode"] != "fallback":
        window = what["window"]
        seen = (
            f"{window['rows']} rows above, {window['left']} left, {window['right']} right"
            if window
            else "not known here"
        )
        rows.append(("model", f"{what['model'] or 'not known here'} ({what['model_id']}), window {seen}"))
        stages = ", ".join(f"{stage['rows']} rows {stage['z']}" for stage in what["stages"])
        rows.append(("stages", f"{stages}; {what['lanes']} lanes"))
    rows.append(("file", f"{what['file_bytes']} bytes, {what['bits_per_subpixel']:.4f} bits per subpixel"))
    for name, value in rows:
        click.echo(f"{name:<16} {value}")
    labels = {
        "z_prior": "+ z under p(z)", "z_posterior": "- z under q(z|x)", "pixels": "+ pixels",
        "lanes_and_flush": "+ lanes, flush", "header": "+ header",
    }  # fmt: skip
    for key, label in labels.items():
        bits = what["bits"][key]
        click.echo(f"{label:<16} {bits:>12} bits  {100 * bits / total:7.3f} %")
    click.echo(f"{'= file':<16} {total:>12} bits  100.000 %")
    if what["elbo_bits"] is not None:
        excess = 100 * (total / what["elbo_bits"] - 1) if what["elbo_bits"] else float("inf")
        click.echo(f"{'ELBO':<16} {what['elbo_bits']:>12} bits, the file is {excess:.3f} % larger")
