"""Pixels of a stage, step by step on a GPU: the loop around the kernels of `device_pixels` and `device_heads`.

All that a step needs stays on the device, the number of the step too, so that steps follow each other without the host:
several are one CUDA graph, which is launched until the stage ends. Steps beyond the last find no pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from vlae_codec.entropy.ans import Stacks
from vlae_codec.models.exact import device as network
from vlae_codec.models.exact.device import Net, Shape, network_kernel, network_on
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.exact.steps import Area
from vlae_codec.stages import Progress, no_progress

from .device_heads import TEACH, UPDATE, Heads, heads_kernel, learn_kernel, update_kernel
from .device_pixels import Lanes, Tables, advance_kernel, learning_rates, pop_kernel
from .wavefront import Alphabet

#: Steps in a graph: each takes some microseconds, to launch a graph about ten.
GRAPH_STEPS = 64
#: No multiplication and addition become one, which would round once instead of twice.
EXACTLY = {"enable_fp_fusion": False}


def find_steps(model: IntegerModel, device: str) -> DeviceSteps | None:
    """Those of a model on a device; None where the kernels are not made for one of them."""
    chosen = torch.device(device)
    if torch.version.hip or torch.cuda.get_device_capability(chosen) < (8, 0) or not network.holds(model):
        return None
    return DeviceSteps(model, chosen)


class DeviceSteps:
    """The step-by-step pass of one integer model on one device.

    Parameters
    ----------
    model : IntegerModel
        One that `models.exact.device.holds`.
    device : torch.device
        A GPU; or the CPU, where Triton was loaded with TRITON_INTERPRET=1, for tests.
    """

    def __init__(self, model: IntegerModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self.shape: Shape = Shape.of(model)
        self.net: Net = network_on(model, device)

    def pop(
        self, stacks: Stacks, area: Area, features: NDArray[np.int16], alphabet: Alphabet, adapts: bool,
        progress: Progress = no_progress,
    ) -> bool:  # fmt: skip
        """Pop an area's pixels into its image; returns whether the messages held enough.

        Parameters
        ----------
        stacks : Stacks
        area : Area
        features : array of int16, shape (rows, W, channels)
            Empty without z.
        alphabet : Alphabet
        adapts : bool
            Whether the heads learn.
        progress : function
        """
        stage, steps = self._stage(area, features), _count(area)
        messages, wide = len(stacks.sizes), triton.next_power_of_2(stacks.heads.shape[1])
        lanes = Lanes(
            self._put(stacks.heads.view(np.int64)), self._put(np.append(stacks.words, np.uint32(0)).view(np.int32)),
            self._put(stacks.begins), self._put(stacks.sizes), self._put(np.array(stacks.heads.shape, np.int32)),
        )  # fmt: skip
        tables = Tables.of(alphabet, self.device)
        heads = Heads.of(self.model, self.device) if adapts else None
        rates = learning_rates(0.0, self.device) if heads is None else heads.rates
        tiles, shape, width = (_tiles(area, network.TILE),), self.shape, features.shape[2] if features.size else 0
        # Few lanes are a small vector, which more warps would only repeat.
        warps = max(1, min(8, wide * shape.components // 128))

        def step() -> None:
            network_kernel[tiles](self.net, stage, None, shape, width, heads is None, num_warps=8, **EXACTLY)
            if heads is not None:
                heads_kernel[tiles](stage, heads, None, shape, **EXACTLY)
            pop_kernel[(messages,)](stage, lanes, tables, shape, alphabet.channels, wide, num_warps=warps, **EXACTLY)
            advance_kernel[(1,)](stage, rates, shape, **EXACTLY)
            if heads is not None:
                self._learn(stage, heads, tables, None, _tiles(area, TEACH), alphabet.channels)

        pixels = (area.bottom - area.top) * area.image.shape[1]
        enough = _run(step, stage, steps, pixels, progress)
        top, bottom = area.top - self._first(area), area.bottom - self._first(area)
        area.image[area.top : area.bottom] = stage.image[top:bottom].cpu().numpy()
        stacks.heads[:] = lanes.heads.cpu().numpy().view(np.uint64)
        stacks.sizes[:] = lanes.sizes.cpu().numpy()
        return enough

    def learn(
        self, area: Area, active: NDArray[np.int16], alphabet: Alphabet, pixels: int = 0,
        progress: Progress = no_progress,
    ) -> NDArray[np.uint32]:  # fmt: skip
        """Intervals of an area's pixels, which are known, by heads that learn from them.

        Parameters
        ----------
        area : Area
        active : array of int16, shape (rows, W, channels)
            What the pixels give the heads.
        alphabet : Alphabet
        pixels : int
            How many to tell ``progress`` of in all.
        progress : function

        Returns
        -------
        Starts and frequencies, uint32 (2, rows, W, channels).
        """
        stage, rows, width = self._stage(area, None), area.bottom - area.top, area.image.shape[1]
        known = self._put(active)
        intervals = torch.zeros((2, rows, width, alphabet.channels), dtype=torch.int32, device=self.device)
        heads, tables = Heads.of(self.model, self.device), Tables.of(alphabet, self.device)
        tiles, shape = (_tiles(area, network.TILE),), self.shape

        def step() -> None:
            heads_kernel[tiles](stage, heads, known, shape, known.shape[2], **EXACTLY)
            advance_kernel[(1,)](stage, heads.rates, shape, **EXACTLY)
            self._learn(stage, heads, tables, intervals, _tiles(area, TEACH), alphabet.channels)

        _run(step, stage, _count(area), pixels, progress)
        return intervals.cpu().numpy().view(np.uint32)

    def _learn(
        self, stage: network.Stage, heads: Heads, tables: Tables, intervals: Tensor | None, tiles: int, channels: int
    ) -> None:
        """What the step before teaches, and the step that the heads take where one is due."""
        learn_kernel[(tiles,)](stage, heads, tables, intervals, self.shape, channels, num_warps=8, **EXACTLY)
        update_kernel[(triton.cdiv(len(heads.weights), UPDATE),)](stage, heads, self.shape, **EXACTLY)

    def _first(self, area: Area) -> int:
        """The first row of the image that an area's pixels depend on."""
        return max(0, area.top - self.model.halo - self.model.config.window_rows)

    def _stage(self, area: Area, features: NDArray[np.int16] | None) -> network.Stage:
        """An area on the device; ``features`` None where its network is not run."""
        above = None
        halo = min(self.model.halo, area.top) if features is not None else 0
        if halo:
            above = self._boundary(area, halo)
        return self._empty(area, above, features)

    def _boundary(self, area: Area, halo: int) -> Tensor:
        """`steps.Caches.boundary`, made of the rows above an area."""
        shape, width = self.shape, area.image.shape[1]
        below = torch.zeros(
            (shape.blocks, shape.reach, width + 2 * shape.reach, shape.inner), dtype=torch.int16, device=self.device
        )
        over = Area(area.image, area.top - halo, area.top, area.skew)
        first = self._first(area)
        stage = self._empty(over, None, None, first)
        tiles = (_tiles(over, network.TILE),)

        def step() -> None:
            network_kernel[tiles](self.net, stage, below, shape, 0, False, num_warps=8, **EXACTLY)
            advance_kernel[(1,)](stage, rates, shape, **EXACTLY)

        rates = learning_rates(0.0, self.device)
        _run(step, stage, _count(over), 0, no_progress)
        return below

    def _empty(
        self, area: Area, above: Tensor | None, features: NDArray[np.int16] | None, first: int | None = None
    ) -> network.Stage:
        """An area on the device, nothing of it done yet; ``first`` is its image's first row there."""
        shape, (rows, width) = self.shape, (area.bottom - area.top, area.image.shape[1])
        first = self._first(area) if first is None else first
        room = min(rows, width // area.skew + 1)
        kept = room + shape.reach if shape.reach else 1
        place = np.zeros(network.PLACES, np.int32)
        place[1:6] = area.top - first, rows, width, kept, 0 if above is None else above.shape[2]

        def zeros(*size: int, kind: torch.dtype = torch.int16) -> Tensor:
            return torch.zeros(size, dtype=kind, device=self.device)

        return network.Stage(
            self._put(area.image[first : area.bottom]), self._put(place),
            zeros(shape.blocks if shape.reach else 0, kept, network.RING.value, shape.inner),
            zeros(1) if above is None else above,
            zeros(1) if features is None or not features.size else self._put(features),
            zeros(room, shape.channels), zeros(room, shape.channels), zeros(room, shape.outputs),
            zeros(room, shape.outputs, kind=torch.int32), zeros(room, shape.outputs, kind=torch.int32),
        )  # fmt: skip

    def _put(self, array: NDArray[Any]) -> Tensor:
        # A copy, also where the device is the CPU: kernels write to it.
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, copy=True)


def _run(step: Callable[[], None], stage: network.Stage, steps: int, pixels: int, progress: Progress) -> bool:
    """Take so many steps; returns whether the message held enough, where one is popped."""
    told = done = 0
    device = stage.place.device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for count in _take(step, device):
            done = min(done + count, steps)
            if int(stage.place[network.DRY.value]):
                return False
            progress(pixels * done // steps - told)
            told = pixels * done // steps
            if done == steps:
                break
    return True


def _take(step: Callable[[], None], device: torch.device) -> Iterator[int]:
    """Take steps for ever, some at a time; yields how many."""
    # The first by itself, as nothing may be compiled while a graph is made.
    step()
    yield 1
    if device.type != "cuda":
        while True:
            step()
            yield 1
    # Not by torch.cuda.graph, which waits for all that the device does, for other pictures too.
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(GRAPH_STEPS):
            step()
        graph.capture_end()
    while True:
        graph.replay()
        yield GRAPH_STEPS


def _count(area: Area) -> int:
    """How many steps an area has."""
    return area.image.shape[1] + area.skew * (area.bottom - area.top - 1)


def _tiles(area: Area, tile: int) -> int:
    """How many programs take the longest step, with so many pixels each."""
    return triton.cdiv(min(area.bottom - area.top, area.image.shape[1] // area.skew + 1), tile)
