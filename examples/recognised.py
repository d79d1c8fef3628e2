"""Whether a lossy reconstruction still shows the same digit, for what number of bits.

python examples/recognised.py mnist_gray.npz --model dynamic-mnist --fidelity 0.5 1 2 4

A classifier learns the train split's originals. An image of the valid split counts as recognised if its reconstruction
gets the label that the classifier gives to the original.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
from common import arguments, encode_lossy, load_images, load_labels, open_model, run
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from vlae_codec import lossy


def train_classifier(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> MLPClassifier:
    """Fit a network with one hidden layer to images (N, S, S)."""
    classifier = MLPClassifier((256,), batch_size=min(256, len(images)), max_iter=12, random_state=seed)
    with warnings.catch_warnings():
        # It stops after a number of epochs that is enough, not where the loss no longer falls.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(_flat(images), labels)


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def recognised(classifier: MLPClassifier, originals: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Share of the images to whose other version the classifier gives the same label."""
    return float((classifier.predict(_flat(originals)) == classifier.predict(_flat(others))).mean())


def main() -> None:
    """Read the command line, print the table."""
    parser = arguments(__doc__, data=True, models="model for binary images")
    parser.add_argument("--fidelity", type=float, nargs="+", default=[lossy.FIDELITY], help="as for vlae-codec lossy")
    parser.add_argument("--images", type=int, default=2000, help="images of the valid split (default: 2000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    model = open_model(given.model)
    size = model.coder.config.image_size
    train = load_images(given.data, size, "train", seed=given.seed)
    classifier = train_classifier(train, load_labels(given.data, "train"), given.seed)
    images = load_images(given.data, size, "valid", given.images, given.seed)
    right = float(classifier.score(_flat(images), load_labels(given.data, "valid", given.images)))
    rows = []
    for fidelity in given.fidelity:
        file = encode_lossy(images, model, fidelity)
        bits = {"z": file.bits, "kl": file.kl, "file": 8.0 * len(file.to_bytes())}
        share = recognised(classifier, images, lossy.reconstruct(file, model, seed=given.seed)[0])
        rows.append({"fidelity": fidelity, "recognised": share, "bits": {key: bits[key] / len(images) for key in bits}})
    if given.json:
        print(json.dumps({"model": model.name, "images": len(images), "classifier": right, "rows": rows}, indent=2))
        return
    print(f"{model.name}, {len(images)} images; the classifier gets {100 * right:.2f} % of the originals right")
    print(f"{'fidelity':>8} {'recognised':>11} {'z':>8} {'KL':>8} {'file':>8}   bits an image")
    for row in rows:
        numbers = " ".join(f"{row['bits'][key]:>8.2f}" for key in ("z", "kl", "file"))
        print(f"{row['fidelity']:>8g} {100 * row['recognised']:>9.2f} % {numbers}")


if __name__ == "__main__":
    run(main)
