"""Whether a lossy reconstruction still shows the same digit, for what number of bits.

python examples/recognised.py mnist_gray.npz --model dynamic-mnist --fidelity 0.5 1 2 4

A classifier learns the train split's originals. An image of the valid split counts as recognised if its reconstruction
gets the class that the classifier gives to the original.
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, count, encode_lossy, load_images, load_labels, open_model, run
from numpy.typing import NDArray
from torch import nn

from vlae_codec.formats import lossy


def train_classifier(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, epochs: int = 3) -> nn.Module:
    """Fit a small convolutional network to images (N, S, S), S a multiple of 4, and classes from 0 on."""
    torch.manual_seed(seed)
    flat = 32 * (images.shape[1] // 4) ** 2
    classifier = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, int(labels.max()) + 1),
    )  # fmt: skip
    batches = [part for _ in range(epochs) for part in torch.randperm(len(images)).split(64)]
    optimiser = torch.optim.Adam(classifier.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=len(batches))
    for part in batches:
        loss = F.cross_entropy(classifier(_batch(images[part])), torch.from_numpy(labels[part]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier.eval()


def _batch(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images)[:, None].float()


def classify(classifier: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Classes of images (N, S, S), int64 (N,)."""
    with torch.inference_mode():
        return torch.cat([classifier(part).argmax(1) for part in _batch(images).split(500)]).numpy()


def recognised(classifier: nn.Module, originals: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Share of the images to whose other version the classifier gives the same class."""
    return float((classify(classifier, originals) == classify(classifier, others)).mean())


def main() -> None:
    """Read the command line, print the table."""
    parser = arguments(__doc__, data=True, models="model for binary images")
    parser.add_argument("--fidelity", type=float, nargs="+", default=[lossy.FIDELITY], help="as for vlae-codec lossy")
    parser.add_argument("--images", type=count, default=2000, help="images of the valid split (default: 2000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    model = open_model(given.model)
    size = model.coder.config.image_size
    train = load_images(given.data, size, "train", seed=given.seed)
    classifier = train_classifier(train, load_labels(given.data, "train"), given.seed)
    images = load_images(given.data, size, "valid", given.images, given.seed)
    right = float((classify(classifier, images) == load_labels(given.data, "valid", given.images)).mean())
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
