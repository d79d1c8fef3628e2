"""Every network's layers, shapes and limits, each stated once; floats, integers and export all read them here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_codec.entropy import cdf

from .config import VLAEConfig

#: Neighbours (dy, dx) that a masked layer sees, in the order of its weights: those of a 2x3 kernel less its last.
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0))
#: Neighbours (dy, dx) that a depthwise masked layer sees, in the order of its weights: a 3x5 kernel less its last two.
WIDE_NEIGHBOURS = tuple((dy, dx) for dy in (-2, -1, 0) for dx in range(-2, 3) if dy < 0 or dx <= 0)
#: Residual blocks of the synthesis at a sixteenth, an eighth, a quarter and a half of the picture's side.
SYNTHESIS_BLOCKS = (2, 2, 2, 1)
#: Side of the square of the reconstruction y around a pixel that the local decoder sees.
SEEN_SIDE = 5
#: Pixel values are centred by this and divided by `PIXEL_UNIT` on their way into a network.
PIXEL_CENTRE, PIXEL_UNIT = 128.0, 64.0
#: Pixel values per unit of the decoder's outputs for means; keeps its last layer's weights of one size.
MEAN_UNIT = 8.0
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
#: The same for 3x3 layers of many channels, whose fan-in is larger still.
SPATIAL_ACTIVATION_MAX = 511
#: Limits of pixels less 128, of the index of z on its grid, and of the decoder's outputs by block of the layout.
PIXEL_LIMITS = (-128, 127)
Z_LIMITS = (cdf.Z_MIN, cdf.Z_MIN + cdf.Z_COUNT - 1)
OUTPUT_LIMITS = ((-4096, 4095), (-(1 << 15), (1 << 15) - 1), (0, cdf.SCALE_COUNT - 1), (-512, 511))
#: Limits of a binary image's pixels: -1 and 1, 0 outside.
BINARY_LIMITS = (-1, 1)
#: Limits of a Bernoulli pixel's logit, in units of 1 / `cdf.BERNOULLI_STEPS` nats.
LOGIT_LIMITS = (-1920, 1920)

#: Units of the reconstruction y from z to a pixel value, and the limits of y less 128 in those units.
Y_STEPS = 8
Y_LIMITS = (-128 * Y_STEPS, 128 * Y_STEPS - 1)
#: Limits of either part of the features: kept as 16 bits, their sum still fits.
FEATURE_LIMITS = (-(1 << 14), (1 << 14) - 1)

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
        plan["features.4"] = plan["features.4"]._replace(out_low=Y_LIMITS[0], out_high=Y_LIMITS[1])
        for name in ("features.5", "features.6"):
            plan[name] = plan[name]._replace(out_low=FEATURE_LIMITS[0], out_high=FEATURE_LIMITS[1])
    return plan


def z_widths(config: VLAEConfig) -> tuple[int, int, int, int]:
    """Channels between photographs and z at a sixteenth, an eighth, a quarter and a half of the picture's side."""
    width = config.z_width
    return width, width, max(2 * width // 3, 1), max(width // 3, 1)


def synthesis_widths(config: VLAEConfig) -> list[int]:
    """Channels of each of the synthesis' blocks."""
    return [width for width, n in zip(z_widths(config), SYNTHESIS_BLOCKS, strict=True) for _ in range(n)]


def output_limits(mixtures: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of each of the decoder's outputs for photographs."""
    low, high = np.array(OUTPUT_LIMITS, np.float32).T
    return np.repeat(low, 3 * mixtures), np.repeat(high, 3 * mixtures)


def output_units(mixtures: int) -> NDArray[np.float64]:
    """Integer units of each of the decoder's outputs for photographs in one of the likelihood's."""
    steps = (cdf.LOGIT_STEPS, cdf.MEAN_STEPS * MEAN_UNIT, cdf.SCALE_STEPS, cdf.COUPLING_STEPS)
    return np.repeat(np.array(steps, np.float64), 3 * mixtures)


def _decoder(config: VLAEConfig) -> dict[str, _Stated]:
    width, dense, masked = config.channels, (0, ACTIVATION_MAX), (0, MASKED_ACTIVATION_MAX)
    seen = len(NEIGHBOURS) if config.spatial else 1
    stated: dict[str, _Stated] = {}
    if config.taps:
        pixels = BINARY_LIMITS if config.image_size else PIXEL_LIMITS
        stated["decoder.window"] = (width, config.colours * config.taps, pixels, STREAM)
    for i in range(config.blocks):
        name = f"decoder.block{i}"
        if config.depthwise:
            # A masked channel sees twelve places of its own kind alone.
            stated[f"{name}.pointwise"] = (2 * width, width, dense, f"{name}.masked")
            stated[f"{name}.masked"] = (2 * width, len(WIDE_NEIGHBOURS), dense, f"{name}.back")
            stated[f"{name}.back"] = (width, 2 * width, dense, STREAM)
        else:
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


def _block(name: str, inner: _Stated) -> dict[str, _Stated]:
    """A block of two layers of one shape, whose second adds to the stream."""
    return {f"{name}.0": (*inner[:3], f"{name}.1"), f"{name}.1": (*inner[:3], STREAM)}


def _between_patches_and_z(config: VLAEConfig) -> dict[str, _Stated]:
    """A photograph's encoder and synthesis."""
    z, spatial = config.z_channels, (0, SPATIAL_ACTIVATION_MAX)
    low, middle, high, half = z_widths(config)
    stated: dict[str, _Stated] = {
        "encoder.0": (high, 48, PIXEL_LIMITS, STREAM),
        "encoder.1": (middle, 4 * high, spatial, STREAM),
        "encoder.2": (low, 4 * middle, spatial, STREAM),
        "encoder.3": (2 * z, low, spatial, OUT),
        "features.0": (low, 9 * z, Z_LIMITS, STREAM),
        "features.1": (4 * middle, low, spatial, STREAM),
        "features.2": (4 * high, middle, spatial, STREAM),
        "features.3": (4 * half, high, spatial, STREAM),
        "features.4": (12, 9 * half, spatial, OUT),
        "features.5": (4 * config.channels, half, spatial, OUT),
        "features.6": (config.channels, 3 * SEEN_SIDE**2, Y_LIMITS, OUT),
    }
    for part, widths in (("encoder", (high, high, middle, middle, low, low)), ("features", synthesis_widths(config))):
        for i, width in enumerate(widths):
            stated |= _block(f"{part}.block{i}", (width, 9 * width, spatial, STREAM))
    return stated


def _between_images_and_z(config: VLAEConfig) -> dict[str, _Stated]:
    """A binary image's encoder and features."""
    z, hidden, width, quarter = config.z_channels, config.z_hidden, config.image_width, (config.image_size // 4) ** 2

    def dense(outputs: int, inputs: int, following: str) -> _Stated:
        # The larger the fan-in, the smaller the activations, which leaves the weights more.
        high = ACTIVATION_MAX if inputs <= 256 else MASKED_ACTIVATION_MAX
        return outputs, inputs, (0, high), following

    return {
        "encoder.0": (width, 16, BINARY_LIMITS, STREAM),
        **_block("encoder.block0", dense(width, 9 * width, STREAM)),
        "encoder.1": dense(2 * width, 4 * width, STREAM),
        **_block("encoder.block1", dense(2 * width, 18 * width, STREAM)),
        "encoder.2": dense(NARROW, 2 * width, "encoder.3"),
        "encoder.3": dense(hidden, NARROW * quarter, "encoder.4"),
        "encoder.4": dense(2 * z, hidden, OUT),
        "features.0": (hidden, z, Z_LIMITS, "features.1"),
        "features.1": dense(NARROW * quarter, hidden, "features.2"),
        "features.2": dense(2 * width, NARROW, STREAM),
        **_block("features.block0", dense(2 * width, 18 * width, STREAM)),
        "features.3": dense(4 * width, 2 * width, STREAM),
        **_block("features.block1", dense(width, 9 * width, STREAM)),
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
    groups = config.z_groups or z
    group, channel = np.arange(width) // (width // groups), np.arange(z) // (z // groups)
    masks = [
        np.hstack([np.ones((width, z * len(prior_offsets(config)))), channel[None, :] < group[:, None]]),
        group[None, :] <= group[:, None],
        np.tile(group[None, :] <= channel[:, None], (2, 1)),
    ]
    return [mask.astype(np.float32) for mask in masks]
