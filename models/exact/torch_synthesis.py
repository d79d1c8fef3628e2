"""The networks between photographs and z by torch, for a GPU: the same integers as `synthesis` gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig

from vlae_codec.errors import UnsafeModel

from .integer import IntegerModel
from .synthesis import Floats, SynthesisPass
from .torch_layers import TorchLayer, exactly

#: Numbers in the columns of a convolution that are made at once: what they take of a GPU's memory.
COLUMNS = 1 << 26


class TorchSynthesis(SynthesisPass):
    """The networks between z and a photograph of one integer model on one device, by products of matrices.

    A library's convolutions may go by Winograd's or Fourier's transform, whose numbers are not whole.

    Parameters
    ----------
    model : IntegerModel
        For photographs, with z.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    UnsafeModel
        If the device gives other integers than numpy.
    """

    def __init__(self, model: IntegerModel, device: str) -> None:
        by_numpy = SynthesisPass(model)
        self.config, self.device = model.config, torch.device(device)
        stated = plan.layers(model.config)
        self.layers = {
            name: TorchLayer(model.layers[name], self.device, stated[name].out_low, stated[name].out_high)
            for name in by_numpy.layers
        }
        if not self._agrees(by_numpy):
            raise UnsafeModel(f"device {device} does not sum integers exactly; use --device cpu")

    def _agrees(self, other: SynthesisPass, side: int = 3) -> bool:
        """Whether a small picture and a small z give the integers that they should."""
        rng, pixels = np.random.Generator(np.random.PCG64(0)), side * VLAEConfig.Z_PATCH
        image = rng.integers(0, 256, (pixels, pixels, 3), np.uint8)
        z = rng.integers(*plan.Z_LIMITS, (side, side, self.config.z_channels), np.int64, endpoint=True)

        def integers(networks: SynthesisPass) -> list[NDArray[Any]]:
            return [*networks.posterior(image), networks.features(z, pixels, pixels)]

        return all(np.array_equal(a, b) for a, b in zip(integers(self), integers(other), strict=True))

    def _load(self, array: Floats) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    @exactly
    def encode(self, x: Floats) -> Floats:
        """See `SynthesisPass.encode`."""
        found: Floats = super().encode(self._load(x)).cpu().numpy()
        return found

    @exactly
    def synthesise(self, z: Floats, with_features: bool) -> NDArray[np.int16]:
        """See `SynthesisPass.synthesise`."""
        return super().synthesise(self._load(z), with_features)

    def _whole(self, h: Tensor) -> NDArray[np.int16]:
        whole: NDArray[np.int16] = h.to(torch.int16).cpu().numpy()
        return whole

    def _convolve(self, h: Tensor, name: str, side: int) -> Tensor:
        return torch.cat([part for _, part in self._convolved(h, name, side)])

    def _convolved(self, h: Tensor, name: str, side: int) -> Iterator[tuple[int, Tensor]]:
        height, width, channels = h.shape
        reach = side // 2
        padded = F.pad(h, (0, 0, reach, reach, reach, reach))
        step = max(2, COLUMNS // (width * side * side * channels) // 2 * 2)
        for top in range(0, height, step):
            rows = min(step, height - top)
            seen = [padded[top + dy :, dx:][:rows, :width] for dy in range(side) for dx in range(side)]
            yield top, self.layers[name](torch.cat(seen, 2))
