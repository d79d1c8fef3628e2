"""From a training checkpoint to a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.integer import SCALE_MAX, WEIGHT_MAX, IntegerLayer, IntegerModel
from vlae_codec.models.layers import Observer
from vlae_codec.models.plan import EXACT, NEIGHBOURS, PIXEL_UNIT, SEEN_SIDE, SYNTHESIS_BLOCKS, Y_STEPS, output_units
from vlae_codec.models.vlae import VLAE

from vlae_codec.entropy import cdf
from vlae_codec.errors import UnknownModel

from .binary import binarise, load_binary
from .data import load_pictures

#: Crops over which the ranges of activations are measured, and their side in pixels.
CALIBRATION_CROPS, CALIBRATION_SIDE = 200, 128
#: Binary images over which they are.
CALIBRATION_IMAGES = 4000
#: Least range of a channel, as a share of the largest of its layer: the first that needs no scale above `SCALE_MAX`. In
#: a channel that is almost always far below zero, a fine step of what it hardly ever gives would need one.
LEAST = (1e-3, 1e-2, 1e-1)
#: The ranges that a model file keeps lie between.
RANGES = (1e-4, 6e4)


def load_average(path: Path) -> tuple[VLAE, dict]:
    """The float model with averaged weights, and what else the checkpoint says of its training."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = VLAE(VLAEConfig.from_json(state["config"]))
        model.load_state_dict(state["average"])
    except (OSError, UnknownModel):
        raise
    except Exception as error:
        raise UnknownModel(f"{path}: not a checkpoint of vlae-codec ({type(error).__name__})") from None
    return model.eval(), {key: state[key] for key in ("schedule", "step", "seconds")}


def without_z(model: VLAE) -> VLAE:
    """The same decoder as a model of its own, without z."""
    import dataclasses

    bare = VLAE(dataclasses.replace(model.config, z_channels=0))
    bare.decoder.load_state_dict(model.decoder.state_dict())
    return bare.eval()


def export_model(model: VLAE, sources: list[Path]) -> IntegerModel:
    """The integer form of a model, its ranges measured on crops or images spread over the training data."""
    if model.config.image_size:
        images = np.concatenate([load_binary(source, model.config.image_size) for source in sources])
        images = images[:: max(1, len(images) // CALIBRATION_IMAGES)]
        if images.max() > 1:
            images = binarise(images, np.random.default_rng(0))
        torch.manual_seed(0)
        return to_integers(model, measure_binary_ranges(model, images))
    pictures = load_pictures(sources, CALIBRATION_SIDE)
    chosen = pictures[:: max(1, len(pictures) // CALIBRATION_CROPS)]
    torch.manual_seed(0)
    crops = [np.ascontiguousarray(p[:CALIBRATION_SIDE, :CALIBRATION_SIDE]) for p in chosen]
    return to_integers(model, measure_ranges(model, crops))


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


def to_integers(model: VLAE, ranges: dict[str, NDArray[np.float64]]) -> IntegerModel:
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
    layers, least = _export_layers(model, ranges)
    kept = {name: np.clip(_no_less(largest, least), *RANGES).astype(np.float16) for name, largest in ranges.items()}
    return IntegerModel(model.config, layers, kept)


def measure_binary_ranges(model: VLAE, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
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
            model.parts(x, edge - 1e4 + torch.zeros_like(x), edge + 1e4 + torch.zeros_like(x), observe=observe)
    return ranges


def _export_layers(model: VLAE, ranges: dict[str, NDArray[np.float64]]) -> tuple[dict[str, IntegerLayer], float]:
    """The layers, and which of `LEAST` they were made with."""
    for least in LEAST:
        layers = {name: quantize(*floats) for name, floats in float_layers(model, ranges, least).items()}
        if all((layer.scale <= SCALE_MAX).all() for layer in layers.values()):
            break
    return layers, least


def _no_less(largest: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Ranges of a layer's channels, small ones as large as `LEAST` says."""
    # Where training has silenced a whole layer, any will do.
    return np.maximum(largest, least * (float(largest.max()) or 1.0))


class FloatLayer(NamedTuple):
    """What `quantize` makes a layer of; its arguments."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    in_unit: NDArray[np.float64]
    out_unit: NDArray[np.float64]
    low: int
    high: int


def float_layers(model: VLAE, ranges: dict[str, NDArray[np.float64]], least: float = LEAST[0]) -> dict[str, FloatLayer]:
    """A model's layers, in the order and with the meaning that the integers have; see `to_integers` and `LEAST`."""
    config, decoder = model.config, model.decoder
    shapes = plan.layers(config)
    layers: dict[str, FloatLayer] = {}

    def array(tensor: Any) -> NDArray[np.float64]:
        return tensor.detach().double().cpu().numpy()

    def unit(name: str) -> NDArray[np.float64]:
        """Worth of one step of each input channel; a channel that is always small still gets a sane one."""
        return _no_less(ranges[name], least) / shapes[name].high

    def add(
        name: str,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        in_unit: NDArray[np.float64],
        out_unit: NDArray[np.float64],
    ) -> None:
        low, high = shapes[name][2:4]
        layers[name] = FloatLayer(weight, bias, in_unit, out_unit, low, high)

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
        if config.depthwise:
            v = unit(f"{name}.back")
            # Every channel sees its own kind alone, so its unit goes into its weights.
            kinds = array(block.weight2) * u[:, None]
            add(f"{name}.masked", kinds, array(block.bias2), np.ones(kinds.shape[1]), v)
            add(f"{name}.back", array(block.weight3), array(block.bias3), v, stream)
        else:
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
        units = [np.full(shapes["prior.0"].inputs, z_unit), unit("prior.1"), unit("prior.2")]
        outs = [units[1], units[2], gaussian]
        for i, w in enumerate(prior.masked_weights()):
            add(f"prior.{i}", array(w), array(prior.biases[i]) - (lowest if i == 2 else 0.0), units[i], outs[i])
    encoder: Any = model.encoder
    features: Any = model.features

    def blocks(part: str, module: Any, streams: list[NDArray[np.float64]]) -> None:
        for i, (block, out) in enumerate(zip(module.blocks, streams, strict=True)):
            inner = unit(f"{part}.block{i}.1")
            add(f"{part}.block{i}.0", array(block.weight1), array(block.bias1), np.tile(out, 9), inner)
            add(f"{part}.block{i}.1", array(block.weight2), array(block.bias2), np.tile(inner, 9), out)

    if config.image_size:
        quarter = (config.image_size // 4) ** 2
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

    def shared(part: str, first: int, count: int, following: NDArray[np.float64]) -> NDArray[np.float64]:
        """One unit for each channel of a stream, through some blocks and into the layer that follows."""
        return np.max([*(unit(f"{part}.block{first + i}.0") for i in range(count)), following], axis=0)

    def squared(name: str) -> NDArray[np.float64]:
        return unit(name).reshape(4, -1).max(0)

    high, middle = shared("encoder", 0, 2, squared("encoder.1")), shared("encoder", 2, 2, squared("encoder.2"))
    low = shared("encoder", 4, 2, unit("encoder.3"))
    units = [np.full(48, 1.0 / PIXEL_UNIT), np.tile(high, 4), np.tile(middle, 4), low]
    for i, out in enumerate([high, middle, low, gaussian]):
        b = array(encoder.biases[i]) + (start - lowest if i == 3 else 0.0)
        add(f"encoder.{i}", array(encoder.weights[i]), b, units[i], out)
    blocks("encoder", encoder, [high, high, middle, middle, low, low])
    streams, first = [], 0
    for i, count in enumerate(SYNTHESIS_BLOCKS):
        streams.append(shared("features", first, count, unit(f"features.{i + 1}")))
        first += count
    y_unit = 1.0 / (Y_STEPS * PIXEL_UNIT)
    units = [
        np.full(9 * config.z_channels, z_unit), *streams[:3], np.tile(streams[3], 9), streams[3],
        np.full(3 * SEEN_SIDE**2, y_unit),
    ]  # fmt: skip
    outs = [
        streams[0], *(np.tile(each, 4) for each in streams[1:]), np.full(12, y_unit), np.tile(stream, 4), stream,
    ]  # fmt: skip
    for i in range(7):
        add(f"features.{i}", array(features.weights[i]), array(features.biases[i]), units[i], outs[i])
    blocks("features", features, [each for each, n in zip(streams, SYNTHESIS_BLOCKS, strict=True) for _ in range(n)])
    return layers


def _output_units(config: VLAEConfig, bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a step of each of the decoder's outputs is worth, and the last layer's bias, scales counted from zero."""
    if config.image_size:
        return np.full(1, 1 / cdf.BERNOULLI_STEPS), bias
    k = 3 * config.mixtures
    shifted = bias.copy()
    shifted[2 * k : 3 * k] -= cdf.SCALE_LOWEST
    return 1 / output_units(config.mixtures), shifted
