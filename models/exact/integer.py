"""Exact-integer networks: their file, and the proof that no sum can round.

A layer holds integer weights W and biases b, and a float32 scale per output channel. It computes

    acc = W a + b                       every partial sum an integer below 2^24 in size, so float32 holds it exactly
    out = floor(acc * scale)            one float32 multiplication, rounded as IEEE 754 says, then floor

with its input a clamped to the layer's limits. The result is the same in every order of summation, with or without
fused multiply-add, on every CPU and GPU. `IntegerLayer.check` proves the bound on the sums for each output channel; it
runs at export and at load, and a model that fails it is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.plan import EXACT

from vlae_codec.errors import UnknownModel, UnsafeModel

from .header import KEY, read_header

#: Smallest scale: hardware that flushes subnormal numbers to zero must not differ.
SCALE_MIN = 2.0**-126
#: Largest scale. Only channels that are almost always zero have one above 1.
SCALE_MAX = 2.0**16
#: Weights are stored in 16 bits.
WEIGHT_MAX = (1 << 15) - 1
#: How the names of tensors with ranges end.
_RANGE = ".range"
#: Version of the model file's layout.
MODEL_VERSION = 1


@dataclass
class IntegerLayer:
    """One linear layer.

    Attributes
    ----------
    weight : array of int16, shape (outputs, inputs)
    bias : array of int32, shape (outputs,)
    scale : array of float32, shape (outputs,)
    low, high : int
        Limits to which inputs are clamped.
    """

    weight: NDArray[np.int16]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    low: int
    high: int

    def check(self, name: str) -> None:
        """Prove that no partial sum, in any order, leaves (-2^24, 2^24); `UnsafeModel` names the channel that could."""
        w = self.weight.astype(np.int64)
        most = np.maximum(w * self.high, w * self.low).clip(min=0).sum(1) + np.maximum(self.bias, 0)
        least = np.minimum(w * self.high, w * self.low).clip(max=0).sum(1) + np.minimum(self.bias, 0)
        worst = np.maximum(most, -least)
        bad = np.flatnonzero(worst >= EXACT)
        if bad.size:
            raise UnsafeModel(
                f"layer {name}, channel {bad[0]}: a sum could reach {worst[bad[0]]}, expected below 2^24 = {EXACT}"
            )
        # A number that is not one is not within the limits either.
        wrong = ~((self.scale >= SCALE_MIN) & (self.scale <= SCALE_MAX))
        if wrong.any():
            raise UnsafeModel(f"layer {name}: a scale is {self.scale[wrong][0]}, expected within 2^-126..2^16")


class IntegerModel:
    """A model as coding uses it.

    Parameters
    ----------
    config : VLAEConfig
    layers : dict of str to IntegerLayer
    ranges : dict of str to array, optional
        Largest activation of each channel of the float model, by the layer that it goes into, in float16.
        Coding needs none: they tell training, which goes on from here, what the integers do not.

    Raises
    ------
    UnsafeModel
        If a sum in some layer could exceed what float32 holds exactly, or the prior is not autoregressive.
    UnknownModel
        If layers are missing or have other shapes than the configuration says.
    """

    def __init__(
        self, config: VLAEConfig, layers: dict[str, IntegerLayer], ranges: dict[str, NDArray[np.float16]] | None = None
    ) -> None:
        self.config = config
        self.layers = layers
        self.ranges = ranges or {}
        expected = plan.layers(config)
        if set(expected) != set(layers):
            wrong = sorted(set(expected) ^ set(layers))
            raise UnknownModel(f"model has other layers than its configuration says: {', '.join(wrong[:3])}")
        for name, (outputs, inputs, low, high, *_) in expected.items():
            layer = layers[name]
            if (
                layer.weight.shape != (outputs, inputs)
                or layer.bias.shape != (outputs,)
                or layer.scale.shape != (outputs,)
            ):
                raise UnknownModel(f"layer {name} has weights {layer.weight.shape}, expected {(outputs, inputs)}")
            if (layer.low, layer.high) != (low, high):
                raise UnknownModel(f"layer {name} takes {layer.low}..{layer.high}, expected {low}..{high}")
            layer.check(name)
        if "prior.0" in layers:
            for i, mask in enumerate(plan.prior_masks(config)):
                # Else the decoder, which meets z channel by channel, would see another prior than the encoder.
                if layers[f"prior.{i}"].weight[mask == 0].any():
                    raise UnsafeModel(f"layer prior.{i}: a channel of z sees itself or a later one")

    @property
    def halo(self) -> int:
        """Rows above a stage that its first row's activations depend on."""
        return self.config.blocks * self.config.reach

    def to_bytes(self) -> bytes:
        """The model as a safetensors file; the same model gives the same bytes."""
        tensors: dict[str, NDArray] = {}
        for name, layer in sorted(self.layers.items()):
            tensors[f"{name}.weight"] = layer.weight
            tensors[f"{name}.bias"] = layer.bias
            tensors[f"{name}.scale"] = layer.scale
        tensors |= {f"{name}{_RANGE}": each for name, each in self.ranges.items()}
        header = {
            KEY: json.dumps({"version": MODEL_VERSION, "config": json.loads(self.config.to_json())}, sort_keys=True)
        }
        return save_tensors(tensors, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> IntegerModel:
        """Read what `to_bytes` wrote. Runs no code from the file; checks every bound."""
        version, config = read_header(data)
        if version != MODEL_VERSION:
            raise UnknownModel(f"model file of version {version}, expected {MODEL_VERSION}")
        try:
            tensors = load_tensors(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UnknownModel(f"not a model of vlae-codec ({type(error).__name__})") from None
        layers = {}
        for name, (_, _, low, high, *_) in plan.layers(config).items():
            try:
                weight, bias, scale = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "scale"))
            except KeyError as error:
                raise UnknownModel(f"model file lacks {error}") from None
            if (weight.dtype, bias.dtype, scale.dtype) != (np.int16, np.int32, np.float32) or weight.ndim != 2:
                raise UnknownModel(
                    f"layer {name} has dtypes {weight.dtype}, {bias.dtype}, {scale.dtype}, "
                    "expected int16, int32, float32"
                )
            layers[name] = IntegerLayer(weight, bias, scale, low, high)
        ranges = {name.removesuffix(_RANGE): each for name, each in tensors.items() if name.endswith(_RANGE)}
        return cls(config, layers, ranges)
