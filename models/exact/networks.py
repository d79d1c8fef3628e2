"""The integer networks around z by numpy, so that decoding on a CPU needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import PRIOR, prior_offsets

from .integer import IntegerModel


class PriorPass:
    """The prior by numpy, on rows: z has one position for 256 pixels, so it never pays to move it to a GPU."""

    def __init__(self, model: IntegerModel) -> None:
        self.config = model.config
        self.channels = model.config.z_channels
        layers = [model.layers[f"prior.{i}"] for i in range(3)]
        self.weights = [np.ascontiguousarray(layer.weight.T.astype(np.float32)) for layer in layers]
        self.biases = [layer.bias.astype(np.float32) for layer in layers]
        self.scales = [layer.scale for layer in layers]
        self.limits = [float(layer.high) for layer in layers[1:]]

    def inputs(self, padded: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the first layer for some places: the window, then the place itself.

        Parameters
        ----------
        padded : array of int64, shape (h + 2, w + 4, z_channels)
            z on its grid, `Z_WINDOW` zeros around it on three sides, zero wherever it is not known yet.
        y, x : arrays of int64
            The places.
        """
        reach = VLAEConfig.Z_WINDOW
        taps = [padded[y + reach + dy, x + reach + dx] for dy, dx in [*prior_offsets(self.config), (0, 0)]]
        return np.concatenate(taps, 1).astype(np.float32)

    def __call__(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Means and indices of scales, shape (N, z_channels) each, in the units of `cdf.gaussian_cdf`."""
        h = rows
        for weight, bias, scale, high in zip(
            self.weights[:2], self.biases[:2], self.scales[:2], self.limits, strict=True
        ):
            h = np.floor((h @ weight + bias) * scale).clip(0, high)
        out = np.floor((h @ self.weights[2] + self.biases[2]) * self.scales[2]).astype(np.int64)
        mean = out[:, : self.channels].clip(-PRIOR.mean, PRIOR.mean)
        return mean, out[:, self.channels :].clip(*PRIOR.scale)


class RowLayer:
    """An integer layer by numpy, on rows (..., inputs)."""

    def __init__(self, model: IntegerModel, name: str) -> None:
        layer, stated = model.layers[name], plan.layers(model.config)[name]
        self.weight = np.ascontiguousarray(layer.weight.T.astype(np.float32))
        self.bias, self.scale = layer.bias.astype(np.float32), layer.scale
        #: Highest input, and limits of the output.
        self.in_high = np.float32(layer.high)
        self.low, self.high = np.float32(stated.out_low), np.float32(stated.out_high)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """floor(acc * scale), clamped to what the next layer takes."""
        acc = rows.reshape(-1, rows.shape[-1]) @ self.weight
        acc += self.bias
        acc *= self.scale
        out = np.clip(np.floor(acc, out=acc), self.low, self.high, out=acc)
        return out.reshape(*rows.shape[:-1], -1)
