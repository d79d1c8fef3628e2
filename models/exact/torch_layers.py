"""Integer layers as torch runs them, on a CPU or a GPU, and what keeps its sums exact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .integer import IntegerLayer


class OnDevice(Protocol):
    """Networks that know their device."""

    device: torch.device


Method = TypeVar("Method", bound=Callable)


def exactly(method: Method) -> Method:
    """Run a method of networks on a device in plain float32, whatever precision the caller has asked torch for.

    TF32, bfloat16 products and autocast would all keep fewer bits of each product than exact sums need.
    """

    @functools.wraps(method)
    def wrapped(self: OnDevice, *args: Any, **kwargs: Any) -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                return method(self, *args, **kwargs)
        finally:
            torch.set_float32_matmul_precision(before)

    return cast(Method, wrapped)


Limit = float | NDArray[np.float32]


class TorchLayer:
    """An integer layer on a device; rows are the last dimension."""

    def __init__(self, layer: IntegerLayer, device: torch.device, out_low: Limit, out_high: Limit) -> None:
        self.weight = torch.from_numpy(layer.weight.astype(np.float32)).to(device)
        self.bias = torch.from_numpy(layer.bias.astype(np.float32)).to(device)
        self.scale_array, self.in_high = layer.scale, float(layer.high)
        self.scale = torch.from_numpy(layer.scale).to(device)
        self.low, self.high = torch.as_tensor(out_low, device=device), torch.as_tensor(out_high, device=device)

    def finish(self, acc: Tensor) -> Tensor:
        """floor(acc * scale), clamped to what the next layer takes."""
        return torch.clamp(acc.mul_(self.scale).floor_(), self.low, self.high)

    def __call__(self, rows: Tensor) -> Tensor:
        """The layer on rows (..., inputs)."""
        return self.finish(F.linear(rows, self.weight, self.bias))
