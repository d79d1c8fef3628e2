"""How much of an image's class z holds: linear classification and clustering, model by model.

python examples/latent_accuracy.py mnist_gray.npz -m dynamic-mnist -m runs/window-1/checkpoint.pt

linear    a logistic regression, trained on posterior means of the train split, tested on those of the valid split
drawn     the same with one draw of z from q(z | x) for each image: a mean has more digits than its noise lets through,
          so the means of a z that holds almost nothing can still tell classes apart
clusters  k-means on the valid split's means, as many clusters as classes, under the best assignment of one to another
"""

from __future__ import annotations

import json

import numpy as np
from common import arguments, config_of, count, label_of, latents, load_images, load_labels, open_encoder, run
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_accuracy(
    train: NDArray, train_labels: NDArray[np.int64], valid: NDArray, valid_labels: NDArray[np.int64]
) -> float:
    """Share of ``valid`` (N, z_channels) that a logistic regression fitted to ``train`` gets right."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(train, train_labels).score(valid, valid_labels))


def cluster_accuracy(z: NDArray, labels: NDArray[np.int64], seed: int) -> float:
    """Share of z (N, z_channels) whose k-means cluster is the one assigned to their class."""
    classes, labels = np.unique(labels, return_inverse=True)
    clusters = KMeans(len(classes), n_init=10, random_state=seed).fit_predict(z)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(z))


def main() -> None:
    """Read the command line, print the table."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("-m", "--model", action="append", required=True, help="model or checkpoint (.pt); repeatable")
    parser.add_argument("--train-images", type=count, help="only the first so many of the train split")
    parser.add_argument("--images", type=count, help="only the first so many of the valid split")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    limits = {"train": given.train_images, "valid": given.images}
    labels = {split: load_labels(given.data, split, limit) for split, limit in limits.items()}
    results = []
    for name in given.model:
        encoder = open_encoder(name)
        size = config_of(encoder).image_size
        images = {split: load_images(given.data, size, split, limit, given.seed) for split, limit in limits.items()}
        rng = np.random.default_rng(given.seed)
        means = {split: latents(encoder, each) for split, each in images.items()}
        drawn = {split: latents(encoder, each, rng) for split, each in images.items()}
        results.append(
            {
                "model": label_of(name),
                "linear": linear_accuracy(means["train"], labels["train"], means["valid"], labels["valid"]),
                "drawn": linear_accuracy(drawn["train"], labels["train"], drawn["valid"], labels["valid"]),
                "clusters": cluster_accuracy(means["valid"], labels["valid"], given.seed),
            }
        )
    if given.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'model':<24} {'linear':>8} {'drawn':>8} {'clusters':>8}")
    for each in results:
        print(f"{each['model']:<24}", *(f"{100 * each[key]:>6.2f} %" for key in ("linear", "drawn", "clusters")))


if __name__ == "__main__":
    run(main)
