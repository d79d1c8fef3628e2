"""``vlae-codec export``: a training checkpoint to a model file."""

from __future__ import annotations

from pathlib import Path

import click

from .options import complete_path, note


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, help="The model file to write, such as mine.safetensors.",
              shell_complete=complete_path)  # fmt: skip
@click.option("--data", "sources", type=click.Path(path_type=Path, exists=True), multiple=True, required=True,
              help="The training data, to measure the ranges of activations.")  # fmt: skip
@click.option("--no-z", is_flag=True, help="Only the decoder, without z.")
@click.option("-f", "--force", is_flag=True, help="Replace the output if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def export(checkpoint: Path, output: str, sources: tuple[Path, ...], no_z: bool, force: bool, quiet: bool) -> None:
    """Turn the averaged weights of CHECKPOINT into the exact integers that coding uses."""
    from vlae_codec.models.training.export import export_model, load_average, without_z

    from vlae_codec import files
    from vlae_codec.registry import model_id

    files.check_writable(output, force)
    model, _ = load_average(checkpoint)
    data = export_model(without_z(model) if no_z else model, list(sources)).to_bytes()
    files.write_bytes(output, data, force)
    note(quiet, f"{output}: {len(data)} bytes, model id {model_id(data).hex()}")
