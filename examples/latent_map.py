"""A map of z: posterior means of images in two dimensions, each drawn as the number of its class.

python examples/latent_map.py mnist_gray.npz --model dynamic-mnist -o latent-map.png

The labels are not used for the map, only for its colours. --model may be a training checkpoint (.pt).
"""

from __future__ import annotations

import numpy as np
from common import WIDTH, arguments, config_of, count, latents, load_images, load_labels, open_encoder, run, save
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE


def project(z: NDArray, method: str, seed: int) -> NDArray:
    """Map z (N, z_channels) to the plane, (N, 2), by ``tsne`` or ``pca``."""
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(z)
    return TSNE(2, init="pca", random_state=seed).fit_transform(z)


def plot(places: NDArray, labels: NDArray[np.int64], title: str) -> Figure:
    """Every image at its place."""
    figure = Figure((WIDTH, WIDTH * 0.8), layout="constrained")
    axes = figure.add_subplot()
    for label in np.unique(labels):
        x, y = places[labels == label].T
        axes.scatter(x, y, s=24, color=f"C{label % 10}", marker=f"${label}$", linewidths=0)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    return figure


def main() -> None:
    """Read the command line, write the picture."""
    parser = arguments(__doc__, data=True, output=True, models="model for binary images, or a checkpoint (.pt)")
    parser.add_argument("--images", type=count, default=2000, help="images on the map (default: 2000)")
    parser.add_argument("--method", choices=("tsne", "pca"), default="tsne", help="default: tsne")
    given = parser.parse_args()
    encoder = open_encoder(given.model)
    images = load_images(given.data, config_of(encoder).image_size, "valid", given.images, given.seed)
    labels = load_labels(given.data, "valid", given.images)
    method = {"tsne": "t-SNE", "pca": "two principal components"}[given.method]
    title = f"{method} of the posterior means of z, {len(images)} images, coloured by class"
    save(plot(project(latents(encoder, images), given.method, given.seed), labels, title), given.output)


if __name__ == "__main__":
    run(main)
