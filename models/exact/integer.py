"""Exact-integer networks: export from a trained float model, the proof that no sum can round, and the parallel pass.

A layer holds integer weights W and biases b, and a float32 scale per output channel. It computes

    acc = W a + b                       every partial sum an integer below 2^24 in size, so float32 holds it exactly
    out = floor(acc * scale)            one float32 multiplication, rounded as IEEE 754 says, then floor

with its input a clamped to the layer's limits. The result is the same in every order of summation, with or without
fused multiply-add, on every CPU and GPU. `IntegerLayer.check` proves the bound on the sums for each output channel; it
runs at export and at load, and a model that fails it is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor
from vlae_codec.models.binary import NARROW
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.decoder import NEIGHBOURS, PIXEL_UNIT, Observer
from vlae_codec.models.likelihood import MEAN_UNIT
from vlae_codec.models.prior import prior_masks, prior_offsets
from vlae_codec.models.vlae import VLAE

from vlae_codec.entropy import cdf
from vlae_codec.errors import UnknownModel, UnsafeModel

#: Integers of at most this size are exact in float32, and so are their sums as long as those stay below it.
EXACT = 1 << 24
#: Largest scale. Only channels that are almost always zero have one above 1.
SCALE_MAX = 2.0**16
#: Weights are stored in 16 bits.
WEIGHT_MAX = (1 << 15) - 1
#: Limits of what the residual stream gains from the window, from the features, and from each block.
STREAM_LIMIT = 1 << 15
#: Largest activation after relu, by the kind of layer that it goes into. The masked layers have five times the
#: fan-in, so they take a bit less, which leaves their weights a bit more.
ACTIVATION_MAX = 2047
MASKED_ACTIVATION_MAX = 1023
#: Limits of pixels less 128, of the index of z on its grid, and of the decoder's outputs by block of the layout.
PIXEL_LIMITS = (-128, 127)
Z_LIMITS = (cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
#: Limits of a binary image's pixels: -1 and 1, 0 outside.
BINARY_LIMITS = (-1, 1)
#: Limits of a Bernoulli pixel's logit, in units of 1 / `cdf.BERNOULLI_STEPS` nats.
LOGIT_LIMITS = (-1920, 1920)
OUTPUT_LIMITS = ((-4096, 4095), (-(1 << 15), (1 << 15) - 1), (0, cdf.SCALE_COUNT - 1), (-512, 511))
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
        if not np.isfinite(self.scale).all() or (self.scale <= 0).any() or (self.scale > SCALE_MAX).any():
            raise UnsafeModel(f"layer {name}: a scale is not a number in (0, {SCALE_MAX:.0f}]")


def quantize(
    weight: NDArray[np.float64], bias: NDArray[np.float64], in_unit: NDArray[np.float64],
    out_unit: NDArray[np.float64], low: int, high: int,
) -> IntegerLayer:  # fmt: skip
    """Integers for a float layer, each channel as fine as its own bound allows.

    Parameters
    ----------
    weight, bias : arrays, shapes (outputs, inputs) and (outputs,)
        The float layer.
    in_unit, out_unit : arrays, shapes (inputs,) and (outputs,)
        What one step of each input and output is worth.
    low, high : int
        Limits of the integer inputs.
    """
    scaled = weight * in_unit
    most = np.maximum(scaled * high, scaled * low).clip(min=0).sum(1)
    least = np.minimum(scaled * high, scaled * low).clip(max=0).sum(1)
    # floor rounds down: half an output step goes into the bias, so that it rounds to nearest.
    shift = bias + 0.5 * out_unit
    reach = np.maximum(most + np.maximum(shift, 0), np.maximum(-least + np.maximum(-shift, 0), 1e-12))
    # Rounding moves each weight by half a step at most; leave room for it.
    slack = 0.5 * weight.shape[1] * max(abs(low), abs(high)) + 2
    unit = np.maximum(reach / (EXACT - slack), np.abs(scaled).max(1) / WEIGHT_MAX)
    # No finer than an output needs: a scale of 2^-20 already tells a million steps apart.
    unit = np.maximum(unit, out_unit * 2.0**-20)
    return IntegerLayer(
        np.rint(scaled / unit[:, None]).astype(np.int16),
        np.rint(shift / unit).astype(np.int32),
        (unit / out_unit).astype(np.float32),
        low,
        high,
    )


class IntegerModel:
    """A model as coding uses it.

    Parameters
    ----------
    config : VLAEConfig
    layers : dict of str to IntegerLayer

    Raises
    ------
    UnsafeModel
        If a sum in some layer could exceed what float32 holds exactly, or the prior is not autoregressive.
    UnknownModel
        If layers are missing or have other shapes than the configuration says.
    """

    def __init__(self, config: VLAEConfig, layers: dict[str, IntegerLayer]) -> None:
        self.config = config
        self.layers = layers
        expected = layer_shapes(config)
        if set(expected) != set(layers):
            wrong = sorted(set(expected) ^ set(layers))
            raise UnknownModel(f"model has other layers than its configuration says: {', '.join(wrong[:3])}")
        for name, (outputs, inputs, low, high) in expected.items():
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
            for i, mask in enumerate(prior_masks(config)):
                # Else the decoder, which meets z channel by channel, would see another prior than the encoder.
                if layers[f"prior.{i}"].weight[mask.numpy() == 0].any():
                    raise UnsafeModel(f"layer prior.{i}: a channel of z sees itself or a later one")

    @property
    def halo(self) -> int:
        """Rows above a stage that its first row's activations depend on."""
        return self.config.blocks if self.config.spatial else 0

    def to_bytes(self) -> bytes:
        """The model as a safetensors file; the same model gives the same bytes."""
        tensors: dict[str, NDArray] = {}
        for name, layer in sorted(self.layers.items()):
            tensors[f"{name}.weight"] = layer.weight
            tensors[f"{name}.bias"] = layer.bias
            tensors[f"{name}.scale"] = layer.scale
        header = {
            "vlae_codec_model": json.dumps(
                {"version": MODEL_VERSION, "config": json.loads(self.config.to_json())}, sort_keys=True
            )
        }
        return save_tensors(tensors, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> IntegerModel:
        """Read what `to_bytes` wrote. Runs no code from the file; checks every bound."""
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])["__metadata__"]["vlae_codec_model"]
            meta = json.loads(header)
            version, config_text = meta["version"], json.dumps(meta["config"])
            tensors = load_tensors(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnknownModel(f"not a model of vlae-codec ({type(error).__name__})") from None
        if version != MODEL_VERSION:
            raise UnknownModel(f"model file of version {version}, expected {MODEL_VERSION}")
        config = VLAEConfig.from_json(config_text)
        layers = {}
        for name, (_, _, low, high) in layer_shapes(config).items():
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
        return cls(config, layers)

    @classmethod
    def export(cls, model: VLAE, ranges: dict[str, NDArray[np.float64]]) -> IntegerModel:
        """Integers for a trained model.

        Parameters
        ----------
        model : VLAE
        ranges : dict of str to array
            Largest activation of each input channel of each layer, as `measure_ranges` gives.
        """
        if model.config.posterior != "diagonal":
            raise UnknownModel(
                f"a model with posterior {model.config.posterior} cannot be coded with, expected diagonal: z would "
                "have to be drawn on its grid under a density that a flow gives for real numbers only"
            )
        return cls(model.config, _export_layers(model, ranges))


def model_id(data: bytes) -> bytes:
    """The id of a model file: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(data).digest()[:8]


def layer_shapes(config: VLAEConfig) -> dict[str, tuple[int, int, int, int]]:
    """(outputs, inputs, low, high) of every layer that a configuration has."""
    width = config.channels
    shapes = {}
    if config.taps:
        limits = BINARY_LIMITS if config.image_size else PIXEL_LIMITS
        shapes["decoder.window"] = (width, config.colours * config.taps, *limits)
    for i in range(config.blocks):
        shapes[f"decoder.block{i}.pointwise"] = (width, width, 0, ACTIVATION_MAX)
        fan_in = width * (len(NEIGHBOURS) if config.spatial else 1)
        shapes[f"decoder.block{i}.masked"] = (width, fan_in, 0, MASKED_ACTIVATION_MAX)
    shapes["decoder.head1"] = (width, width, 0, ACTIVATION_MAX)
    shapes["decoder.head2"] = (config.outputs, width, 0, ACTIVATION_MAX)
    z, hidden = config.z_channels, config.z_hidden
    if z and config.prior == "autoregressive":
        shapes["prior.0"] = (hidden, z * (len(prior_offsets(config)) + 1), *Z_LIMITS)
        shapes["prior.1"] = (hidden, hidden, 0, ACTIVATION_MAX)
        shapes["prior.2"] = (2 * z, hidden, 0, ACTIVATION_MAX)
    if z and config.image_size:
        shapes |= _image_shapes(config)
    elif z:
        narrow = max(hidden // 2, 1)
        squares = (VLAEConfig.Z_PATCH // VLAEConfig.FEATURE_PATCH) ** 2
        shapes["encoder.0"] = (narrow, 48, *PIXEL_LIMITS)
        shapes["encoder.1"] = (hidden, 16 * narrow, 0, MASKED_ACTIVATION_MAX)
        shapes["encoder.2"] = (hidden, hidden, 0, ACTIVATION_MAX)
        shapes["encoder.3"] = (2 * z, hidden, 0, ACTIVATION_MAX)
        shapes["features.0"] = (hidden, z, *Z_LIMITS)
        shapes["features.1"] = (width * squares, hidden, 0, ACTIVATION_MAX)
    return shapes


def _image_shapes(config: VLAEConfig) -> dict[str, tuple[int, int, int, int]]:
    """The layers between whole images and z."""
    z, hidden, width, quarter = config.z_channels, config.z_hidden, config.image_width, (config.image_size // 4) ** 2
    plan = {
        "encoder.1": (2 * width, 4 * width), "encoder.2": (NARROW, 2 * width), "encoder.3": (hidden, NARROW * quarter),
        "encoder.4": (2 * z, hidden), "features.1": (NARROW * quarter, hidden), "features.2": (2 * width, NARROW),
        "features.3": (4 * width, 2 * width), "features.4": (4 * config.channels, width),
    }  # fmt: skip
    for name, block in (("encoder.block0", 1), ("encoder.block1", 2), ("features.block0", 2), ("features.block1", 1)):
        plan |= {f"{name}.{i}": (block * width, 9 * block * width) for i in (0, 1)}
    # The larger the fan-in, the smaller the activations, which leaves the weights more.
    shapes = {
        name: (outputs, inputs, 0, ACTIVATION_MAX if inputs <= 256 else MASKED_ACTIVATION_MAX)
        for name, (outputs, inputs) in plan.items()
    }
    return shapes | {"encoder.0": (width, 16, *BINARY_LIMITS), "features.0": (hidden, z, *Z_LIMITS)}


def measure_image_ranges(model: VLAE, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Largest input of each channel of each layer over binary images (N, S, S) of zeros and ones."""
    ranges, observe = _range_observer()
    with torch.no_grad():
        for part in torch.from_numpy(images)[:, None].float().split(256):
            model.image_elbo(part, observe=observe)
    return ranges


def _range_observer() -> tuple[dict[str, NDArray[np.float64]], Observer]:
    ranges: dict[str, NDArray[np.float64]] = {}

    def observe(name: str, activations: Tensor) -> None:
        largest = activations.amax((0, 2, 3)).double().numpy()
        ranges[name] = np.maximum(ranges.get(name, 0.0), largest)

    return ranges, observe


def measure_ranges(model: VLAE, pictures: list[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
    """Largest input of each channel of each layer over crops (H, W, 3) whose sides are multiples of 16."""
    ranges, observe = _range_observer()
    edge = torch.zeros(1)
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float()
            # The edges of the bins do not matter here: only what goes on inside the networks does.
            model.log_likelihood_and_kl(
                x, edge - 1e4 + torch.zeros_like(x), edge + 1e4 + torch.zeros_like(x), observe=observe
            )
    return ranges


def _export_layers(model: VLAE, ranges: dict[str, NDArray[np.float64]]) -> dict[str, IntegerLayer]:
    config, decoder = model.config, model.decoder
    shapes = layer_shapes(config)
    layers: dict[str, IntegerLayer] = {}

    def array(tensor: Any) -> NDArray[np.float64]:
        return tensor.detach().double().cpu().numpy()

    def unit(name: str) -> NDArray[np.float64]:
        """Worth of one step of each input channel; a channel that is always small still gets a sane one."""
        largest = ranges[name]
        # Where training has silenced a whole layer, any unit will do.
        return np.maximum(largest, 1e-3 * (float(largest.max()) or 1.0)) / shapes[name][3]

    def add(
        name: str,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        in_unit: NDArray[np.float64],
        out_unit: NDArray[np.float64],
    ) -> None:
        low, high = shapes[name][2:]
        layers[name] = quantize(weight, bias, in_unit, out_unit, low, high)

    # One unit for each channel of the residual stream, all along its way.
    stops = [f"decoder.block{i}.pointwise" for i in range(config.blocks)] + ["decoder.head1"]
    stream = np.max([unit(name) for name in stops], axis=0)
    if config.taps:
        window = array(decoder.window_weight)
        one = np.full(window.shape[1], 1.0 if config.image_size else 1.0 / PIXEL_UNIT)
        if not config.image_size:
            taps = len(config.window_offsets)
            by_colour = window[:, : 3 * taps].reshape(-1, taps, 3).sum(1)
            window = np.concatenate([window[:, : 3 * taps], window[:, 3 * taps :] - by_colour], 1)
        add("decoder.window", window, array(decoder.window_bias), one, stream)
    for i, block in enumerate(decoder.blocks):
        name = f"decoder.block{i}"
        u = unit(f"{name}.masked")
        add(f"{name}.pointwise", array(block.weight1), array(block.bias1), stream, u)
        repeat = len(NEIGHBOURS) if config.spatial else 1
        add(f"{name}.masked", array(block.weight2), array(block.bias2), np.tile(u, repeat), stream)
    head = unit("decoder.head2")
    add("decoder.head1", array(decoder.head_weight1), array(decoder.head_bias1), stream, head)
    out_unit, bias = _output_units(config, array(decoder.head_bias2))
    add("decoder.head2", array(decoder.head_weight2), bias, head, out_unit)
    if not config.z_channels:
        return layers
    z_unit, mean_unit, std_unit = 1.0 / cdf.Z_STEPS, 1 / (cdf.Z_STEPS * cdf.Z_MEAN_STEPS), 1 / cdf.Z_SCALE_STEPS
    gaussian = np.repeat([mean_unit, std_unit], config.z_channels)
    # The log standard deviations count from the lowest one; the encoder's begin at -1.
    lowest = np.repeat([0.0, cdf.Z_SCALE_LOWEST], config.z_channels)
    start = np.repeat([0.0, -1.0], config.z_channels)
    if config.prior == "autoregressive":
        prior: Any = model.prior
        units = [np.full(shapes["prior.0"][1], z_unit), unit("prior.1"), unit("prior.2")]
        outs = [units[1], units[2], gaussian]
        for i, w in enumerate(prior.masked_weights()):
            add(f"prior.{i}", array(w), array(prior.biases[i]) - (lowest if i == 2 else 0.0), units[i], outs[i])
    encoder: Any = model.encoder
    features: Any = model.features
    if config.image_size:
        quarter = (config.image_size // 4) ** 2

        def blocks(part: str, module: Any, streams: list[NDArray[np.float64]]) -> None:
            for i, (block, out) in enumerate(zip(module.blocks, streams, strict=True)):
                inner = unit(f"{part}.block{i}.1")
                add(f"{part}.block{i}.0", array(block.weight1), array(block.bias1), np.tile(out, 9), inner)
                add(f"{part}.block{i}.1", array(block.weight2), array(block.bias2), np.tile(inner, 9), out)

        # As above: one unit for each channel of a stream, and for each channel of an image that is cut into squares.
        half = np.maximum(unit("encoder.block0.0"), unit("encoder.1").reshape(4, -1).max(0))
        low = np.maximum(unit("encoder.block1.0"), unit("encoder.2"))
        narrow = unit("encoder.3").reshape(quarter, -1).max(0)
        units = [np.ones(16), np.tile(half, 4), low, np.tile(narrow, quarter), unit("encoder.4")]
        outs = [half, low, narrow, units[4], gaussian]
        for i in range(5):
            b = array(encoder.biases[i]) + (start - lowest if i == 4 else 0.0)
            add(f"encoder.{i}", array(encoder.weights[i]), b, units[i], outs[i])
        blocks("encoder", encoder, [half, low])
        low = np.maximum(unit("features.block0.0"), unit("features.3"))
        half = np.maximum(unit("features.block1.0"), unit("features.4"))
        narrow = unit("features.2")
        units = [np.full(config.z_channels, z_unit), unit("features.1"), narrow, low, half]
        outs = [units[1], np.tile(narrow, quarter), low, np.tile(half, 4), np.tile(stream, 4)]
        for i in range(5):
            # Without a window, the decoder's first layer is its bias alone, and that is added here.
            bare = np.tile(array(decoder.window_bias), 4) if i == 4 and not config.taps else 0.0
            add(f"features.{i}", array(features.weights[i]), array(features.biases[i]) + bare, units[i], outs[i])
        blocks("features", features, [low, half])
        return layers
    # The second layer reads sixteen vectors of the first: one unit per channel serves all of them.
    first = unit("encoder.1").reshape(16, -1).max(0)
    units = [np.full(48, 1.0 / PIXEL_UNIT), np.tile(first, 16), unit("encoder.2"), unit("encoder.3")]
    outs = [first, units[2], units[3], gaussian]
    for i in range(4):
        b = array(encoder.biases[i]) + (start - lowest if i == 3 else 0.0)
        add(f"encoder.{i}", array(encoder.weights[i]), b, units[i], outs[i])
    hidden = unit("features.1")
    add("features.0", array(features.weight1), array(features.bias1), np.full(config.z_channels, z_unit), hidden)
    squares = features.squares**2
    zero = np.zeros(config.channels * squares)
    add("features.1", array(features.weight2), zero, hidden, np.tile(stream, squares))
    return layers


def _output_units(config: VLAEConfig, bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a step of each of the decoder's outputs is worth, and the last layer's bias, scales counted from zero."""
    if config.image_size:
        return np.full(1, 1 / cdf.BERNOULLI_STEPS), bias
    k = 3 * config.mixtures
    steps = (cdf.LOGIT_STEPS, cdf.MEAN_STEPS * MEAN_UNIT, cdf.SCALE_STEPS, cdf.COUPLING_STEPS)
    shifted = bias.copy()
    shifted[2 * k : 3 * k] -= cdf.SCALE_LOWEST
    return np.repeat([1 / step for step in steps], k), shifted
