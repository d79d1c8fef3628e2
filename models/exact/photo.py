"""The integer model's parallel pass: whole bands of rows, stage by stage, on a CPU or a GPU.

`loops` also holds the step-by-step pass for decoding. All give the same integers, as every sum is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models import plan
from vlae_codec.models.likelihood import gradient_predictor
from vlae_codec.models.plan import NEIGHBOURS, PIXEL_CENTRE, WIDE_NEIGHBOURS, output_limits

from vlae_codec.errors import UnsafeModel

from . import loops
from .integer import IntegerModel
from .loops import network_arrays
from .torch_layers import Limit, TorchLayer, exactly

#: Pixels that go through the network together: enough to keep the matrix units busy, few enough for the cache.
BAND_PIXELS = 8192


class PhotoNetworks:
    """The networks of one integer model on one device.

    Parameters
    ----------
    model : IntegerModel
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, model: IntegerModel, device: str = "cpu") -> None:
        self.model = model
        self.config = config = model.config
        #: What does all that lies between a band's products: ``compiled`` loops, or ``torch`` itself.
        self.backend = "compiled" if device == "cpu" else "torch"
        self.arrays = network_arrays(model)
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
        self.convolutions: list[Tensor] = []
        dense = bool(self.blocks) and config.reach == 1
        if dense and self.backend == "compiled" and torch.backends.mkldnn.is_available():
            self.convolutions = [self._kernel(masked.weight) for _, masked in self.blocks]
            if not self._is_exact(self._masked_convolution):
                self.convolutions = []
        if dense and not self._is_exact(self._masked_sum):
            raise UnsafeModel(f"device {device} does not sum integers exactly; use --device cpu")

    @exactly
    def _is_exact(self, product: Callable[[Tensor, int], Tensor]) -> bool:
        """Whether a masked layer gives the sums themselves on this device, on inputs as large as they come.

        The bound on the sums says so for any algorithm that adds up products. This finds the ones that do not, such
        as Winograd's convolution.
        """
        generator = torch.Generator().manual_seed(0)
        high = int(self.blocks[0][0].high)
        u = torch.randint(0, high + 1, (9, 34, self.config.channels), generator=generator)
        u[::2, ::3] = high
        taps = [u[1 + dy : 9 + dy, 1 + dx : 33 + dx] for dy, dx in NEIGHBOURS]
        layer = self.blocks[-1][1]
        expected = torch.cat(taps, 2) @ layer.weight.cpu().long().t() + layer.bias.cpu().long()
        got = product(u.float().to(self.device), len(self.blocks) - 1)
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

    def bands(
        self, image: NDArray[np.uint8], top: int, bottom: int, features: NDArray[np.int16] | None,
        boundary: NDArray[np.float32] | None = None, heads: bool = True,
    ) -> Iterator[tuple[int, NDArray[np.int16]]]:  # fmt: skip
        """Mixture parameters of a stage's pixels, or the inputs of the two layers that give them, band after band.

        The rows above the stage that its first rows depend on are passed again, without features: a stage knows its
        own z only.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3)
            Rows below ``bottom`` are not looked at.
        top, bottom : int
            The stage's rows.
        features : array of int16, shape (bottom - top, W, channels), or None
        boundary : array of float32, shape (blocks, reach, W + 2 * reach, inner), optional
            Receives the masked layers' inputs in the rows above the stage, zero where there are none. With
            ``top == bottom`` this is all that is computed.
        heads : bool
            False: leave out the last two layers.

        Yields
        ------
        First row of the band, and an array of int16, shape (rows, W, 12 K), or (rows, W, channels) without the heads.
        """
        config = self.config
        width = image.shape[1]
        halo = self.model.halo
        band = max(1, BAND_PIXELS // width)
        compute = self._compiled_band if self.backend == "compiled" else self._band
        above = np.zeros((config.blocks, config.reach, width + 2 * config.reach, config.inner), np.float32)
        if boundary is not None:
            boundary[:] = 0
        y = max(0, top - halo)
        while y < bottom or (y < top and boundary is not None):
            end = min(y + band, top) if y < top else min(y + band, bottom)
            given = compute(image, y, end, top, features, above, heads)
            if y >= top:
                yield y, given
            y = end
            if y == top and boundary is not None:
                boundary[:] = above

    @exactly
    def _compiled_band(
        self, image: NDArray[np.uint8], y: int, end: int, top: int, features: NDArray[np.int16] | None,
        above: NDArray[np.float32], heads: bool,
    ) -> NDArray[np.int16]:  # fmt: skip
        """`_band` on a CPU: torch for the products, and compiled loops that pass over the memory once between them."""
        config, width, channels, reach = self.config, image.shape[1], self.config.channels, self.config.reach
        rows = end - y
        limits = self.arrays.limits
        inputs = np.empty((rows, width, self.window.weight.shape[1]), np.float32)
        loops.window_band(image, y, self.arrays.offsets, inputs)
        if features is None or y < top:
            features = np.zeros((0, 0, channels), np.int16)
        stream, active = np.empty((2, rows, width, channels), np.float32)
        loops.begin_band(
            self._pointwise(self.window, inputs), self.window.scale_array, limits, features, y - top, stream, active
        )
        inside = np.empty((rows, width, config.inner), np.float32)
        for i, (pointwise, masked, *back) in enumerate(self.blocks):
            last = back[0] if back else masked
            acc = self._pointwise(pointwise, active)
            if reach:
                padded = np.zeros((rows + reach, width + 2 * reach, config.inner), np.float32)
                padded[:reach] = above[i]
                loops.finish_activations(acc, pointwise.scale_array, limits[1], padded[reach:, reach:-reach])
                above[i] = padded[-reach:]
            else:
                loops.finish_activations(acc, pointwise.scale_array, limits[1], inside)
            if back:
                taps, affine = self.arrays.depthwise[i], self.arrays.depthwise_affine[i]
                loops.depthwise_band(padded, taps, affine[1], affine[0], limits[4], inside)
            if reach == 1:
                product = self._masked_convolution if self.convolutions else self._masked_sum
                acc = product(torch.from_numpy(padded), i).numpy()
            else:
                acc = self._pointwise(last, inside)
            loops.finish_block(acc, last.scale_array, limits, stream, active)
        if not heads:
            return active.astype(np.int16)
        acc = self._pointwise(self.head1, active)
        loops.finish_activations(acc, self.head1.scale_array, limits[2], active)
        params = np.empty((rows, width, config.outputs), np.int16)
        low, high = output_limits(config.mixtures)
        loops.finish_outputs(self._pointwise(self.head2, active), self.head2.scale_array, low, high, params)
        return params

    def _pointwise(self, layer: TorchLayer, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums of a 1x1 layer on (rows, W, inputs): a convolution, where that is exact, beats the plain product."""
        tensor = torch.from_numpy(rows)
        if self.convolutions:
            # Batch first, then permute: with another stride of the batch, torch would not see that channels are last.
            out = F.conv2d(tensor[None].permute(0, 3, 1, 2), layer.weight[:, :, None, None], layer.bias)
            return out[0].permute(1, 2, 0).contiguous().numpy()
        return F.linear(tensor, layer.weight, layer.bias).numpy()

    def _kernel(self, weight: Tensor) -> Tensor:
        """A masked layer's weights as a 2x3 convolution whose last place is zero."""
        width = self.config.channels
        padded = F.pad(weight, (0, width)).view(width, 2, 3, width).permute(0, 3, 1, 2)
        return padded.contiguous(memory_format=torch.channels_last)

    def _masked_convolution(self, u: Tensor, index: int) -> Tensor:
        """`_masked_sum` by a convolution."""
        out = F.conv2d(u[None].permute(0, 3, 1, 2), self.convolutions[index], self.blocks[index][1].bias)
        return out[0].permute(1, 2, 0).contiguous()

    @exactly
    def _band(
        self, image: NDArray[np.uint8], y: int, end: int, top: int, features: NDArray[np.int16] | None,
        above: NDArray[np.float32], heads: bool,
    ) -> NDArray[np.int16]:  # fmt: skip
        """Parameters of rows y to end - 1; ``above`` becomes the masked layers' inputs in the last of them."""
        config = self.config
        h = self.window(self._window_rows(image, y, end))
        if features is not None and y >= top:
            h += torch.from_numpy(features[y - top : end - top]).to(self.device).float()
        reach = config.reach
        for i, (pointwise, masked, *back) in enumerate(self.blocks):
            u = pointwise(h.clamp(0, self.stream_high))
            if not reach:
                h += masked(u)
                continue
            padded = F.pad(u, (0, 0, reach, reach, reach, 0))
            padded[:reach] = torch.from_numpy(above[i]).to(self.device)
            above[i] = padded[-reach:].cpu().numpy()
            if back:
                h += back[0](masked.finish(_depthwise_sum(padded, masked)))
            else:
                h += masked.finish(self._masked_sum(padded, i))
        h = h.clamp_(0, self.stream_high)
        if not heads:
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
