"""A plane through the space of z: where the means of digits lie on it, and the z at a place."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlae_codec.registry import Model

#: The planes of the models that ship, by their ids; examples/explore_maps.py writes it.
FILE = Path(__file__).parent / "maps.npz"


@dataclass(frozen=True)
class Plane:
    """The two principal components of q's means.

    Attributes
    ----------
    centre : array, shape (z_channels,)
        The mean of all means.
    axes : array, shape (2, z_channels)
        Orthonormal.
    places : array, shape (N, 2)
        Where digits lie, in units of z.
    labels : array of integers, shape (N,)
        Their classes.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    places: NDArray[np.float64]
    labels: NDArray[np.int64]

    @classmethod
    def through(cls, means: NDArray[np.float64], labels: NDArray[np.int64]) -> Plane:
        """The plane of means (N, z_channels), N at least 2."""
        centre = means.mean(0)
        axes = np.linalg.svd(means - centre, full_matrices=False)[2][:2]
        # Which way an axis points is a matter of rounding otherwise.
        axes = axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
        return cls(centre, axes, (means - centre) @ axes.T, labels)

    def place_of(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where z (z_channels,) lies, (2,)."""
        return self.axes @ (z - self.centre)

    def z_at(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """The z (z_channels,) of the plane at a place (2,)."""
        return self.centre + place @ self.axes


def to_bytes(planes: Iterable[tuple[bytes, Plane]]) -> bytes:
    """The planes of models, given by their ids, as a .npz file."""
    arrays = {}
    for model_id, plane in planes:
        key = model_id.hex()
        arrays[f"{key}.frame"] = np.vstack([plane.centre, plane.axes]).astype(np.float32)
        arrays[f"{key}.places"] = plane.places.astype(np.float16)
        arrays[f"{key}.labels"] = plane.labels.astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@functools.cache
def _stored() -> dict[str, NDArray]:
    if not FILE.is_file():
        return {}
    with np.load(FILE, allow_pickle=False) as arrays:
        return dict(arrays)


def stored(model: Model) -> Plane | None:
    """The plane of a model that ships; None for another."""
    arrays, key = _stored(), model.id.hex()
    if f"{key}.frame" not in arrays:
        return None
    frame = arrays[f"{key}.frame"].astype(np.float64)
    places, labels = arrays[f"{key}.places"].astype(np.float64), arrays[f"{key}.labels"].astype(np.int64)
    return Plane(frame[0], frame[1:], places, labels)
