"""Every network's layers, shapes and limits, each stated once; floats, integers and export all read them here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf

from .config import VLAEConfig

#: Neighbours (dy, dx) that a masked layer sees, in the order of its weights: those of a 2x3 kernel less its last.
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0))
#: Pixel values are centred by this and divided by `PIXEL_UNIT` on their way into a network.
PIXEL_CENTRE, PIXEL_UNIT = 128.0, 64.0
#: Channels at a quarter of a binary image's side, where the dense layers begin and end.
NARROW = 16
#: Limits of the posterior's mean and of the natural logarithm of its standard deviation.
MEAN_MAX, LOG_STD_MIN, LOG_STD_MAX = 7.0, -2.5, 1.0
#: The same of the prior.
PRIOR_MEAN_MAX, PRIOR_LOG_STD_MIN, PRIOR_LOG_STD_MAX = 7.0, -3.0, 2.0

#: Integers of at most this size are exact in float32, and so are their sums as long as those stay below it.
EXACT = 1 << 24
#: Limits of what the residual stream gains from the window, from the features, and from each block.
STREAM_LIMIT = 1 << 15
#: Largest activation after relu, by the kind of layer that it goes into. The masked layers have five times the
#: fan-in, so they take a bit less, which leaves their weights a bit more.
ACTIVATION_MAX = 2047
MASKED_ACTIVATION_MAX = 1023
#: Limits of pixels less 128, of the index of z on its grid, and of the decoder's outputs by block of the layout.
PIXEL_LIMITS = (-128, 127)
Z_LIMITS = (cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
OUTPUT_LIMITS = ((-4096, 4095), (-(1 << 15), (1 << 15) - 1), (0, cdf.SCALE_COUNT - 1), (-512, 511))
#: Limits of a binary image's pixels: -1 and 1, 0 outside.
BINARY_LIMITS = (-1, 1)
#: Limits of a Bernoulli pixel's logit, in units of 1 / `cdf.BERNOULLI_STEPS` nats.
LOGIT_LIMITS = (-1920, 1920)

#: Where outputs go that no layer follows: onto a stream, or out of the network as they are.
STREAM, OUT = "stream", "out"
_FREE = {STREAM: (-STREAM_LIMIT, STREAM_LIMIT), OUT: (-EXACT, EXACT)}


class Layer(NamedTuple):
    """What a linear layer is: ``outputs`` x ``inputs`` weights, and the limits to which both are clamped."""

    outputs: int
    inputs: int
    low: int
    high: int
    out_low: int
    out_high: int


class _Limits(NamedTuple):
    """Limits of a Gaussian's integer mean (both ways) and of the index of its scale."""

    mean: int
    scale: tuple[int, int]


def _gaussian_limits(mean: float, low: float, high: float) -> _Limits:
    scale = tuple(int((value - cdf.Z_SCALE_LOWEST) * cdf.Z_SCALE_STEPS) for value in (low, high))
    return _Limits(int(mean * cdf.Z_STEPS * cdf.Z_MEAN_STEPS), (scale[0], scale[1]))


#: Limits of the posterior's and the prior's integer outputs: those of the float model in the units of the integers.
POSTERIOR = _gaussian_limits(MEAN_MAX, LOG_STD_MIN, LOG_STD_MAX)
PRIOR = _gaussian_limits(PRIOR_MEAN_MAX, PRIOR_LOG_STD_MIN, PRIOR_LOG_STD_MAX)

#: A layer as the plan states it: outputs, inputs, limits of the inputs, and the layer that its outputs go into.
_Stated = tuple[int, int, tuple[int, int], str]


def layers(config: VLAEConfig) -> dict[str, Layer]:
    """Every layer that a configuration has, by name."""
    stated = _decoder(config)
    if config.z_channels:
        stated |= _prior(config) | (
            _between_images_and_z(config) if config.image_size else _between_patches_and_z(config)
        )
    plan = {}
    for name, (outputs, inputs, limits, following) in stated.items():
        after = _FREE[following] if following in _FREE else (0, stated[following][2][1])
        plan[name] = Layer(outputs, inputs, *limits, *after)
    if config.image_size:
        plan["decoder.head2"] = plan["decoder.head2"]._replace(out_low=LOGIT_LIMITS[0], out_high=LOGIT_LIMITS[1])
    elif config.z_channels:
        # Features are kept in 16 bits.
        plan["features.1"] = plan["features.1"]._replace(out_high=STREAM_LIMIT - 1)
    return plan


def output_limits(mixtures: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of each of the decoder's outputs for photographs."""
    low, high = np.array(OUTPUT_LIMITS, np.float32).T
    return np.repeat(low, 3 * mixtures), np.repeat(high, 3 * mixtures)


def _decoder(config: VLAEConfig) -> dict[str, _Stated]:
    width, dense, masked = config.channels, (0, ACTIVATION_MAX), (0, MASKED_ACTIVATION_MAX)
    seen = len(NEIGHBOURS) if config.spatial else 1
    stated: dict[str, _Stated] = {}
    if config.taps:
        pixels = BINARY_LIMITS if config.image_size else PIXEL_LIMITS
        stated["decoder.window"] = (width, config.colours * config.taps, pixels, STREAM)
    for i in range(config.blocks):
        name = f"decoder.block{i}"
        stated[f"{name}.pointwise"] = (width, width, dense, f"{name}.masked")
        stated[f"{name}.masked"] = (width, width * seen, masked, STREAM)
    stated["decoder.head1"] = (width, width, dense, "decoder.head2")
    stated["decoder.head2"] = (config.outputs, width, dense, OUT)
    return stated


def _prior(config: VLAEConfig) -> dict[str, _Stated]:
    if config.prior != "autoregressive":
        return {}
    z, hidden, dense = config.z_channels, config.z_hidden, (0, ACTIVATION_MAX)
    return {
        "prior.0": (hidden, z * (len(prior_offsets(config)) + 1), Z_LIMITS, "prior.1"),
        "prior.1": (hidden, hidden, dense, "prior.2"),
        "prior.2": (2 * z, hidden, dense, OUT),
    }


def _between_patches_and_z(config: VLAEConfig) -> dict[str, _Stated]:
    """A photograph's encoder and features."""
    z, hidden, dense = config.z_channels, config.z_hidden, (0, ACTIVATION_MAX)
    fine, squares = VLAEConfig.FEATURE_PATCH**2, (VLAEConfig.Z_PATCH // VLAEConfig.FEATURE_PATCH) ** 2
    narrow = max(hidden // 2, 1)
    return {
        "encoder.0": (narrow, 3 * fine, PIXEL_LIMITS, "encoder.1"),
        "encoder.1": (hidden, squares * narrow, (0, MASKED_ACTIVATION_MAX), "encoder.2"),
        "encoder.2": (hidden, hidden, dense, "encoder.3"),
        "encoder.3": (2 * z, hidden, dense, OUT),
        "features.0": (hidden, z, Z_LIMITS, "features.1"),
        "features.1": (config.channels * squares, hidden, dense, STREAM),
    }


def _between_images_and_z(config: VLAEConfig) -> dict[str, _Stated]:
    """A binary image's encoder and features."""
    z, hidden, width, quarter = config.z_channels, config.z_hidden, config.image_width, (config.image_size // 4) ** 2

    def dense(outputs: int, inputs: int, following: str) -> _Stated:
        # The larger the fan-in, the smaller the activations, which leaves the weights more.
        high = ACTIVATION_MAX if inputs <= 256 else MASKED_ACTIVATION_MAX
        return outputs, inputs, (0, high), following

    def block(name: str, channels: int) -> dict[str, _Stated]:
        inner = dense(channels, 9 * channels, f"{name}.1")
        return {f"{name}.0": inner, f"{name}.1": (*inner[:3], STREAM)}

    return {
        "encoder.0": (width, 16, BINARY_LIMITS, STREAM),
        **block("encoder.block0", width),
        "encoder.1": dense(2 * width, 4 * width, STREAM),
        **block("encoder.block1", 2 * width),
        "encoder.2": dense(NARROW, 2 * width, "encoder.3"),
        "encoder.3": dense(hidden, NARROW * quarter, "encoder.4"),
        "encoder.4": dense(2 * z, hidden, OUT),
        "features.0": (hidden, z, Z_LIMITS, "features.1"),
        "features.1": dense(NARROW * quarter, hidden, "features.2"),
        "features.2": dense(2 * width, NARROW, STREAM),
        **block("features.block0", 2 * width),
        "features.3": dense(4 * width, 2 * width, STREAM),
        **block("features.block1", width),
        "features.4": dense(4 * config.channels, width, STREAM),
    }


def prior_offsets(config: VLAEConfig) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the prior's window on the grid of z, in raster order; none where z is one vector."""
    if config.image_size:
        return []
    reach = VLAEConfig.Z_WINDOW
    above = [(dy, dx) for dy in range(-reach, 0) for dx in range(-reach, reach + 1)]
    return above + [(0, dx) for dx in range(-reach, 0)]


def prior_masks(config: VLAEConfig) -> list[NDArray[np.float32]]:
    """Ones where the prior's three layers may have weights: a channel sees the context and the channels before it."""
    z, width = config.z_channels, config.z_hidden
    group, channel = np.arange(width) // (width // z), np.arange(z)
    masks = [
        np.hstack([np.ones((width, z * len(prior_offsets(config)))), channel[None, :] < group[:, None]]),
        group[None, :] <= group[:, None],
        np.tile(group[None, :] <= channel[:, None], (2, 1)),
    ]
    return [mask.astype(np.float32) for mask in masks]
