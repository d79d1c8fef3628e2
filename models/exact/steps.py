# mypy: disable-error-code="no-untyped-def"
"""The decoder's network step by step, as decoding wants it: the pixels of one step of the wavefront at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlae_codec.compiled import inner

from .integer import IntegerModel
from .loops import (
    Floats,
    Scratch,
    last_rows,
    near_row,
    output_rows,
    pointwise_rows,
    rectify_rows,
    requantize_row,
    window_inputs,
    window_rows,
)
from .products import depthwise_row, rounded_up

#: First digits of the SHA-256 of models/exact/loops.py, see coding/wavefront.py.
_TAKEN_FROM = "8807838860fce67b"

#: Columns of each row whose activations are kept: the neighbours that the rows below still want lag behind by at most
#: 2 * skew + 2 columns, and a power of two makes the place of a column a mask.
RING = 32


class Area(NamedTuple):
    """What is decoded: the rows ``top`` to ``bottom - 1`` of an image, along a wavefront of some skew."""

    #: uint8 (H, W, 3).
    image: NDArray[np.uint8]
    top: int
    bottom: int
    skew: int


class Caches(NamedTuple):
    """What is kept of a stage from step to step, and room for each thread.

    All in one, as numba takes no record within a record into a parallel loop.
    """

    #: The masked layers' inputs at the last columns of each row, (blocks, R, RING, inner): row y of the stage is at
    #: (y + reach) mod R, its column x at x mod RING. Columns beside the image are zero while they are wanted.
    ring: NDArray[np.int16]
    #: The same in the rows above the stage, (blocks, reach, W + 2 * reach, inner); without columns at the top of the
    #: image.
    boundary: NDArray[np.int16]
    #: What the network says of a step's pixels, from the top down, int16 (rows, outputs).
    params: NDArray[np.int16]
    #: The stream, (threads, CHUNK, channels); the rest is `Scratch`.
    stream: Floats
    inputs: NDArray[np.int16]
    seen: NDArray[np.int16]
    active: NDArray[np.int16]
    sums: NDArray[np.int32]

    @classmethod
    def of(cls, model: IntegerModel, area: Area, threads: int) -> Caches:
        """Empty ones for an area, for so many threads; the boundary is still to be filled in."""
        config, reach, inner = model.config, model.config.reach, rounded_up(model.config.inner)
        rows, width = area.bottom - area.top, area.image.shape[1]
        # A step reaches over so many rows at most, and those above them are still wanted.
        kept = min(rows, width // area.skew + 1) + reach if reach else 1
        # Nothing lies above the image, so that a width that is only claimed takes no memory.
        columns = width + 2 * reach if area.top else 0
        scratch = Scratch.of(config, threads)
        return cls(
            np.zeros((config.blocks, kept, RING, inner), np.int16),
            np.zeros((config.blocks, reach, columns, inner), np.int16),
            np.empty((min(rows, width // area.skew + 1), config.outputs), np.int16),
            np.zeros(scratch.active.shape, np.float32), *scratch,
        )  # fmt: skip


@njit(cache=True, inline="always")
def rows_of_step(t, skew, rows, width):
    """First and last-plus-one row of the pixels with x + skew * y == t."""
    first = max((t - width) // skew + 1, 0)
    return first, min(t // skew + 1, rows)


@inner
def network_rows(net, area, features, caches, thread, t, begin, end):
    """`trunk_rows`, and the parameters of the pixels, the step's first row at 0."""
    trunk_rows(net, area, features, caches, thread, t, begin, end)
    first, _ = rows_of_step(t, area.skew, area.bottom - area.top, area.image.shape[1])
    output_rows(
        net, caches.active[thread][: end - begin], caches.sums[thread], caches.params[begin - first :],
    )  # fmt: skip


@inner
def trunk_rows(net, area, features, caches, thread, t, begin, end):
    """The network but for its last two layers for rows begin..end-1 of a step; leaves their inputs as activations.

    Parameters
    ----------
    net : Network
    area : Area
    features : array of int16, shape (h, w, channels)
        Of the stage; empty without z.
    caches : Caches
    thread : int
        Whose scratch arrays to use.
    t : int
        The step.
    begin, end : int
        Rows count from the stage's first.
    """
    n, skew = end - begin, area.skew
    inputs, seen, sums = caches.inputs[thread], caches.seen[thread], caches.sums[thread]
    active, stream = caches.active[thread], caches.stream[thread][:n]
    for i in range(n):
        window_inputs(area.image, area.top + begin + i, t - skew * (begin + i), net.offsets, inputs[i])
    window_rows(net, inputs, sums, stream)
    if features.shape[0] > 0:
        for i in range(n):
            row = features[begin + i, t - skew * (begin + i)]
            for c in range(len(row)):
                stream[i, c] += np.float32(row[c])
    for block in range(net.pointwise.shape[0]):
        pointwise_rows(net, block, stream, active, sums)
        affine, high = net.pointwise_affine[block], net.limits[1]
        if net.reach == 0:
            for i in range(n):
                requantize_row(sums[i], affine, high, seen[i])
        else:
            ring, boundary, width = caches.ring[block], caches.boundary[block], area.image.shape[1]
            for i in range(n):
                y = begin + i
                _keep(ring, boundary, y, t - skew * y, width, sums[i], affine, high)
            _see(net, block, ring, begin, t, skew, seen[:n])
        last_rows(net, block, seen, sums, stream)
    rectify_rows(stream, net.limits[0], active[:n])


@inner
def _keep(ring, boundary, y, x, width, sums, affine, high):
    """Put what is inside a block at one pixel into the ring, and what is beside it where the image ends."""
    reach = boundary.shape[0]
    row = np.uint64(y + reach) % np.uint64(ring.shape[0])
    requantize_row(sums, affine, high, ring[row, np.uint64(x & (RING - 1))])
    if x == 0:
        for beside in range(1, reach + 1):
            ring[row, np.uint64(-beside & (RING - 1))] = 0
    if x == width - 1:
        for beside in range(1, reach + 1):
            ring[row, np.uint64((x + beside) & (RING - 1))] = 0
    if y == 0 and boundary.shape[1] > 0:
        # The rows above are there before the first row comes to them.
        for column in range(-reach if x == 0 else x + reach, x + reach + 1):
            for up in range(reach):
                for c in range(ring.shape[2]):
                    ring[np.uint64(up), np.uint64(column & (RING - 1)), c] = boundary[up, column + reach, c]


@inner
def _see(net, block, ring, begin, t, skew, seen):
    """What a block's last layer takes on rows of a step, whose pixels are kept in the ring."""
    count, last = np.uint64(ring.shape[0]), np.uint64(RING - 1)
    one, reach = np.uint64(1), np.uint64(net.reach)
    for i in range(len(seen)):
        # The ring's first rows and, here, columns are those before the stage's first.
        row = np.uint64(begin + i + net.reach)
        column = np.uint64(t - skew * (begin + i) + RING)
        rows = (row - reach) % count, (row - one) % count, row % count
        columns = (
            (column - reach) & last,
            (column - one) & last,
            column & last,
            (column + one) & last,
            (column + reach) & last,
        )
        if net.reach == 1:
            near_row(ring, rows, columns, seen[i])
        else:
            depthwise_row(
                ring, rows, columns, net.depthwise[block], net.depthwise_affine[block], net.limits[4], seen[i]
            )
