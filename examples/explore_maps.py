"""The maps of z that the page of `vlae-codec explore` shows: where digits lie on a plane, for each of its models.

python examples/explore_maps.py mnist_gray.npz -o vlae_codec/explore/maps.npz

The file holds no images: places, classes, and the plane's axes. It is to be made anew when the models change.
"""

from __future__ import annotations

from pathlib import Path

from common import arguments, count, latents, load_images, load_labels, open_model, run

from vlae_codec import files
from vlae_codec.explore import plane
from vlae_codec.explore.digits import CHOICES, SIDE


def main() -> None:
    """Read the command line, write the file."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("-m", "--model", action="append", help="name or path, repeatable; default: those of the page")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    parser.add_argument("--images", type=count, default=800, help="digits of the valid split on each (default: 800)")
    given = parser.parse_args()
    images = load_images(given.data, SIDE, "valid", given.images, given.seed)
    labels = load_labels(given.data, "valid", given.images)
    models = [open_model(name) for name in given.model or [choice.name for choice in CHOICES]]
    planes = [(model.id, plane.Plane.through(latents(model, images), labels)) for model in models]
    data = plane.to_bytes(planes)
    files.write_bytes(str(given.output), data, force=True)
    print(f"{given.output}: {len(data)} bytes, {len(images)} digits on each of {len(planes)} maps")


if __name__ == "__main__":
    run(main)
