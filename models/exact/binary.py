"""The integer networks of a model for binary images, on many images at once, on a CPU or a GPU.

Coding an image runs `posterior`, `features` and `logits`; decoding one runs `steps` in the place of `logits`, which
gives the same integers pixel after pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from vlae_codec.models import plan
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.layers import from_patches, to_patches
from vlae_codec.models.plan import NEIGHBOURS, POSTERIOR

from vlae_codec.entropy import cdf
from vlae_codec.errors import UnsafeModel
from vlae_codec.stages import wavefront

from .integer import IntegerModel
from .networks import PriorPass
from .torch_layers import TorchLayer, exactly

#: Images that go through a network together: enough to keep the processor busy, few enough for its cache.
CHUNK = 32
#: A kernel over a neighbourhood: its weights (outputs, inputs, rows, columns), stride and padding.
Kernel = tuple[Tensor, int, int]


class BinaryNetworks:
    """The networks of one integer model on one device.

    Parameters
    ----------
    model : IntegerModel
        One whose configuration has an ``image_size``.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, model: IntegerModel, device: str = "cpu") -> None:
        self.model = model
        self.config = model.config
        self.device = torch.device(device)
        self.layers = {
            name: TorchLayer(model.layers[name], self.device, float(layer.out_low), float(layer.out_high))
            for name, layer in plan.layers(self.config).items()
        }
        self.prior_pass = PriorPass(model) if "prior.0" in model.layers else None
        self.convolutions = {
            name: _kernel(self.config, name, layer.weight)
            for name, layer in self.layers.items()
            if not name.startswith(("prior", "features.0"))
        }
        self.convolve: Callable[..., Tensor] = F.conv2d
        if not self._is_exact():
            self.convolve = _unfolded
            if not self._is_exact():
                raise UnsafeModel(f"device {device} does not sum integers exactly; use --device cpu")

    @exactly
    def _is_exact(self) -> bool:
        """Whether every layer gives the sums themselves on this device, for inputs at their limits.

        The bound on the sums says so for any algorithm that adds up products. This finds the ones that do not, such
        as Winograd's convolution.
        """
        generator = torch.Generator().manual_seed(0)
        for name, (kernel, stride, padding) in self.convolutions.items():
            layer = self.model.layers[name]
            shape = (2, kernel.shape[1], kernel.shape[2] + 7, kernel.shape[3] + 8)
            x = torch.randint(layer.low, layer.high + 1, shape, generator=generator)
            x[:, ::3, ::2] = layer.high
            expected = F.conv2d(
                x.double(), kernel.cpu().double(), torch.from_numpy(layer.bias).double(), stride, padding
            )
            x = x.float().to(self.device).contiguous(memory_format=torch.channels_last)
            got = self.convolve(x, kernel, self.layers[name].bias, stride, padding)
            if not torch.equal(got.cpu().double(), expected):
                return False
        return True

    def _layer(self, h: Tensor, name: str) -> Tensor:
        """A layer on (B, inputs, H, W)."""
        kernel, stride, padding = self.convolutions[name]
        layer = self.layers[name]
        acc = self.convolve(h, kernel, layer.bias, stride, padding)
        return acc.mul_(layer.scale[:, None, None]).floor_().clamp_(layer.low, layer.high)

    def _active(self, h: Tensor, name: str) -> Tensor:
        """A stream as a layer takes it."""
        return h.clamp(0, self.model.layers[name].high)

    def _block(self, h: Tensor, name: str) -> Tensor:
        inner = self._layer(self._active(h, f"{name}.0"), f"{name}.0")
        return self._layer(inner, f"{name}.1").add_(h)

    def _signed(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(images).to(self.device).float().mul_(2).sub_(1)

    @exactly
    def posterior(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """q(z | x) of images (B, S, S) of zeros and ones.

        Returns
        -------
        Means and indices of scales, int64, shape (B, z_channels), in the units of `cdf.gaussian_cdf`.
        """
        parts = []
        for x in self._signed(images)[:, None].split(CHUNK):
            h = self._block(self._layer(x, "encoder.0"), "encoder.block0")
            h = self._layer(_channels_last(to_patches(self._active(h, "encoder.1"), 2)), "encoder.1")
            h = self._block(h, "encoder.block1")
            h = self._layer(self._active(h, "encoder.2"), "encoder.2")
            h = self._layer(to_patches(h, self.config.image_size // 4), "encoder.3")
            parts.append(self._layer(h, "encoder.4")[:, :, 0, 0].to(torch.int64).cpu().numpy())
        out = np.concatenate(parts)
        z = self.config.z_channels
        mean = out[:, :z].clip(-POSTERIOR.mean, POSTERIOR.mean)
        return mean, out[:, z:].clip(*POSTERIOR.scale)

    def prior(self, z: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Means and indices of scales of p(z), from z (B, z_channels): column c depends on the columns before c."""
        if self.prior_pass is None:
            standard = np.full(z.shape, -cdf.Z_SCALE_LOWEST * cdf.Z_SCALE_STEPS, np.int64)
            return np.zeros_like(standard), standard
        return self.prior_pass(z.astype(np.float32))

    @exactly
    def features(self, z: NDArray[np.int64]) -> Tensor:
        """The decoder's features, float32 on the device, (B, channels, S, S), from z (B, z_channels)."""
        parts = []
        for part in torch.from_numpy(z).to(self.device).float().split(CHUNK):
            h = self._layer(self.layers["features.0"](part)[:, :, None, None], "features.1")
            h = self._layer(_channels_last(from_patches(h, self.config.image_size // 4)), "features.2")
            h = self._layer(self._active(self._block(h, "features.block0"), "features.3"), "features.3")
            h = self._block(_channels_last(from_patches(h, 2)), "features.block1")
            h = self._layer(self._active(h, "features.4"), "features.4")
            parts.append(_channels_last(from_patches(h, 2)))
        return torch.cat(parts)

    @exactly
    def logits(self, images: NDArray[np.uint8], features: Tensor | None) -> NDArray[np.int64]:
        """Logits of every pixel of images as in `posterior`: int64 (B, S, S), in the units of `cdf.bernoulli_cdf`."""
        config, parts = self.config, []
        for index, x in enumerate(self._signed(images)[:, None].split(CHUNK)):
            h: Tensor | None = None
            if config.taps:
                padded = F.pad(x, (config.window_left, config.window_right, config.window_rows, 0))
                h = self._layer(padded, "decoder.window")
            if features is not None:
                mine = features[index * CHUNK : index * CHUNK + len(x)]
                h = mine if h is None else h.add_(mine)
            assert h is not None
            for i in range(config.blocks):
                name = f"decoder.block{i}"
                u = self._layer(self._active(h, f"{name}.pointwise"), f"{name}.pointwise")
                h = self._layer(u, f"{name}.masked").add_(h)
            h = self._layer(self._active(h, "decoder.head1"), "decoder.head1")
            parts.append(self._layer(h, "decoder.head2")[:, 0].to(torch.int16).cpu().numpy())
        return np.concatenate(parts).astype(np.int64)

    # -- step by step -------------------------------------------------------------------------------------------------

    def _product(self, h: Tensor, name: str) -> Tensor:
        """A layer on (n, inputs, B): weights on the left, so that gathered pixels are whole rows of memory."""
        layer = self.layers[name]
        acc = torch.matmul(layer.weight, h).add_(layer.bias[:, None])
        return acc.mul_(layer.scale[:, None]).floor_().clamp_(layer.low, layer.high)

    def steps(
        self, images: NDArray[np.uint8], features: Tensor | None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Logits step after step of the wavefront ``x + config.skew * y``.

        Yields the step's rows and columns, int64 (n,), and its logits, int64 (n, B). Before it goes on, the caller
        writes the step's pixels into ``images``, uint8 (B, S, S).
        """
        config, count, size = self.config, len(images), self.config.image_size
        rows, left = config.window_rows, config.window_left
        stride = left + size + config.window_right
        pixels = torch.zeros((rows + size) * stride, count, device=self.device)
        window = torch.tensor([dy * stride + dx for dy, dx in config.window_offsets], dtype=torch.int64)
        inner = torch.zeros(config.blocks, (size + 1) * (size + 2), config.channels, count, device=self.device)
        near = torch.tensor([dy * (size + 2) + dx for dy, dx in NEIGHBOURS])
        by_place = None
        if features is not None:
            by_place = features.permute(2, 3, 1, 0).reshape(size * size, config.channels, count).contiguous()
        for y, x in wavefront(size, size, self.config.skew):
            at = torch.from_numpy((y + rows) * stride + left + x)
            place = torch.from_numpy((y + 1) * (size + 2) + 1 + x)
            own = by_place[torch.from_numpy(y * size + x).to(self.device)] if by_place is not None else None
            around = (
                (at[:, None] + window).to(self.device),
                place.to(self.device),
                (place[:, None] + near).to(self.device),
            )
            yield y, x, self._step(pixels, inner, own, *around)
            pixels[at.to(self.device)] = self._signed(images[:, y, x]).t()

    @exactly
    def _step(
        self, pixels: Tensor, inner: Tensor, own: Tensor | None, window: Tensor, place: Tensor, around: Tensor
    ) -> NDArray[np.int64]:
        """The network for one step; keeps the masked layers' inputs in ``inner``."""
        config = self.config
        h = own
        if config.taps:
            h = self._product(pixels[window], "decoder.window")
            h = h if own is None else h.add_(own)
        assert h is not None
        for i in range(config.blocks):
            name = f"decoder.block{i}"
            u = self._product(self._active(h, f"{name}.pointwise"), f"{name}.pointwise")
            if config.spatial:
                inner[i].index_copy_(0, place, u)
                u = inner[i][around].flatten(1, 2)
            h = self._product(u, f"{name}.masked").add_(h)
        h = self._product(self._active(h, "decoder.head1"), "decoder.head1")
        return self._product(h, "decoder.head2")[:, 0].to(torch.int64).cpu().numpy()


def _kernel(config: VLAEConfig, name: str, weight: Tensor) -> Kernel:
    """A layer's weights as a convolution's, over the pixels that it sees."""
    outputs = len(weight)
    if name == "decoder.window":
        columns = config.window_left + config.window_right + 1
        full = F.pad(weight, (0, (config.window_rows + 1) * columns - weight.shape[1]))
        kernel = full.view(outputs, 1, config.window_rows + 1, columns)
        return kernel, 1, 0
    if name.endswith(".masked") and config.spatial:
        # The last four places of a 3x3 kernel stay zero.
        full = F.pad(weight, (0, 4 * config.channels))
        return full.view(outputs, 3, 3, -1).permute(0, 3, 1, 2), 1, 1
    if ".block" in name and not name.startswith("decoder"):
        return weight.view(outputs, 3, 3, -1).permute(0, 3, 1, 2), 1, 1
    if name == "encoder.0":
        return weight.view(outputs, 1, 4, 4), 2, 1
    return weight[:, :, None, None], 1, 0


def _channels_last(h: Tensor) -> Tensor:
    return h.contiguous(memory_format=torch.channels_last)


def _unfolded(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """`torch.nn.functional.conv2d` as one product of matrices, which no algorithm makes inexact."""
    rows, columns = kernel.shape[2:]
    height = (x.shape[2] + 2 * padding - rows) // stride + 1
    patches = F.unfold(x, (rows, columns), padding=padding, stride=stride)
    out = torch.matmul(kernel.reshape(len(kernel), -1), patches) + bias[:, None]
    return out.view(len(x), len(kernel), height, -1)
