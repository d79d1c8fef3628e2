"""The local decoder p(x | z, window): a PixelCNN whose every pixel sees a limited window and the features of z."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VLAEConfig
from .depthwise import LANES, RectifiedDepthwise
from .layers import Observer, ignore, weight
from .likelihood import initial_bias
from .plan import NEIGHBOURS, PIXEL_CENTRE, PIXEL_UNIT, WIDE_NEIGHBOURS


def _pointwise(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 layer of float32, for which one thread has no fast convolution; channels last."""
    return F.linear(x.permute(0, 2, 3, 1), weights, bias).permute(0, 3, 1, 2)


class MaskedBlock(nn.Module):
    """relu, 1x1 layer, relu, then a masked layer over `NEIGHBOURS` (or 1x1), added to the stream."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        width = config.channels
        self.spatial = config.spatial
        self.weight1 = weight(width, width)
        self.bias1 = nn.Parameter(torch.zeros(width))
        # The branch begins at zero, so that a deep stack trains like a shallow one at first.
        self.weight2 = weight(width, width * (len(NEIGHBOURS) if config.spatial else 1), gain=0.0)
        self.bias2 = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, name: str = "", observe: Observer = ignore) -> Tensor:
        """Map the stream (B, C, H, W) to the next."""
        width = h.shape[1]
        a = F.relu(h)
        observe(f"{name}.pointwise", a)
        u = F.relu(F.conv2d(a, self.weight1[:, :, None, None], self.bias1))
        observe(f"{name}.masked", u)
        if not self.spatial:
            return h + F.conv2d(u, self.weight2[:, :, None, None], self.bias2)
        # Rows of weight2 run over (neighbour, channel). The kernel's last four places stay zero: a 2x3 kernel does
        # less, but needs copies on the way in and out, and those cost more.
        kernel = F.pad(self.weight2, (0, 4 * width)).view(width, 3, 3, width).permute(0, 3, 1, 2)
        return h + F.conv2d(u, kernel, self.bias2, padding=1)


class DepthwiseBlock(nn.Module):
    """relu, 1x1 layer to twice the channels, relu, a depthwise masked layer, relu, 1x1 layer, added to the stream."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        width = config.channels
        self.weight1 = weight(2 * width, width)
        self.bias1 = nn.Parameter(torch.zeros(2 * width))
        self.weight2 = weight(2 * width, len(WIDE_NEIGHBOURS))
        self.bias2 = nn.Parameter(torch.zeros(2 * width))
        self.weight3 = weight(width, 2 * width, gain=0.0)
        self.bias3 = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, name: str = "", observe: Observer = ignore) -> Tensor:
        """Map the stream (B, C, H, W) to the next."""
        a = F.relu(h)
        observe(f"{name}.pointwise", a)
        p = F.conv2d(a, self.weight1[:, :, None, None], self.bias1)
        if observe is ignore and p.dtype == torch.bfloat16 and p.device.type == "cpu" and p.shape[1] % LANES == 0:
            v = cast(Tensor, RectifiedDepthwise.apply(p, self.weight2, self.bias2))
        else:
            u = F.relu(p)
            observe(f"{name}.masked", u)
            kernel = F.pad(self.weight2, (0, 2)).view(-1, 1, 3, 5)
            v = F.relu(F.conv2d(F.pad(u, (2, 2, 2, 0)), kernel, self.bias2, groups=len(kernel)))
            observe(f"{name}.back", v)
        return h + F.conv2d(v, self.weight3[:, :, None, None], self.bias3)


class LocalDecoder(nn.Module):
    """From pixels and features to mixture parameters, each from its window only."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        # Rows run over (tap, colour), then the prediction's three colours where there is one.
        self.window_weight = weight(width, config.colours * config.taps)
        self.window_bias = nn.Parameter(torch.zeros(width))
        block = DepthwiseBlock if config.depthwise else MaskedBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.blocks))
        self.head_weight1 = weight(width, width)
        self.head_bias1 = nn.Parameter(torch.zeros(width))
        self.head_weight2 = weight(config.outputs, width, gain=0.02)
        self.head_bias2 = nn.Parameter(torch.zeros(1) if config.image_size else initial_bias(config.mixtures))

    def window_kernel(self) -> Tensor:
        """The first layer's weights as a convolution kernel (C, colours, rows + 1, left + right + 1)."""
        config = self.config
        width, columns = config.channels, config.window_left + config.window_right + 1
        places = (config.window_rows + 1) * columns
        taps, colours = len(config.window_offsets), config.colours
        flat = F.pad(self.window_weight[:, : colours * taps], (0, colours * (places - taps)))
        return flat.view(width, config.window_rows + 1, columns, colours).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, pred: Tensor | None, features: Tensor | None, observe: Observer = ignore) -> Tensor:
        """Likelihood parameters of every pixel.

        Parameters
        ----------
        x, pred : Tensor, shape (B, 3, H, W), float
            Pixel values 0..255 and their predictions; for binary images x is (B, 1, H, W), -1 and 1, or 0 where the
            pixel is kept from the decoder, and pred is None.
        features : Tensor, shape (B, channels, H, W), or None
            What z says of each pixel; None for a decoder without z.

        Returns
        -------
        Tensor, shape (B, outputs, H, W), laid out as `likelihood.LAYOUT`.
        """
        config = self.config
        taps = len(config.window_offsets)
        if pred is not None:
            x = (x - PIXEL_CENTRE) / PIXEL_UNIT
        x = x.contiguous(memory_format=torch.channels_last)
        padded = F.pad(x, (config.window_left, config.window_right, config.window_rows, 0))
        with torch.autocast(x.device.type, enabled=False):
            if config.taps:
                h = F.conv2d(padded, self.window_kernel(), self.window_bias)
            else:
                h = self.window_bias[None, :, None, None].expand(len(x), -1, *x.shape[2:])
            if pred is not None:
                # The window holds differences from the prediction: subtract it under the sum of each colour's weights.
                by_colour = self.window_weight[:, : 3 * taps].view(-1, taps, 3).sum(1)
                absolute = self.window_weight[:, 3 * taps :]
                h = h + _pointwise((pred - PIXEL_CENTRE) / PIXEL_UNIT, absolute - by_colour)
            if features is not None:
                h = h + features
        if torch.is_autocast_enabled(x.device.type):
            h = h.to(torch.get_autocast_dtype(x.device.type))
        for i, block in enumerate(self.blocks):
            h = block(h, f"decoder.block{i}", observe)
        a = F.relu(h)
        observe("decoder.head1", a)
        h = F.relu(F.conv2d(a, self.head_weight1[:, :, None, None], self.head_bias1))
        observe("decoder.head2", h)
        with torch.autocast(x.device.type, enabled=False):
            # The likelihood takes planes faster.
            return _pointwise(h.float(), self.head_weight2, self.head_bias2).contiguous()
