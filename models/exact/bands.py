# mypy: disable-error-code="no-untyped-def"
"""The decoder's network over whole bands of rows, as encoding wants it: on a CPU, in compiled loops.

`photo` does the same by torch, on a GPU. All give the same integers, as every sum is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from vlae_codec.compiled import inner

from .integer import IntegerModel
from .loops import (
    CHUNK,
    Floats,
    Scratch,
    copy_rows,
    last_rows,
    near_row,
    network_arrays,
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

#: Pixels that go through the network together: few enough for the cache, and rows enough beside those above them, which
#: are copied from band to band.
BAND_PIXELS = 16384


class Band(NamedTuple):
    """A band's pixels on their way through the network, and room for each thread.

    All in one, as numba takes no record within a record into a parallel loop.
    """

    #: uint8 (H, W, 3), and the band's first row.
    image: NDArray[np.uint8]
    first: int
    #: Of the band's pixels, int16 (rows, W, channels); empty without z.
    features: NDArray[np.int16]
    #: The stream, (rows * W, channels).
    stream: Floats
    #: The masked layers' inputs of the blocks of either parity, with those of the rows above and zeros beside the
    #: image: (2, reach + rows, W + 2 * reach, inner).
    kept: NDArray[np.int16]
    #: What comes out, int16 (rows * W, outputs), or without the heads (rows * W, channels).
    out: NDArray[np.int16]
    heads: bool
    #: `Scratch`.
    inputs: NDArray[np.int16]
    seen: NDArray[np.int16]
    active: NDArray[np.int16]
    sums: NDArray[np.int32]


class ParallelPass:
    """The local decoder's network of one integer model, band after band; `_band` is what one of them takes.

    Parameters
    ----------
    model : IntegerModel
    """

    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self.config = model.config
        self.arrays = network_arrays(model)

    def bands(
        self, image: NDArray[np.uint8], top: int, bottom: int, features: NDArray[np.int16] | None, heads: bool = True
    ) -> Iterator[tuple[int, NDArray[np.int16]]]:
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
        heads : bool
            False: leave out the last two layers.

        Yields
        ------
        First row of the band, and an array of int16, shape (rows, W, 12 K), or (rows, W, channels) without the heads.
        """
        config, width, reach = self.config, image.shape[1], self.config.reach
        most = min(max(1, BAND_PIXELS // width), bottom)
        above = np.zeros((config.blocks, reach, width + 2 * reach, rounded_up(config.inner)), np.int16)
        band = self._room(image, most, heads)
        nothing = np.zeros((0, 0, config.channels), np.int16)
        y = max(0, top - self.model.halo)
        while y < bottom:
            end = min(y + most, top if y < top else bottom)
            known = nothing if features is None or y < top else features[y - top : end - top]
            given = self._band(band._replace(first=y, features=known), end - y, above)
            if y >= top:
                yield y, given
            y = end

    def _room(self, image: NDArray[np.uint8], rows: int, heads: bool) -> Band:
        """For bands of so many rows at most."""
        config, width, reach = self.config, image.shape[1], self.config.reach
        return Band(
            image, 0, np.zeros((0, 0, 0), np.int16),
            np.empty((rows * width, rounded_up(config.channels)), np.float32),
            np.zeros((2, reach + rows, width + 2 * reach, rounded_up(config.inner)), np.int16),
            np.empty((0, 0), np.int16), heads, *Scratch.of(config, get_num_threads()),
        )  # fmt: skip

    def _band(self, band: Band, rows: int, above: NDArray[np.int16]) -> NDArray[np.int16]:
        """What ``bands`` yields of so many rows.

        ``above`` are the masked layers' inputs in the rows before, (blocks, reach, W + 2 * reach, inner); it becomes
        those of the band's last rows.
        """
        config, width = self.config, band.image.shape[1]
        out = np.empty((rows * width, config.outputs if band.heads else config.channels), np.int16)
        band = band._replace(out=out)
        _through_all(self.arrays, band, rows, above)
        return out.reshape(rows, width, -1)


@njit(cache=True, parallel=True)
def _through_all(net, band, rows, above):
    """`ParallelPass._band` of so many rows."""
    blocks, reach, threads = len(net.pointwise), above.shape[1], len(band.seen)
    for block in range(-1, blocks):
        following = block + 1
        if following < blocks:
            copy_rows(above[following], band.kept[following % 2])
        for thread in prange(threads):
            _through_block(net, band, block, np.int64(thread))
        if following < blocks:
            copy_rows(band.kept[following % 2, rows : rows + reach], above[following])


@inner
def _through_block(net, band, block, thread):
    """A thread's share of a block's last layer, or for -1 the window, and the next block's first, or what comes out."""
    pixels, threads = len(band.out), len(band.seen)
    share = (pixels + threads - 1) // threads
    low, high = thread * share, min((thread + 1) * share, pixels)
    while low < high:
        stop = min(low + CHUNK, high)
        _chunk(net, band, block, thread, low, stop)
        low = stop


@inner
def _chunk(net, band, block, thread, low, high):
    """`_through_block` of the band's pixels low..high-1."""
    n, width = high - low, band.image.shape[1]
    seen, sums, active = band.seen[thread], band.sums[thread], band.active[thread]
    stream = band.stream[low:high]
    if block < 0:
        inputs = band.inputs[thread]
        for i in range(n):
            window_inputs(band.image, band.first + (low + i) // width, (low + i) % width, net.offsets, inputs[i])
        window_rows(net, inputs, sums, stream)
        if band.features.shape[0] > 0:
            for i in range(n):
                row = band.features[(low + i) // width, (low + i) % width]
                for c in range(len(row)):
                    stream[i, c] += np.float32(row[c])
    else:
        _see(net, block, band.kept[block % 2], low, width, seen[:n])
        last_rows(net, block, seen, sums, stream)
    if block + 1 < len(net.pointwise):
        pointwise_rows(net, block + 1, stream, active, sums)
        _keep(net, block + 1, band.kept[(block + 1) % 2], low, width, sums[:n])
        return
    rectify_rows(stream, net.limits[0], active[:n])
    if band.heads:
        output_rows(net, active[:n], sums, band.out[low:high])
        return
    out = band.out[low:high]
    for i in range(n):
        for c in range(out.shape[1]):
            out[i, c] = active[i, c]


@inner
def _keep(net, block, kept, low, width, sums):
    """Put what is inside a block, of the band's pixels from ``low`` on, where the pixels around them see it."""
    affine, high, reach = net.pointwise_affine[block], net.limits[1], net.reach
    for i in range(len(sums)):
        row, column = (low + i) // width + reach, (low + i) % width + reach
        requantize_row(sums[i], affine, high, kept[row, column])


@inner
def _see(net, block, kept, low, width, seen):
    """What a block's last layer takes, of the band's pixels from ``low`` on."""
    one, reach = np.uint64(1), np.uint64(net.reach)
    for i in range(len(seen)):
        row = np.uint64((low + i) // width) + reach
        column = np.uint64((low + i) % width) + reach
        if net.reach == 0:
            for c in range(seen.shape[1]):
                seen[i, c] = kept[row, column, c]
            continue
        rows = row - reach, row - one, row
        columns = column - reach, column - one, column, column + one, column + reach
        if net.reach == 1:
            near_row(kept, rows, columns, seen[i])
        else:
            depthwise_row(
                kept, rows, columns, net.depthwise[block], net.depthwise_affine[block], net.limits[4], seen[i]
            )
