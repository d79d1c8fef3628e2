"""Images that the model makes up: z drawn from the prior p(z), the pixels from p(x | z).

python examples/samples.py --model dynamic-mnist -o samples.png
"""

from __future__ import annotations

import numpy as np
from common import arguments, count, open_model, run, save, show_tiles
from numpy.typing import NDArray

from vlae_codec import Model
from vlae_codec.coding.binary import BinaryCoder, sample_images, sample_prior


def draw(model: Model, count: int, seed: int) -> NDArray[np.uint8]:
    """Samples (N, S, S); of a model without z, from its decoder alone."""
    assert isinstance(model.coder, BinaryCoder)
    z = sample_prior(model.coder, count, seed) if model.coder.config.z_channels else None
    return sample_images(model.coder, z, count, seed)


def main() -> None:
    """Read the command line, write the picture."""
    parser = arguments(__doc__, output=True, models="model for binary images")
    parser.add_argument("--rows", type=count, default=6, help="rows of samples (default: 6)")
    parser.add_argument("--columns", type=count, default=16, help="samples in a row (default: 16)")
    given = parser.parse_args()
    model = open_model(given.model)
    samples = draw(model, given.rows * given.columns, given.seed)
    grid = samples.reshape(given.rows, given.columns, *samples.shape[1:])
    save(show_tiles(grid, f"{model.name}: samples of p(z) p(x | z)"), given.output)


if __name__ == "__main__":
    run(main)
