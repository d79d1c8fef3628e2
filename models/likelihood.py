"""Mixture of discretized logistics over the values that occur (PixelCNN++, Salimans et al. 2017, section 2).

The decoder's output holds, for ``K`` components, the blocks named in `LAYOUT`, each of ``K`` channels. Means are
offsets from a gradient predictor; green's depend on red's residual and blue's on both, per component. The three
channels have weights of their own (L3C, Mentzer et al. 2019), so that each is coded by a plain mixture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import MEAN_UNIT

#: Order of the parameter blocks in the decoder's output; the letter names the colour channel.
LAYOUT = (
    "logit_r", "logit_g", "logit_b",
    "mean_r", "mean_g", "mean_b",
    "scale_r", "scale_g", "scale_b",
    "g_from_r", "b_from_r", "b_from_g",
)  # fmt: skip
#: Natural logarithm of the smallest and largest scale, in pixel values.
LOG_SCALE_MIN, LOG_SCALE_MAX = -3.0, 4.5
#: Largest coupling between channels.
COUPLING_MAX = 2.0
#: Stands for infinity as a bin's edge: far outside every scale, and yet its product with a zero gradient is zero.
BEYOND = 1e4
#: Probability that every value keeps, as the 24-bit integer frequencies have a floor of one.
FLOOR = 2.0**-24


def gradient_predictor(x: Tensor) -> Tensor:
    """LOCO-I's predictor: W + N - NW clamped to [min(W, N), max(W, N)] (Weinberger et al. 2000).

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Pixel values.

    Returns
    -------
    Tensor of the same shape and dtype. Outside the picture, W stands in for N in the first row, N for W in the first
    column, and 128 for the first pixel.
    """
    pred = torch.empty_like(x)
    pred[..., 0, 0] = 128
    pred[..., 0, 1:] = x[..., 0, :-1]
    pred[..., 1:, 0] = x[..., :-1, 0]
    west, north, corner = x[..., 1:, :-1], x[..., :-1, 1:], x[..., :-1, :-1]
    low, high = torch.minimum(west, north), torch.maximum(west, north)
    pred[..., 1:, 1:] = torch.minimum(torch.maximum(west + north - corner, low), high)
    return pred


def initial_bias(mixtures: int) -> Tensor:
    """Bias of the decoder's last layer: scales from one to sixteen values, channels coupled. Shape (12 K,)."""
    bias = torch.zeros(12, mixtures)
    bias[6:9] = torch.linspace(0.0, 2.8, mixtures)
    bias[9] = 0.8
    bias[11] = 0.8
    return bias.reshape(-1)


def log_likelihood(params: Tensor, x: Tensor, pred: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log probability of each subpixel in nats.

    Parameters
    ----------
    params : Tensor, shape (B, 12 K, H, W)
        Output of the decoder.
    x, pred : Tensor, shape (B, 3, H, W), float
        Pixel values and their predictions.
    low, high : Tensor, shape (B, 3, H, W), float
        Edges of the bin that holds x, -`BEYOND` and `BEYOND` at the ends.

    Returns
    -------
    Tensor, shape (B, 3, H, W).
    """
    batch, channels, height, width = params.shape
    # unbind rather than indexing: the gradient of an index is a full tensor of zeros, once for every use.
    logits, mean, scale, coupling = params.float().view(batch, 4, 3, channels // 12, height, width).unbind(1)
    residual = x - pred
    g_from_r, b_from_r, b_from_g = coupling.clamp(-COUPLING_MAX, COUPLING_MAX).unbind(1)
    red, green = residual[:, 0:1], residual[:, 1:2]
    shift = torch.stack([torch.zeros_like(g_from_r), g_from_r * red, b_from_r * red + b_from_g * green], 1)
    mean = mean * MEAN_UNIT + shift + pred[:, :, None]
    inverse = torch.exp(-scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX))
    a = (low[:, :, None] - mean) * inverse
    b = (high[:, :, None] - mean) * inverse
    # The difference of two sigmoids loses its digits where both are near one: mirror those to the other side.
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    mass = torch.sigmoid(b) - torch.sigmoid(a)
    weights = torch.softmax(logits, dim=2)
    return torch.log((weights * mass).sum(2) + FLOOR)
