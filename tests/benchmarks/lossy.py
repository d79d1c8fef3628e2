"""Rate and closeness of lossy codes of photographs beside other codecs, from a folder of pictures.

python tests/benchmarks/lossy.py FOLDER... [--model NAME] [--quality 20,50,80] (needs: pip install pytorch-msssim)

For each quality: bits per pixel of the whole file, and PSNR and MS-SSIM (Wang et al. 2003, on RGB) of the mean
reconstruction and of a draw, averaged over the pictures; then for JPEG, WebP (method 6) and AVIF (speed 2) the same at
the setting whose file is nearest in size, picture by picture.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_msssim import ms_ssim

import vlae_codec
from vlae_codec.formats import lossy

#: Name, options of Pillow's `save` besides the quality, and the qualities to search.
PEERS = (
    ("JPEG", {"optimize": True}, range(1, 60)),
    ("WEBP", {"method": 6}, range(0, 60)),
    ("AVIF", {"speed": 2}, range(0, 60)),
)


def closeness(picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR in dB and MS-SSIM of RGB pictures (H, W, 3)."""
    error = float(((picture.astype(np.float64) - other) ** 2).mean())
    planes = [torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() for p in (picture, other)]
    return 10 * float(np.log10(255**2 / error)), float(ms_ssim(*planes, data_range=255))


def nearest(image: Image.Image, kind: str, options: dict, qualities: range, size: int) -> bytes:
    """The file of another codec that is nearest to a size in bytes: sizes rise with the quality, so by bisection."""

    def file(quality: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality, **options)
        return buffer.getvalue()

    low, high = qualities[0], qualities[-1]
    files = {low: file(low)}
    while low < high:
        middle = (low + high + 1) // 2
        files[middle] = file(middle)
        low, high = (middle, high) if len(files[middle]) <= size else (low, middle - 1)
    return min(files.values(), key=lambda data: abs(len(data) - size))


def report(name: str, rows: list[tuple[float, float, float]]) -> None:
    """One line: means of bits per pixel, PSNR and MS-SSIM."""
    bits, psnr, similarity = np.mean(rows, 0)
    click.echo(f"{name:<24} {bits:7.4f} bits/pixel  {psnr:6.2f} dB  {similarity:.4f}")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", "model_name", default="photo", show_default=True)
@click.option("--quality", "qualities", default="20,50,80", show_default=True, help="Qualities, with commas between.")
def main(folders: tuple[Path, ...], model_name: str, qualities: str) -> None:
    """Measure lossy codes of all RGB pictures in the folders."""
    model = vlae_codec.load_model(model_name)
    paths = sorted(path for folder in folders for path in folder.iterdir())
    pictures = [image.convert("RGB") for path in paths if (image := Image.open(path)).mode == "RGB"]
    for quality in (int(q) for q in qualities.split(",")):
        ours: list[tuple[float, float, float]] = []
        draws: list[tuple[float, float, float]] = []
        peers: dict[str, list[tuple[float, float, float]]] = {name: [] for name, _, _ in PEERS}
        seconds = np.zeros(3)
        for image in pictures:
            picture = np.asarray(image)
            begun = time.perf_counter()
            data = lossy.encode_photograph(image, model, "", quality=quality).to_bytes()
            seconds[0] += time.perf_counter() - begun
            begun = time.perf_counter()
            mean = lossy.reconstruct(lossy.LossyFile.from_bytes(data), model, mean=True)[0, 0]
            seconds[1] += time.perf_counter() - begun
            begun = time.perf_counter()
            drawn = lossy.reconstruct(lossy.LossyFile.from_bytes(data), model)[0, 0]
            seconds[2] += time.perf_counter() - begun
            pixels = image.width * image.height
            ours.append((8 * len(data) / pixels, *closeness(picture, mean)))
            draws.append((8 * len(data) / pixels, *closeness(picture, drawn)))
            for name, options, range_ in PEERS:
                theirs = nearest(image, name, options, range_, len(data))
                with Image.open(io.BytesIO(theirs)) as decoded:
                    peers[name].append(
                        (8 * len(theirs) / pixels, *closeness(picture, np.asarray(decoded.convert("RGB"))))
                    )
        report(f"vlae-codec, quality {quality}", ours)
        report("the same, a draw", draws)
        for name, rows in peers.items():
            report(name, rows)
        megapixels = sum(image.width * image.height for image in pictures) / 1e6
        speeds = " ".join(
            f"{what} {megapixels / each:.2f} MP/s"
            for what, each in zip(("encode", "decode", "draw"), seconds, strict=True)
        )
        click.echo(speeds)


if __name__ == "__main__":
    main()
