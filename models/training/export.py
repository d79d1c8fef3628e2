"""From a training checkpoint to a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.integer import IntegerModel, measure_image_ranges, measure_ranges
from vlae_codec.models.vlae import VLAE

from vlae_codec.errors import UnknownModel

from .binary import binarise, load_binary
from .data import load_pictures

#: Crops over which the ranges of activations are measured, and their side in pixels.
CALIBRATION_CROPS, CALIBRATION_SIDE = 200, 128
#: Binary images over which they are.
CALIBRATION_IMAGES = 4000


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
        return IntegerModel.export(model, measure_image_ranges(model, images))
    pictures = load_pictures(sources, CALIBRATION_SIDE)
    chosen = pictures[:: max(1, len(pictures) // CALIBRATION_CROPS)]
    torch.manual_seed(0)
    crops = [np.ascontiguousarray(p[:CALIBRATION_SIDE, :CALIBRATION_SIDE]) for p in chosen]
    return IntegerModel.export(model, measure_ranges(model, crops))
