"""A photograph, what z tells of it in a few kilobytes, a draw of the detail, and WebP and AVIF of the same size.

python examples/photograph.py PHOTO.png -o figure.png [--bytes N] [--box LEFT TOP RIGHT BOTTOM] [--seed N]
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from common import arguments, run
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from vlae_codec import load_model
from vlae_codec.explore import pictures
from vlae_codec.formats import lossy
from vlae_codec.registry import LOSSY_MODEL


def of_size(image: Image.Image, kind: str, most: int) -> tuple[NDArray[np.uint8], int]:
    """The best picture of another codec whose file has at most so many bytes, or its smallest; and its bytes."""
    data = pictures.of_size(image, kind, most, **({"method": 6} if kind == "WEBP" else {"speed": 2}))
    with Image.open(io.BytesIO(data)) as decoded:
        return np.asarray(decoded.convert("RGB")), len(data)


def main() -> None:
    """Draw the figure."""
    parser = arguments(__doc__, output=True)
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("-m", "--model", default=LOSSY_MODEL, help="name or path of a model whose z tells something")
    parser.add_argument("--bytes", type=int, default=4000, help="of each file (default: 4000)")
    parser.add_argument("--box", type=int, nargs=4, metavar="N", help="part that is shown (default: the middle)")
    options = parser.parse_args()
    with Image.open(options.photo) as opened:
        image = opened.convert("RGB")
    model = load_model(options.model)
    file = lossy.encode_photograph(image, model, "", most_bytes=options.bytes)
    size = len(file.to_bytes())
    shown = [
        ("original", np.asarray(image)),
        (f"z alone: {size:,} bytes", lossy.reconstruct(file, model, mean=True)[0, 0]),
        (f"z alone, detail drawn: {size:,} bytes", lossy.reconstruct(file, model, seed=options.seed)[0, 0]),
    ]
    for kind in ("WEBP", "AVIF"):
        pixels, length = of_size(image, kind, size)
        shown.append((f"{'WebP' if kind == 'WEBP' else kind}: {length:,} bytes", pixels))
    width, height = image.size
    left, top, right, bottom = options.box or (width // 4, height // 4, width - width // 4, height - height // 4)
    figure, axes = pyplot.subplots(2, 3, figsize=(8, 4.1), dpi=150, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(image, interpolation="lanczos")
    axes.flat[0].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="white"))
    axes.flat[0].set_title("all of it", fontsize=8)
    for axis, (title, pixels) in zip(axes.flat[1:], shown, strict=True):
        axis.imshow(pixels[top:bottom, left:right], interpolation="lanczos")
        axis.set_title(title, fontsize=8)
    figure.savefig(options.output)


if __name__ == "__main__":
    run(main)
