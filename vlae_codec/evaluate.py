"""A model for binary images measured: ELBO in parts, importance-weighted likelihood, and the size of real files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_codec.coding.binary import BinaryCoder, pixel_bits
from vlae_codec.coding.latent import draw_posterior, gaussian_bits
from vlae_codec.entropy.codecs import Gaussians
from vlae_codec.formats.archive_writer import SEGMENT, archive_array, check_particles
from vlae_codec.registry import Model
from vlae_codec.stages import MAX_BATCH, Progress, no_progress

#: Nats in a bit.
NATS = math.log(2.0)


def image_parts(
    coder: BinaryCoder, images: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """-log p(z), -log q(z | x) and -log p(x | z) of images (N, S, S) under one draw of z each, in bits, (N,) each."""
    if not coder.config.z_channels:
        none = np.zeros(len(images))
        return none, none, pixel_bits(images, coder.networks.logits(images, None))
    prior, posterior, pixels = channel_parts(coder, images, rng)
    return prior.sum(1), posterior.sum(1), pixels


def channel_parts(
    coder: BinaryCoder, images: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """As `image_parts`, of a model with a z, but those of z for each of its channels, (N, z_channels)."""
    posterior = Gaussians(*coder.networks.posterior(images))
    z = draw_posterior(posterior, rng)
    prior_bits = gaussian_bits(z, *coder.networks.prior(z))
    logits = coder.networks.logits(images, coder.networks.features(z))
    return prior_bits, gaussian_bits(z, *posterior), pixel_bits(images, logits)


def importance_nll(
    coder: BinaryCoder, images: NDArray[np.uint8], samples: int, rng: np.random.Generator,
    progress: Progress = no_progress,
) -> NDArray[np.float64]:  # fmt: skip
    """-log p(x) in nats, (N,), from ``samples`` draws of z for each image (Burda et al. 2016).

    An upper bound on average, tighter the more draws. The draws go through the networks in batches, and only
    a running sum is kept.
    """
    results = []
    for image in images:
        largest, total = -np.inf, 0.0
        for first in range(0, samples, MAX_BATCH):
            copies = np.repeat(image[None], min(MAX_BATCH, samples - first), 0)
            prior, posterior, pixels = image_parts(coder, copies, rng)
            logs = -NATS * (prior - posterior + pixels)
            top = max(largest, float(logs.max()))
            total = total * math.exp(largest - top) + float(np.exp(logs - top).sum())
            largest = top
            progress(copies.size)
        results.append(math.log(samples) - largest - math.log(total))
    return np.array(results)


def evaluate(
    model: Model, images: NDArray[np.uint8], *, samples: int = 0, limit: int | None = None, seed: int = 0,
    segment: int = SEGMENT, particles: int = 1, progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """Theory and files side by side.

    Parameters
    ----------
    model : Model
        One for binary images.
    images : array of uint8, shape (N, S, S)
        Zeros and ones.
    samples : int
        Draws of z for each image's importance-weighted likelihood; 0 leaves it out.
    limit : int, optional
        How many of the images, the first ones, that is computed for.
    seed : int
        Of the draws.
    segment : int
        Images that share a segment of the archive.
    particles : int
        Of the archive, see `archive_array`.

    Returns
    -------
    dict: ``nats`` per image (``elbo``, ``pixels``, ``kl``, and ``z_prior``, ``z_posterior`` in bins), ``kl_bits``,
    ``bits_per_dim``, ``importance`` (None, or ``nats``, ``standard_error``, ``samples``, ``images``), and ``archive``
    (``bytes``, ``nats``, ``bits``, ``over_elbo``: how much larger than the ELBO, as a share).
    """
    coder = model.binary
    check_particles(particles, model)
    rng = np.random.default_rng(seed)
    sums = np.zeros(3)
    for first in range(0, len(images), MAX_BATCH):
        part = images[first : first + MAX_BATCH]
        sums += [float(bits.sum()) for bits in image_parts(coder, part, rng)]
        progress(part.size)
    prior, posterior, pixels = sums * NATS / len(images)
    elbo = prior - posterior + pixels
    importance = None
    if samples:
        chosen = images[:limit]
        nll = importance_nll(coder, chosen, samples, rng, progress)
        importance = {
            "nats": float(nll.mean()), "standard_error": float(nll.std() / math.sqrt(len(nll))),
            "samples": samples, "images": len(nll),
        }  # fmt: skip
    size = len(archive_array(images, model, segment=segment, particles=particles, verify=False, progress=progress))
    nats = 8 * size * NATS / len(images)
    return {
        "model": model.name, "model_id": model.id.hex(), "images": len(images),
        "nats": {"elbo": elbo, "pixels": pixels, "kl": prior - posterior, "z_prior": prior, "z_posterior": posterior},
        "kl_bits": (prior - posterior) / NATS,
        "bits_per_dim": elbo / NATS / images[0].size,
        "importance": importance,
        "archive": {"bytes": size, "nats": nats, "bits": nats / NATS, "over_elbo": nats / elbo - 1},
    }  # fmt: skip
