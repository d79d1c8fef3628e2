"""Images beside what is drawn anew from their z: the lossy code keeps the digit and forgets the stroke's detail.

python examples/reconstructions.py mnist_gray.npz --model dynamic-mnist -o reconstructions.png

The first row shows images of the valid split, each further row one draw from p(x | z).
"""

from __future__ import annotations

import numpy as np
from common import arguments, count, encode_lossy, load_images, open_model, run, save, show_tiles
from numpy.typing import NDArray

from vlae_codec import Model
from vlae_codec.coding.binary import BinaryCoder, sample_images
from vlae_codec.formats import lossy


def draw_again(
    model: Model, file: lossy.LossyFile, originals: NDArray[np.uint8], draws: int, seed: int
) -> NDArray[np.uint8]:
    """The first images of a file in a row, and ``draws`` rows of reconstructions below: (1 + draws, N, S, S)."""
    assert isinstance(model.coder, BinaryCoder)
    count = len(originals)
    z = lossy.decode_z(file, model.coder)[:count]
    return np.stack([originals, *(sample_images(model.coder, z, count, seed + i) for i in range(draws))])


def main() -> None:
    """Read the command line, write the picture."""
    parser = arguments(__doc__, data=True, output=True, models="model for binary images")
    parser.add_argument("--images", type=count, default=1000, help="images that are coded (default: 1000)")
    parser.add_argument("--show", type=count, default=16, help="how many of them are shown (default: 16)")
    parser.add_argument("--draws", type=count, default=3, help="reconstructions of each (default: 3)")
    parser.add_argument("--fidelity", type=float, default=lossy.FIDELITY, help="as for vlae-codec lossy")
    given = parser.parse_args()
    model = open_model(given.model)
    images = load_images(given.data, model.coder.config.image_size, "valid", given.images, given.seed)
    file = encode_lossy(images, model, given.fidelity)
    rows = draw_again(model, file, images[: given.show], given.draws, given.seed)
    bits = 8 * len(file.to_bytes()) / len(images)
    title = f"{model.name}: z takes {file.bits / len(images):.1f} bits an image, the file {bits:.1f}"
    save(show_tiles(rows, title, ["original", *(f"draw {i + 1}" for i in range(given.draws))]), given.output)
    print(f"{title} ({len(images)} images)")


if __name__ == "__main__":
    run(main)
