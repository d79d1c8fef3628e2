"""The integer networks around z by numpy, so that decoding on a CPU needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import PIXEL_CENTRE, POSTERIOR, PRIOR, prior_offsets

from .integer import IntegerModel

#: Pixels whose patches go through the encoder together.
PART_PIXELS = 1 << 17


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
        self.low, self.high = np.float32(stated.out_low), np.float32(stated.out_high)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """floor(acc * scale), clamped to what the next layer takes."""
        acc = rows.reshape(-1, rows.shape[-1]) @ self.weight
        acc += self.bias
        acc *= self.scale
        out = np.clip(np.floor(acc, out=acc), self.low, self.high, out=acc)
        return out.reshape(*rows.shape[:-1], -1)


class PatchNetworks:
    """What lies between a photograph and its z: `PhotoNetworks.posterior` and `PhotoNetworks.features` by numpy."""

    def __init__(self, model: IntegerModel) -> None:
        self.config = model.config
        self.encoder = [RowLayer(model, f"encoder.{i}") for i in range(4)]
        self.feature_layers = [RowLayer(model, f"features.{i}") for i in range(2)]

    def posterior(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """q(z | x) of a stage's rows, uint8 (H, W, 3): means and indices of scales, int64 (h, w, z_channels)."""
        side, fine = VLAEConfig.Z_PATCH, VLAEConfig.FEATURE_PATCH
        padding = ((0, 0), (0, -rows.shape[1] % side), (0, 0))
        parts = []
        for top in range(0, len(rows), step := side * max(1, PART_PIXELS // (side * rows.shape[1]))):
            part = np.pad(rows[top : top + step], padding, mode="edge")
            part = np.pad(part, ((0, -len(part) % side), (0, 0), (0, 0)), mode="edge")
            x = part.astype(np.float32) - np.float32(PIXEL_CENTRE)
            h = patches(self.encoder[0](patches(x, fine)), side // fine)
            for layer in self.encoder[1:]:
                h = layer(h)
            parts.append(h.astype(np.int64))
        out = np.concatenate(parts)
        z = self.config.z_channels
        return out[..., :z].clip(-POSTERIOR.mean, POSTERIOR.mean), out[..., z:].clip(*POSTERIOR.scale)

    def features(self, z: NDArray[np.int64]) -> NDArray[np.int16]:
        """The decoder's features of a stage, from z (h, w, z_channels): int16 (4 h, 4 w, channels)."""
        n = VLAEConfig.Z_PATCH // VLAEConfig.FEATURE_PATCH
        height, width = z.shape[:2]
        out = np.empty((height, n, width, n, self.config.channels), np.int16)
        # Row by row, as a large image's features in float32 would be larger than everything else together.
        for row, z_row in zip(out, z, strict=True):
            h = z_row.astype(np.float32)
            for layer in self.feature_layers:
                h = layer(h)
            row[:] = h.reshape(width, n, n, -1).swapaxes(0, 1)
        return out.reshape(height * n, width * n, -1)


def patches(x: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Squares of (H, W, C) as rows (H / side, W / side, side * side * C), ordered (row, column, channel)."""
    height, width, channels = x.shape
    x = x.reshape(height // side, side, width // side, side, channels).swapaxes(1, 2)
    return x.reshape(height // side, width // side, side * side * channels)
