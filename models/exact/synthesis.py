"""The integer networks between photographs and z, by numpy: the posterior, and the synthesis of y and features.

Both are convolutions over a stage's own rows, in strips whose margins cover all that a row of z can see, so that
strips give the same integers as the whole. `torch_synthesis` runs them by torch, for a GPU: but for a few methods, all
that is done to an `Array` here can be done to a tensor as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import PIXEL_CENTRE, POSTERIOR, SEEN_SIDE, SYNTHESIS_BLOCKS, Y_STEPS

from .integer import IntegerModel
from .networks import RowLayer

#: Pixels of a strip, margins apart, and its least rows of z: what it takes, some 250 bytes a pixel, against what its
#: margins cost again.
STRIP_PIXELS, STRIP_ROWS = 1 << 20, 9
#: Rows of z that a row of the other side can depend on: of the encoder, and of the synthesis.
ENCODER_MARGIN, SYNTHESIS_MARGIN = 7, 9
#: Numbers in the columns of a convolution that are made at once: few enough for the cache.
COLUMNS = 1 << 19

Floats = NDArray[np.float32]
#: Floats by numpy, or a tensor.
Array = Any


class Strip(NamedTuple):
    """Some rows of what the synthesis makes of z.

    Attributes
    ----------
    first : int
        First row, counted in pixels.
    y : array of int16, shape (rows, W, 3)
        The reconstruction less 128, in units of 1 / `plan.Y_STEPS` of a pixel value.
    features : array of int16, shape (rows, W, channels), or None
    """

    first: int
    y: NDArray[np.int16]
    features: NDArray[np.int16] | None


class SynthesisPass:
    """The networks between z and a photograph of one integer model.

    Parameters
    ----------
    model : IntegerModel
        For photographs, with z.
    """

    def __init__(self, model: IntegerModel) -> None:
        self.config = model.config
        self.layers: dict[str, Any] = {
            name: RowLayer(model, name) for name in model.layers if name.startswith(("encoder", "features"))
        }

    def posterior(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """q(z | x) of a stage's rows.

        Parameters
        ----------
        rows : array of uint8, shape (H, W, 3)
            Sides need not be multiples of 16: the last row and column are repeated.

        Returns
        -------
        Means and indices of scales, int64, shape (ceil(H / 16), ceil(W / 16), z_channels), in the units of
        `cdf.gaussian_cdf`.
        """
        side = VLAEConfig.Z_PATCH
        height, width = rows.shape[:2]

        def network(first: int, last: int) -> Floats:
            part = rows[side * first : side * last]
            part = np.pad(part, ((0, side * (last - first) - len(part)), (0, -width % side), (0, 0)), mode="edge")
            return self.encode(part.astype(np.float32) - np.float32(PIXEL_CENTRE))

        shape = -(-height // side), -(-width // side)
        parts = [part for _, part in self._strips(shape, ENCODER_MARGIN, 1, network)]
        out = np.concatenate(parts).astype(np.int64)
        z = self.config.z_channels
        return out[..., :z].clip(-POSTERIOR.mean, POSTERIOR.mean), out[..., z:].clip(*POSTERIOR.scale)

    def strips(self, z: NDArray[np.int64], with_features: bool) -> Iterator[Strip]:
        """What the synthesis makes of z (h, w, z_channels), strip after strip: 16 times as many rows and columns."""

        def network(first: int, last: int) -> NDArray[np.int16]:
            return self.synthesise(z[first:last].astype(np.float32), with_features)

        side = VLAEConfig.Z_PATCH
        for first, part in self._strips((z.shape[0], z.shape[1]), SYNTHESIS_MARGIN, side, network):
            yield Strip(side * first, part[..., :3], part[..., 3:] if with_features else None)

    def features(self, z: NDArray[np.int64], height: int, width: int) -> NDArray[np.int16]:
        """The local decoder's features of a stage, int16 (height, width, channels)."""
        out = np.empty((height, width, self.config.channels), np.int16)
        for strip in self.strips(z, True):
            assert strip.features is not None
            rows = out[strip.first : strip.first + len(strip.y)]
            rows[:] = strip.features[: len(rows), :width]
        return out

    def reconstruction(self, z: NDArray[np.int64], height: int, width: int) -> NDArray[np.uint8]:
        """The picture y that z alone tells of, uint8 (height, width, 3)."""
        out = np.empty((height, width, 3), np.uint8)
        for strip in self.strips(z, False):
            rows = out[strip.first : strip.first + len(strip.y)]
            rows[:] = ((strip.y[: len(rows), :width] + Y_STEPS // 2) // Y_STEPS + int(PIXEL_CENTRE)).clip(0, 255)
        return out

    @staticmethod
    def _strips(
        shape: tuple[int, int], margin: int, factor: int, network: Callable[[int, int], NDArray]
    ) -> Iterator[tuple[int, NDArray]]:
        """Apply a network to rows of z, first to last - 1 of ``shape``, and cut its margins off.

        The network gives ``factor`` rows for each. Yields each strip's first row of z and its rows.
        """
        h, w = shape
        step = max(STRIP_ROWS, STRIP_PIXELS // (VLAEConfig.Z_PATCH**2 * w))
        for first in range(0, h, step):
            last = min(first + step, h)
            above = min(first, margin)
            out = network(first - above, min(last + margin, h))
            yield first, out[factor * above : factor * (above + last - first)]

    def encode(self, x: Array) -> Array:
        """Means and scales, before their limits, of pixels less 128."""
        h = self.layers["encoder.0"](_to_patches(x, 4))
        for i in range(3):
            for j in (2 * i, 2 * i + 1):
                h = self._block(h, f"encoder.block{j}")
            h = self._active(h, f"encoder.{i + 1}")
            h = self.layers[f"encoder.{i + 1}"](_to_patches(h, 2) if i < 2 else h)
        return h

    def synthesise(self, z: Array, with_features: bool) -> NDArray[np.int16]:
        """Y, and behind it the features, (16 h, 16 w, 3 or 3 + channels)."""
        h = self._convolve(z, "features.0", 3)
        block = 0
        for i, count in enumerate(SYNTHESIS_BLOCKS):
            for _ in range(count):
                h = self._block(h, f"features.block{block}")
                block += 1
            h = self._active(h, f"features.{i + 1}")
            if i < 3:
                h = _from_patches(self.layers[f"features.{i + 1}"](h), 2)
        y = _from_patches(self._convolve(h, "features.4", 3), 2)
        if not with_features:
            return self._whole(y)
        out = np.empty((*y.shape[:2], 3 + self.config.channels), np.int16)
        out[..., :3] = self._whole(y)
        for top, part in self._convolved(y, "features.6", SEEN_SIDE):
            rows = slice(top // 2, (top + len(part)) // 2)
            out[top : top + len(part), :, 3:] = self._whole(part + _from_patches(self.layers["features.5"](h[rows]), 2))
        return out

    def _whole(self, h: Array) -> NDArray[np.int16]:
        """Numbers of a picture's size as 16 bits."""
        whole: NDArray[np.int16] = h.astype(np.int16)
        return whole

    def _active(self, h: Array, name: str) -> Array:
        """A stream as a layer takes it."""
        return h.clip(0, self.layers[name].in_high)

    def _block(self, h: Array, name: str) -> Array:
        inner = self._convolve(self._active(h, f"{name}.0"), f"{name}.0", 3)
        return h + self._convolve(inner, f"{name}.1", 3)

    def _convolve(self, h: Array, name: str, side: int) -> Array:
        """A layer over the ``side`` x ``side`` neighbourhood of (H, W, C), zero outside."""
        return np.concatenate([part for _, part in self._convolved(h, name, side)])

    def _convolved(self, h: Array, name: str, side: int) -> Iterator[tuple[int, Array]]:
        """`_convolve`, some rows at a time, of an even number but at the end: the first row, and the rows."""
        height, width, channels = h.shape
        reach = side // 2
        stride = width + 2 * reach
        # One more row, as the last places' neighbourhoods run over into it.
        padded = np.zeros((height + 2 * reach + 1, stride, channels), np.float32)
        padded[reach : reach + height, reach : reach + width] = h
        flat = padded.reshape(-1, channels)
        step = max(2, COLUMNS // (stride * side * side * channels) // 2 * 2)
        for top in range(0, height, step):
            rows = min(step, height - top)
            columns = np.empty((rows * stride, side * side * channels), np.float32)
            for k in range(side * side):
                start = (top + k // side) * stride + k % side
                columns[:, k * channels : (k + 1) * channels] = flat[start : start + rows * stride]
            yield top, self.layers[name](columns).reshape(rows, stride, -1)[:, :width]


def _to_patches(x: Array, side: int) -> Array:
    """Squares of (H, W, C) as rows (H / side, W / side, side * side * C), ordered (row, column, channel)."""
    height, width, channels = x.shape
    x = x.reshape(height // side, side, width // side, side, channels)
    return x.swapaxes(1, 2).reshape(height // side, width // side, -1)


def _from_patches(h: Array, side: int) -> Array:
    """The inverse of `_to_patches`."""
    height, width, channels = h.shape
    h = h.reshape(height, width, side, side, channels // side**2)
    return h.swapaxes(1, 2).reshape(height * side, width * side, -1)
