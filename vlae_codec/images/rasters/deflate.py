# mypy: disable-error-code="no-untyped-def"
"""Deflate as zlib does it, bit for bit, whatever zlib is installed: the choices of its levels, stated once more.

RFC 1951 says what a stream means, not which of many streams an encoder writes. PNG files are made by zlib mostly, so
its search for matches, its blocks and its way of building codes are repeated here, as published with its sources since
1.2: to make a file again takes the same choices on every machine, and other versions of zlib, such as zlib-ng, choose
otherwise.
"""

from __future__ import annotations

import zlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlae_codec.compiled import inner

from .blocks import DEFAULT, FILTERED, FIXED, HUFFMAN, LONGEST, RUNS, write_block
from .png import Parameters, deflater_of

#: By level: length of a match from which less is searched, from which no better one is awaited, that is good enough,
#: places that are looked at, and whether better matches are awaited at all.
LEVELS = np.array(
    [(0, 0, 0, 0, 0), (4, 4, 8, 4, 0), (4, 5, 16, 8, 0), (4, 6, 32, 32, 0), (4, 4, 16, 16, 1), (8, 16, 32, 32, 1),
     (8, 16, 128, 128, 1), (8, 32, 128, 256, 1), (32, 128, 258, 1024, 1), (32, 258, 258, 4096, 1)],
    np.int64,
)  # fmt: skip
SHORTEST = 3
#: A match of the shortest length is dropped beyond this distance.
TOO_FAR = 4096
#: How far a match may reach back, less than the window.
AHEAD = LONGEST + SHORTEST + 1
#: Some bytes, and the CRC-32 of what zlib makes of them.
_SAMPLE = bytes((i * i >> 7 & 255) ^ (i & 15) for i in range(20000))
SAMPLE_MADE = 0xA4E4E9EB
#: Bytes that are deflated before it is asked whether they are deflated as expected.
PIECE = 1 << 16
#: First digits of the SHA-256 of blocks.py; a test compares them. numba keeps compiled loops by the contents of this
#: file alone, so it must change when what they take from elsewhere does.
_TAKEN_FROM = "ed7866b30146a784"


@inner
def _match(data, at, left, best, candidate, previous, settings, found):
    """The longest match longer than ``best``, or that; ``found[0]`` is set where there is a longer one."""
    good, _, nice, chain, _ = settings
    mask, farthest = len(previous) - 1, len(previous) - AHEAD
    if best >= good:
        chain >>= 2
    nice = min(nice, left)
    limit = max(at - farthest, 0)
    while True:
        if (
            data[candidate + best] == data[at + best]
            and data[candidate + best - 1] == data[at + best - 1]
            and data[candidate] == data[at]
            and data[candidate + 1] == data[at + 1]
        ):
            length = 2
            while length < LONGEST and data[candidate + length] == data[at + length]:
                length += 1
            if length > best:
                found[0] = candidate
                best = length
                if length >= nice:
                    break
        candidate = previous[candidate & mask]
        chain -= 1
        if candidate <= limit or chain == 0:
            break
    return min(best, left)


@inner
def _insert(data, at, head, previous, mask, shift, hash_mask):
    """Note a place by the hash of its three bytes; gives the last place of that hash, 0 for none."""
    key = ((np.int64(data[at]) << 2 * shift) ^ (np.int64(data[at + 1]) << shift) ^ np.int64(data[at + 2])) & hash_mask
    last = head[key]
    previous[at & mask] = last
    head[key] = at
    return last


@njit(cache=True)
def _deflate(data, size, settings, strategy, memory, window, expected, out):
    """Deflate ``size`` bytes of data, behind which zeros follow; gives the bytes written, -1 where they are unexpected.

    What is written is compared with ``expected`` block by block, unless that is empty.
    """
    _, lazy, _, _, waits = settings
    width = 1 << window
    mask, farthest = width - 1, width - AHEAD
    shift, hash_mask = (memory + 9) // 3, (1 << (memory + 7)) - 1
    head, previous = np.zeros(hash_mask + 1, np.int64), np.zeros(width, np.int64)
    room = (1 << (memory + 6)) - 1
    symbols = np.zeros((room, 2), np.int64)
    bits, found = np.zeros(3, np.int64), np.zeros(1, np.int64)
    count = at = begun = base = compared = 0
    waiting = False
    length = SHORTEST - 1
    wanted = 1 if strategy == HUFFMAN else LONGEST + 1 if strategy == RUNS else AHEAD
    while True:
        left = size - at
        # The window slides on as bytes are wanted, and what left it cannot be stored any more.
        while min(base + 2 * width, size) - at < wanted and at - base >= 2 * width - AHEAD:
            base += width
        ended = left == 0
        if not ended:
            flush = False
            if strategy in (HUFFMAN, RUNS):
                run = 0
                if strategy == RUNS and left >= SHORTEST and at > 0:
                    byte = data[at - 1]
                    while run < min(LONGEST, left) and data[at + run] == byte:
                        run += 1
                if run >= SHORTEST:
                    symbols[count, 0], symbols[count, 1] = run, 1
                    at += run
                else:
                    symbols[count, 0], symbols[count, 1] = data[at], 0
                    at += 1
                count += 1
            elif not waits:
                last = _insert(data, at, head, previous, mask, shift, hash_mask) if left >= SHORTEST else 0
                if last != 0 and at - last <= farthest:
                    length = _match(data, at, left, SHORTEST - 1, last, previous, settings, found)
                if length >= SHORTEST:
                    symbols[count, 0], symbols[count, 1] = length, at - found[0]
                    left -= length
                    if length <= lazy and left >= SHORTEST:
                        for i in range(1, length):
                            _insert(data, at + i, head, previous, mask, shift, hash_mask)
                    at += length
                    length = 0
                else:
                    symbols[count, 0], symbols[count, 1] = data[at], 0
                    at += 1
                count += 1
            else:
                last = _insert(data, at, head, previous, mask, shift, hash_mask) if left >= SHORTEST else 0
                before, place = length, found[0]
                length = SHORTEST - 1
                if last != 0 and before < lazy and at - last <= farthest:
                    length = _match(data, at, left, before, last, previous, settings, found)
                    short = length == SHORTEST and at - found[0] > TOO_FAR
                    if length <= 5 and (strategy == FILTERED or short):
                        length = SHORTEST - 1
                if before >= SHORTEST and length <= before:
                    symbols[count, 0], symbols[count, 1] = before, at - 1 - place
                    count += 1
                    for i in range(1, before - 1):
                        if at + i <= size - SHORTEST:
                            _insert(data, at + i, head, previous, mask, shift, hash_mask)
                    at += before - 1
                    waiting = False
                    length = SHORTEST - 1
                elif waiting:
                    symbols[count, 0], symbols[count, 1] = data[at - 1], 0
                    count += 1
                    flush = count == room
                    if flush:
                        write_block((bits, out), data, begun, at, begun >= base, symbols[:count], 0, strategy)
                        begun, count, flush = at, 0, False
                    at += 1
                else:
                    waiting = True
                    at += 1
            if count == room:
                write_block((bits, out), data, begun, at, begun >= base, symbols[:count], 0, strategy)
                begun, count = at, 0
        else:
            if waiting:
                symbols[count, 0], symbols[count, 1] = data[at - 1], 0
                count += 1
            write_block((bits, out), data, begun, at, begun >= base, symbols[:count], 1, strategy)
        if len(expected) > 0 and bits[2] > compared:
            if bits[2] > len(expected):
                return -1
            for i in range(compared, bits[2]):
                if out[i] != expected[i]:
                    return -1
            compared = bits[2]
        if ended:
            return bits[2]


def deflate(data: bytes, parameters: Parameters) -> bytes:
    """What zlib writes of some bytes between its header and its checksum, whatever zlib is here."""
    return _run(_padded(data), len(data), parameters, b"")


def find_parameters(data: bytes, expected: bytes, window: int, kind: int) -> Parameters | None:
    """The parameters with which zlib deflates some bytes as expected; None if none do.

    Parameters
    ----------
    data, expected : bytes
    window, kind : int
        What the header of a zlib stream says: bits of the window, and which levels made it, 0 to 3.
    """
    levels = ((1,), (5, 4, 3, 2), (6,), (9, 8, 7))[kind]
    choices = [(level, strategy) for level in levels for strategy in (DEFAULT, FILTERED)]
    if kind == 0:
        choices += [(6, RUNS), (6, HUFFMAN), *((level, FIXED) for level in range(1, 10))]
    # libpng makes the window that the header names smaller than the one in use.
    windows = sorted({max(window, 9), 15}, reverse=True)
    tried = [
        Parameters(level, strategy, memory, bits)
        for bits in windows for memory in (8, 9) for level, strategy in choices
    ]  # fmt: skip
    if is_zlib_here():
        # Twice as fast.
        return next((parameters for parameters in tried if _makes(data, parameters, expected)), None)
    padded = _padded(data)
    for parameters in tried:
        if _run(padded, len(data), parameters, expected) == expected:
            return parameters
    return None


def is_zlib_here() -> bool:
    """Whether the zlib that is installed chooses as zlib's own releases do, by what it makes of a sample."""
    found = 0
    for level, strategy in ((1, DEFAULT), (4, DEFAULT), (6, DEFAULT), (9, DEFAULT), (6, FILTERED), (6, RUNS)):
        deflater = deflater_of(Parameters(level, strategy, 8, 15))
        found = zlib.crc32(deflater.compress(_SAMPLE) + deflater.flush(), found)
    return found == SAMPLE_MADE


def _makes(data: bytes, parameters: Parameters, expected: bytes) -> bool:
    """Whether the zlib that is here deflates some bytes as expected; soon says if not."""
    deflater = deflater_of(parameters)
    at = 0
    for place in range(0, len(data) + 1, PIECE):
        made = deflater.compress(data[place : place + PIECE])
        if place + PIECE > len(data):
            made += deflater.flush()
        if made != expected[at : at + len(made)]:
            return False
        at += len(made)
    return at == len(expected)


def _padded(data: bytes) -> NDArray[np.uint8]:
    """Data with zeros behind them, as matches are compared beyond the end."""
    padded = np.zeros(len(data) + 2 * LONGEST, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded


def _run(padded: NDArray[np.uint8], size: int, parameters: Parameters, expected: bytes) -> bytes:
    """The deflated bytes; none as soon as they are not what is expected, unless that is empty."""
    # The fixed code takes nine bits for a byte.
    out = np.empty(size + size // 8 + 4096, np.uint8)
    settings = tuple(LEVELS[parameters.level].tolist())
    length = _deflate(
        padded, size, settings, parameters.strategy, parameters.memory, parameters.window,
        np.frombuffer(expected, np.uint8), out,
    )  # fmt: skip
    return out[: max(length, 0)].tobytes()
