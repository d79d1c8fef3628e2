"""The float model's ELBO, to be held against the integer model's files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.vlae import VLAE, nats_to_bits

from .data import bin_edges


def picture_elbo(model: VLAE, picture: np.ndarray, with_z: bool = True) -> tuple[float, float]:
    """-log p(x | z) and KL of one picture in bits per subpixel, over the values that occur in it.

    Parameters
    ----------
    picture : array, shape (H, W, 3), uint8
    with_z : bool
        False: the decoder without z, and a KL of zero.
    """
    height, width = picture.shape[:2]
    x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    low, high = torch.empty(x.shape), torch.empty(x.shape)
    for c in range(3):
        edges_low, edges_high = bin_edges(np.unique(picture[..., c]))
        low[0, c] = torch.from_numpy(edges_low)[x[0, c].long()]
        high[0, c] = torch.from_numpy(edges_high)[x[0, c].long()]
    side = VLAEConfig.Z_PATCH
    padding = (0, -width % side, 0, -height % side)
    padded = F.pad(x.float(), padding, mode="replicate")
    use_z = torch.tensor([with_z])
    with torch.no_grad():
        logs, kl, _ = model.parts(padded, F.pad(low, padding), F.pad(high, padding, value=256.0), use_z)
    pixels = -float(logs[..., :height, :width].double().sum())
    return nats_to_bits(pixels) / picture.size, nats_to_bits(float(kl.sum())) / picture.size


def folder_elbo(model: VLAE, folder: Path, with_z: bool = True) -> dict[str, tuple[float, float]]:
    """`picture_elbo` of every RGB picture in a folder, by file name."""
    result = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            if image.mode == "RGB":
                result[path.name] = picture_elbo(model, np.asarray(image), with_z)
    return result


def checkpoint_elbo(
    model: VLAE, images: np.ndarray, samples: int, limit: int | None, seed: int, device: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """`vlae_codec.evaluate.evaluate` of a float model, without an archive."""
    torch.manual_seed(seed)
    model = model.to(device).eval()
    x = torch.from_numpy(images)[:, None].float()
    sums = np.zeros(2)
    importance: dict[str, Any] | None = None
    with torch.inference_mode():
        for part in x.split(250):
            pixels, kl, _ = model.image_elbo(part.to(device))
            sums += [float(pixels.double().sum()), float(kl.double().sum())]
            progress(part.numel())
        if samples:
            nll = []
            for image in x[:limit]:
                logs = []
                for first in range(0, samples, 256):
                    pixels, _, ratio = model.image_elbo(image[None].to(device), samples=min(256, samples - first))
                    logs.append(-(pixels.double() + ratio.double()))
                    progress(image.numel() * len(logs[-1]))
                nll.append(math.log(samples) - float(torch.cat(logs).logsumexp(0)))
            spread = float(np.std(nll)) / math.sqrt(len(nll))
            importance = {"nats": float(np.mean(nll)), "standard_error": spread, "samples": samples, "images": len(nll)}
    pixels_mean, kl_mean = sums / len(images)
    return {
        "model": "checkpoint", "images": len(images),
        "nats": {"elbo": pixels_mean + kl_mean, "pixels": pixels_mean, "kl": kl_mean},
        "kl_bits": nats_to_bits(kl_mean), "bits_per_dim": nats_to_bits(pixels_mean + kl_mean) / images[0].size,
        "importance": importance, "archive": None,
    }  # fmt: skip
