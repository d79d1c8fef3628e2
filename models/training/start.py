"""From a model file back to a float model, so that training can go on from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.vlae import VLAE

from vlae_codec.errors import UnknownModel

from .export import FloatLayer, float_layers, measure_binary_ranges, measure_ranges
from .loop import FOR_DECODER

#: Largest activation of every channel in the float model, where the file does not say what it was: any would give the
#: same function, but not the same steps of training. In trained decoders it is 2 to 6 for most.
RANGE = 4.0


def to_floats(integers: IntegerModel) -> VLAE:
    """The float model that computes what an integer model does, up to the rounding of its activations.

    Each entry of a float layer is a parameter times a constant, plus other parameters and a constant, as `float_layers`
    says. It is asked which, and the parameters are solved for one after the other. So what it says is stated once.

    Raises
    ------
    UnknownModel
        If no parameters give these layers, or the ranges are not those of this configuration.
    """
    model = VLAE(integers.config).double()
    ranges = _ranges(integers)
    layers = float_layers(model, ranges)
    wanted = _flat({name: _dequantized(integers, name, layer) for name, layer in layers.items()})
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    solved, known = np.zeros(sum(sizes)), np.zeros(sum(sizes), np.bool_)

    def entries(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """All layers' weights and biases, for all parameters in one row."""
        with torch.no_grad():
            for parameter, part in zip(parameters, torch.from_numpy(values).split(sizes), strict=True):
                parameter.copy_(part.view_as(parameter))
        return _flat({name: (layer.weight, layer.bias) for name, layer in float_layers(model, ranges).items()})

    nothing = entries(np.zeros_like(solved))
    places = np.arange(1.0, len(solved) + 1)
    while True:
        # How each entry depends on the parameters that are not known yet: on their sum, on their places, and on the
        # squares of those. Of an entry with one such parameter these three are a, a p and a p^2.
        factor, once, twice = (
            entries(np.where(known, 0.0, values)) - nothing for values in (np.ones_like(places), places, places**2)
        )
        live = np.abs(once) > 0
        if not live.any():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            place = once / factor
            one = np.isclose(place, np.rint(place), 1e-9, 0) & np.isclose(twice, once * place, 1e-9, 0)
        alone = np.flatnonzero(live & one)
        if not alone.size:
            # Two parameters that always come together: the first tensor that has one stays zero.
            ends = np.cumsum(sizes)
            tensor = next(i for i, end in enumerate(ends) if not known[end - sizes[i] : end].all())
            known[ends[tensor] - sizes[tensor] : ends[tensor]] = True
            continue
        index = np.rint(place[alone]).astype(np.int64) - 1
        solved[index] = (wanted - entries(solved))[alone] / factor[alone]
        known[index] = True
    unlike = np.abs(entries(solved) - wanted) > 0.51 * _flat(
        {name: _steps(integers, name, layer) for name, layer in layers.items()}
    )
    if unlike.any():
        raise UnknownModel(f"{int(unlike.sum())} of the model's weights are none that training can give")
    return model.float()


def with_decoder(model: VLAE, other: VLAE) -> VLAE:
    """A model for photographs whose local decoder is another's, and sees nothing of z as yet.

    Raises
    ------
    UnknownModel
        If the decoders are of different shapes, or the first model has no z.
    """
    shapes = [{name: tuple(p.shape) for name, p in each.decoder.named_parameters()} for each in (model, other)]
    if shapes[0] != shapes[1] or model.config.window_offsets != other.config.window_offsets:
        raise UnknownModel("the decoder to begin from has another shape than the model's")
    if not model.config.z_channels or model.config.image_size:
        raise UnknownModel("the decoder to begin from is for a model of photographs with a z, and this is none")
    model.decoder.load_state_dict(other.decoder.state_dict())
    with torch.no_grad():
        for name in FOR_DECODER:
            model.features.get_parameter(name).zero_()
    return model


def with_blocks(model: VLAE, blocks: int) -> VLAE:
    """A model of at least so many blocks: those that are new come last and change nothing as yet."""
    if blocks <= model.config.blocks:
        return model
    deeper = VLAE(dataclasses.replace(model.config, blocks=blocks))
    deeper.load_state_dict(deeper.state_dict() | model.state_dict())
    return deeper


def _ranges(integers: IntegerModel) -> dict[str, NDArray[np.float64]]:
    """The ranges that the model file keeps, or else `RANGE` for every channel."""
    config = integers.config
    model = VLAE(config)
    if config.image_size:
        measured = measure_binary_ranges(model, np.zeros((1, config.image_size, config.image_size), np.uint8))
    else:
        side = 4 * VLAEConfig.Z_PATCH
        measured = measure_ranges(model, [np.zeros((side, side, 3), np.uint8)])
    if not integers.ranges:
        return {name: np.full(largest.shape, RANGE) for name, largest in measured.items()}
    found = {name: each.astype(np.float64) for name, each in integers.ranges.items()}
    if {name: each.shape for name, each in found.items()} != {name: each.shape for name, each in measured.items()}:
        raise UnknownModel("the ranges of activations in the model file are not those of its configuration")
    if not all(((each > 0) & np.isfinite(each)).all() for each in found.values()):
        raise UnknownModel("a range of activations in the model file is not above zero")
    return found


def _steps(integers: IntegerModel, name: str, layer: FloatLayer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one step of each of a layer's integer weights and biases is worth."""
    unit = integers.layers[name].scale * layer.out_unit
    return unit[:, None] / layer.in_unit, unit


def _dequantized(
    integers: IntegerModel, name: str, layer: FloatLayer
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The inverse of `export.quantize`."""
    weights, biases = _steps(integers, name, layer)
    given = integers.layers[name]
    return given.weight * weights, given.bias * biases - 0.5 * layer.out_unit


def _flat(layers: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    return np.concatenate([part.ravel() for layer in layers.values() for part in layer])
