"""``python -m vlae_codec.cli.bench``: how long coding takes, where the time goes, how far from the limit."""

from __future__ import annotations

import resource
import sys
import time

import click
import numpy as np
import torch
from PIL import Image
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.loops import set_threads

from vlae_codec.coding.photo import PhotoCoder
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.registry import DEFAULT_MODEL, load_model
from vlae_codec.stages import StageKind

#: Seconds in all, and by the parts of `stages.Costs`.
Spent = tuple[float, dict[str, float]]


def multiply_adds(config: VLAEConfig) -> float:
    """Multiply-adds of the decoder's network for one pixel; z adds less than a hundredth."""
    layers = plan.layers(config).items()
    return float(sum(layer.outputs * layer.inputs for name, layer in layers if name.startswith("decoder")))


def matrix_rate(seconds: float = 1.0) -> float:
    """Operations per second of this machine's best float32 convolution or product, of the network's own shape."""
    best = 0.0
    rows = torch.randn(1, 64, 64, 128).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 2, 3).contiguous(memory_format=torch.channels_last)
    flat, matrix = torch.randn(8192, 320), torch.randn(320, 64)
    for work, operations in (
        (lambda: torch.conv2d(rows, kernel), 2 * 63 * 126 * 64 * 64 * 6),
        (lambda: torch.mm(flat, matrix), 2 * 8192 * 320 * 64),
    ):
        work()
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds / 2:
            work()
            count += 1
        best = max(best, operations * count / (time.perf_counter() - begun))
    return best


def test_picture(path: str | None, megapixels: float) -> np.ndarray:
    """A picture of about so many megapixels, tiled by mirroring from a photograph, or noise smoothed into one."""
    if path is None:
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).resize(
            (768, 768), Image.Resampling.BICUBIC
        )
        tile = np.clip(np.asarray(small) + rng.normal(0, 3, (768, 768, 3)), 0, 255).astype(np.uint8)
    else:
        with Image.open(path) as image:
            tile = np.asarray(image.convert("RGB"))
    side = round((megapixels * 1e6) ** 0.5)
    rows, columns = -(-side // tile.shape[0]), -(-side // tile.shape[1])
    strip = np.concatenate([tile if i % 2 == 0 else tile[:, ::-1] for i in range(columns)], 1)
    return np.ascontiguousarray(
        np.concatenate([strip if i % 2 == 0 else strip[::-1] for i in range(rows)], 0)[:side, :side]
    )


def time_rounds(coder: PhotoCoder, picture: np.ndarray, rounds: int, adapts: bool) -> dict[str, list[Spent]]:
    """Seconds in all and by parts of some rounds of encoding and of decoding; exits if a picture is not the same."""
    alphabet = Alphabet.of(picture, 3)
    kind = StageKind.BITS_BACK if coder.config.z_channels else StageKind.WITHOUT_Z
    found: dict[str, list[Spent]] = {"encode": [], "decode": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        message, stages, spent = coder.encode(picture, alphabet, kind, adapts=adapts)
        found["encode"].append((time.perf_counter() - begun, spent.seconds))
        begun = time.perf_counter()
        again, spent = coder.decode(message, picture.shape[:2], alphabet, stages, adapts=adapts)
        found["decode"].append((time.perf_counter() - begun, spent.seconds))
        if not np.array_equal(again, picture):
            sys.exit("the decoded picture differs from the one encoded")
    return found


def run(coder: PhotoCoder, picture: np.ndarray, rounds: int) -> None:
    """Print the figures of one picture, the median of some rounds, with heads that learn and without."""
    pixels = picture.shape[0] * picture.shape[1]
    macs, rate = multiply_adds(coder.config), matrix_rate()
    limit = 2 * macs * pixels / rate
    print(f"{picture.shape[1]} x {picture.shape[0]}, {torch.get_num_threads()} threads, device {coder.device}")
    print(
        f"{macs:.0f} multiply-adds per pixel, matrix rate {rate / 1e9:.0f} GFLOP/s: "
        f"limit {pixels / limit / 1e6:.2f} MP/s"
    )
    network = sorted(coder.network_seconds(picture) for _ in range(rounds))[rounds // 2]
    for adapts in (True, False):
        for name, results in time_rounds(coder, picture, rounds, adapts).items():
            seconds, parts = sorted(results, key=lambda r: r[0])[rounds // 2]
            rest = "learning, cdf" if adapts else "cdf"
            if name == "decode":
                parts = {**parts, "network": parts["network"] + network}
                parts[f"{rest} + ans"] = parts.pop("wavefront") - network
            else:
                parts = {rest if part == "cdf" else part: part_s for part, part_s in parts.items()}
            shares = ", ".join(f"{part} {100 * part_s / seconds:.0f} %" for part, part_s in parts.items() if part_s)
            print(
                f"{name}{'' if adapts else ', --no-adapt'}: {seconds:.2f} s, {pixels / seconds / 1e6:.3f} MP/s, "
                f"{seconds / limit:.1f} x the limit; {shares}"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory {peak:.0f} MiB")


@click.command()
@click.option("--image", help="Photograph to tile to the size; default: a synthetic one.")
@click.option("--megapixels", default=1.0, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all cores.")
@click.option("--device", default="auto", show_default=True)
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
def main(image: str | None, megapixels: float, rounds: int, threads: int | None, device: str, model: str) -> None:
    """Time encoding and decoding on this machine."""
    if threads:
        set_threads(threads)
    coder = load_model(model, device).photographs
    warm = test_picture(image, 0.02)
    run_quietly(coder, warm)
    run(coder, test_picture(image, megapixels), rounds)


def run_quietly(coder: PhotoCoder, picture: np.ndarray) -> None:
    """Once through, so that compilation is not measured."""
    alphabet = Alphabet.of(picture, 3)
    for kind in (StageKind.WITHOUT_Z, StageKind.BITS_BACK):
        if kind is StageKind.WITHOUT_Z or coder.config.z_channels:
            for adapts in (False, True):
                message, stages, _ = coder.encode(picture, alphabet, kind, adapts=adapts)
                coder.decode(message, picture.shape[:2], alphabet, stages, adapts=adapts)


if __name__ == "__main__":
    main()
