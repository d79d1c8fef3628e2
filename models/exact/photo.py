"""The decoder's network over whole bands of rows by torch, for a GPU: the same integers as `bands` gives."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models import plan
from vlae_codec.models.likelihood import gradient_predictor
from vlae_codec.models.plan import NEIGHBOURS, PIXEL_CENTRE, WIDE_NEIGHBOURS, output_limits

from vlae_codec.errors import UnsafeModel

from .bands import Band, ParallelPass
from .integer import IntegerModel
from .torch_layers import Limit, TorchLayer, exactly


class PhotoNetworks(ParallelPass):
    """The networks of one integer model on one device, all by torch.

    Parameters
    ----------
    model : IntegerModel
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, model: IntegerModel, device: str) -> None:
        super().__init__(model)
        config = self.config
        self.device = torch.device(device)
        stated = plan.layers(config)

        def load(name: str, low: Limit | None = None, high: Limit | None = None) -> TorchLayer:
            low, high = stated[name].out_low if low is None else low, stated[name].out_high if high is None else high
            return TorchLayer(model.layers[name], self.device, low, high)

        self.window = load("decoder.window")
        self.stream_high = stated["decoder.head1"].high
        kinds = ("pointwise", "masked", "back") if config.depthwise else ("pointwise", "masked")
        self.blocks = [[load(f"decoder.block{i}.{kind}") for kind in kinds] for i in range(config.blocks)]
        self.head1 = load("decoder.head1")
        self.head2 = load("decoder.head2", *output_limits(config.mixtures))
        if self.blocks and config.reach == 1 and not self._is_exact():
            raise UnsafeModel(f"device {device} does not sum integers exactly; use --device cpu")

    @exactly
    def _is_exact(self) -> bool:
        """Whether a masked layer gives the sums themselves on this device, on inputs as large as they come.

        The bound on the sums says so for any algorithm that adds up products. This finds the ones that do not.
        """
        generator = torch.Generator().manual_seed(0)
        high = int(self.blocks[0][0].high)
        u = torch.randint(0, high + 1, (9, 34, self.config.channels), generator=generator)
        u[::2, ::3] = high
        taps = [u[1 + dy : 9 + dy, 1 + dx : 33 + dx] for dy, dx in NEIGHBOURS]
        layer = self.blocks[-1][1]
        expected = torch.cat(taps, 2) @ layer.weight.cpu().long().t() + layer.bias.cpu().long()
        got = self._masked_sum(u.float().to(self.device), len(self.blocks) - 1)
        return torch.equal(got.cpu().long(), expected)

    def _masked_sum(self, u: Tensor, index: int) -> Tensor:
        """The masked layer of padded rows (rows + 1, W + 2, C) as one product per neighbour."""
        layer, width = self.blocks[index][1], self.config.channels
        rows, columns = u.shape[0] - 1, u.shape[1] - 2
        out = layer.bias.expand(rows * columns, width).clone()
        for n, (dy, dx) in enumerate(NEIGHBOURS):
            part = u[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns].reshape(-1, width)
            out.addmm_(part, layer.weight[:, n * width : (n + 1) * width].t())
        return out.view(rows, columns, width)

    @exactly
    def _band(self, band: Band, rows: int, above: NDArray[np.int16]) -> NDArray[np.int16]:
        config, y = self.config, band.first
        h = self.window(self._window_rows(band.image, y, y + rows))
        if len(band.features):
            h += torch.from_numpy(band.features).to(self.device).float()
        reach = config.reach
        for i, (pointwise, masked, *back) in enumerate(self.blocks):
            u = pointwise(h.clamp(0, self.stream_high))
            if not reach:
                h += masked(u)
                continue
            padded = F.pad(u, (0, 0, reach, reach, reach, 0))
            padded[:reach] = torch.from_numpy(above[i, ..., : config.inner]).to(self.device)
            above[i, ..., : config.inner] = padded[-reach:].cpu().numpy()
            if back:
                h += back[0](masked.finish(_depthwise_sum(padded, masked)))
            else:
                h += masked.finish(self._masked_sum(padded, i))
        h = h.clamp_(0, self.stream_high)
        if not band.heads:
            return h.to(torch.int16).cpu().numpy()
        out = self.head2.finish(F.linear(self.head1(h), self.head2.weight, self.head2.bias))
        return out.to(torch.int16).cpu().numpy()

    def _window_rows(self, image: NDArray[np.uint8], top: int, bottom: int) -> Tensor:
        """Inputs of the first layer, (rows, W, 3 * taps + 3): the window's pixels and the prediction, less 128."""
        config = self.config
        width = image.shape[1]
        start = max(0, top - config.window_rows)
        rows = torch.from_numpy(image[start:bottom].astype(np.float32)).to(self.device).permute(2, 0, 1)
        # The predictor needs one row above the band; where there is none the picture begins.
        skip = max(top - 1, 0) - start
        pred = gradient_predictor(rows[:, skip:])[:, top - start - skip :] - PIXEL_CENTRE
        padded = F.pad(
            rows - PIXEL_CENTRE,
            (config.window_left, config.window_right, config.window_rows - (top - start), 0),
        )
        count = bottom - top
        taps = [
            padded[:, config.window_rows + dy :, config.window_left + dx :][:, :count, :width]
            for dy, dx in config.window_offsets
        ]
        return torch.cat([*taps, pred]).permute(1, 2, 0).contiguous()


def _depthwise_sum(u: Tensor, layer: TorchLayer) -> Tensor:
    """A depthwise layer's sums over padded rows (rows + 2, W + 4, inner)."""
    rows, columns = u.shape[0] - 2, u.shape[1] - 4
    out = layer.bias.expand(rows, columns, -1).clone()
    for n, (dy, dx) in enumerate(WIDE_NEIGHBOURS):
        # Products and sums are whole numbers below 2^24, so it does not matter whether a device fuses the two.
        out.addcmul_(u[2 + dy : 2 + dy + rows, 2 + dx : 2 + dx + columns], layer.weight[:, n])
    return out
