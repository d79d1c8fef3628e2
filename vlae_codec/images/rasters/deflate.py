# mypy: disable-error-code="no-untyped-def, assignment"
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

from .png import Parameters, deflater_of

#: By level: length of a match from which less is searched, from which no better one is awaited, that is good enough,
#: places that are looked at, and whether better matches are awaited at all.
LEVELS = np.array(
    [(0, 0, 0, 0, 0), (4, 4, 8, 4, 0), (4, 5, 16, 8, 0), (4, 6, 32, 32, 0), (4, 4, 16, 16, 1), (8, 16, 32, 32, 1),
     (8, 16, 128, 128, 1), (8, 32, 128, 256, 1), (32, 128, 258, 1024, 1), (32, 258, 258, 4096, 1)],
    np.int64,
)  # fmt: skip
#: zlib's strategies: all as usual; short matches dropped; no matches; those of distance 1 alone; the fixed code alone.
DEFAULT, FILTERED, HUFFMAN, RUNS, FIXED = range(5)
SHORTEST, LONGEST = 3, 258
#: A match of the shortest length is dropped beyond this distance.
TOO_FAR = 4096
#: How far a match may reach back, less than the window.
AHEAD = LONGEST + SHORTEST + 1
LITERALS, ALL, DISTANCES, LENGTHS_CODE = 257, 286, 30, 19
END = 256
#: Some bytes, and the CRC-32 of what zlib makes of them.
_SAMPLE = bytes((i * i >> 7 & 255) ^ (i & 15) for i in range(20000))
SAMPLE_MADE = 0xA4E4E9EB
#: Bytes that are deflated before it is asked whether they are deflated as expected.
PIECE = 1 << 16
HEAP = 2 * ALL + 1
_EXTRA_LENGTH = np.array([0] * 8 + [n for n in range(1, 6) for _ in range(4)] + [0], np.int64)
_EXTRA_DISTANCE = np.array([0, 0] + [n for n in range(14) for _ in range(2)], np.int64)
_EXTRA_CODE = np.array([0] * 16 + [2, 3, 7], np.int64)
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)
_FIXED = np.array([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, np.int64)
_FIXED_DISTANCE = np.full(DISTANCES, 5, np.int64)


def _bases(extra: np.ndarray, first: int) -> np.ndarray:
    return np.concatenate([[first], first + np.cumsum(1 << extra[:-1])])


_BASE_LENGTH = _bases(_EXTRA_LENGTH, 3)
_BASE_LENGTH[28] = LONGEST
_BASE_DISTANCE = _bases(_EXTRA_DISTANCE, 1)
#: The code of each length, and of each distance: below 257 itself, above by its upper bits.
_LENGTH_CODE = np.searchsorted(_BASE_LENGTH, np.arange(LONGEST + 1), "right") - 1
_DISTANCE_CODE = np.searchsorted(_BASE_DISTANCE, np.arange(32769), "right") - 1


@njit(cache=True)
def _put(bits, out, value, count):
    """Append bits, the lowest first; ``bits`` holds those that wait, their number and the bytes written."""
    bits[0] |= value << bits[1]
    bits[1] += count
    while bits[1] >= 8:
        out[bits[2]] = bits[0] & 255
        bits[2] += 1
        bits[0] >>= 8
        bits[1] -= 8


@njit(cache=True)
def _fill_byte(bits, out):
    if bits[1] > 0:
        _put(bits, out, 0, 8 - bits[1])


@njit(cache=True)
def _smaller(freq, depth, n, m):
    return freq[n] < freq[m] or (freq[n] == freq[m] and depth[n] <= depth[m])


@njit(cache=True)
def _sift(heap, size, k, freq, depth):
    v = heap[k]
    j = k << 1
    while j <= size:
        if j < size and _smaller(freq, depth, heap[j + 1], heap[j]):
            j += 1
        if _smaller(freq, depth, v, heap[j]):
            break
        heap[k] = heap[j]
        k = j
        j <<= 1
    heap[k] = v


@njit(cache=True)
def _build(freq, count, longest, extra, extra_from, fixed, lengths, codes):
    """Lengths and codes of symbols that occur so often; gives the last, and the bits by them and by a fixed code."""
    heap = np.zeros(HEAP, np.int64)
    depth = np.zeros(HEAP, np.int64)
    parent = np.zeros(HEAP, np.int64)
    length = np.zeros(HEAP, np.int64)
    weight = np.zeros(HEAP, np.int64)
    weight[:count] = freq[:count]
    bits = static = 0
    size, top, last = 0, HEAP, -1
    for n in range(count):
        if weight[n] > 0:
            size += 1
            heap[size] = n
            last = n
    while size < 2:
        # A code has two symbols at least.
        node = 0
        if last < 2:
            last += 1
            node = last
        size += 1
        heap[size] = node
        weight[node] = 1
        bits -= 1
        if len(fixed) > 0:
            static -= fixed[node]
    for n in range(size // 2, 0, -1):
        _sift(heap, size, n, weight, depth)
    node = count
    while True:
        n = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(heap, size, 1, weight, depth)
        m = heap[1]
        heap[top - 1] = n
        heap[top - 2] = m
        top -= 2
        weight[node] = weight[n] + weight[m]
        depth[node] = max(depth[n], depth[m]) + 1
        parent[n] = parent[m] = node
        heap[1] = node
        node += 1
        _sift(heap, size, 1, weight, depth)
        if size < 2:
            break
    top -= 1
    heap[top] = heap[1]
    # Lengths, from the root down.
    of_length = np.zeros(longest + 2, np.int64)
    length[heap[top]] = 0
    overflow = 0
    for h in range(top + 1, HEAP):
        n = heap[h]
        now = length[parent[n]] + 1
        if now > longest:
            now = longest
            overflow += 1
        length[n] = now
        if n > last:
            continue
        of_length[now] += 1
        more = extra[n - extra_from] if n >= extra_from else 0
        bits += weight[n] * (now + more)
        if len(fixed) > 0:
            static += weight[n] * (fixed[n] + more)
    if overflow > 0:
        while overflow > 0:
            now = longest - 1
            while of_length[now] == 0:
                now -= 1
            of_length[now] -= 1
            of_length[now + 1] += 2
            of_length[longest] -= 1
            overflow -= 2
        h = HEAP
        for now in range(longest, 0, -1):
            n = of_length[now]
            while n > 0:
                h -= 1
                m = heap[h]
                if m > last:
                    continue
                if length[m] != now:
                    bits += (now - length[m]) * weight[m]
                    length[m] = now
                n -= 1
    for n in range(count):
        lengths[n] = length[n] if n <= last and weight[n] > 0 else 0
    _code(lengths, last + 1, codes)
    return last, bits, static


@njit(cache=True)
def _code(lengths, count, codes):
    """Codes of lengths, the first bit lowest."""
    of_length = np.zeros(17, np.int64)
    for n in range(count):
        of_length[lengths[n]] += 1
    of_length[0] = 0
    following = np.zeros(17, np.int64)
    code = 0
    for bits in range(1, 16):
        code = (code + of_length[bits - 1]) << 1
        following[bits] = code
    for n in range(count):
        bits = lengths[n]
        if bits == 0:
            continue
        value = following[bits]
        following[bits] += 1
        reverse = 0
        for _ in range(bits):
            reverse = reverse << 1 | value & 1
            value >>= 1
        codes[n] = reverse


@njit(cache=True)
def _runs(lengths, last, freq, send, bits, out, code_lengths, codes):
    """Count the symbols that tell lengths, or send them."""
    before, following, count = -1, lengths[0], 0
    most, least = (138, 3) if following == 0 else (7, 4)
    for n in range(last + 1):
        now = following
        following = lengths[n + 1] if n < last else 255
        count += 1
        if count < most and now == following:
            continue
        if count < least:
            if send:
                for _ in range(count):
                    _put(bits, out, codes[now], code_lengths[now])
            else:
                freq[now] += count
        elif now != 0:
            if now != before:
                if send:
                    _put(bits, out, codes[now], code_lengths[now])
                else:
                    freq[now] += 1
                count -= 1
            if send:
                _put(bits, out, codes[16], code_lengths[16])
                _put(bits, out, count - 3, 2)
            else:
                freq[16] += 1
        elif count <= 10:
            if send:
                _put(bits, out, codes[17], code_lengths[17])
                _put(bits, out, count - 3, 3)
            else:
                freq[17] += 1
        else:
            if send:
                _put(bits, out, codes[18], code_lengths[18])
                _put(bits, out, count - 11, 7)
            else:
                freq[18] += 1
        count = 0
        before = now
        if following == 0:
            most, least = 138, 3
        elif now == following:
            most, least = 6, 3
        else:
            most, least = 7, 4


@njit(cache=True)
def _send(bits, out, symbols, count, lengths, codes, distance_lengths, distance_codes):
    """A block's symbols: (length or literal, distance), distance 0 for literals."""
    for i in range(count):
        value, distance = symbols[i, 0], symbols[i, 1]
        if distance == 0:
            _put(bits, out, codes[value], lengths[value])
            continue
        code = _LENGTH_CODE[value]
        _put(bits, out, codes[code + LITERALS], lengths[code + LITERALS])
        if _EXTRA_LENGTH[code]:
            _put(bits, out, value - _BASE_LENGTH[code], _EXTRA_LENGTH[code])
        code = _DISTANCE_CODE[distance]
        _put(bits, out, distance_codes[code], distance_lengths[code])
        if _EXTRA_DISTANCE[code]:
            _put(bits, out, distance - _BASE_DISTANCE[code], _EXTRA_DISTANCE[code])
    _put(bits, out, codes[END], lengths[END])


@njit(cache=True)
def _block(bits, out, data, start, stop, whole, symbols, count, last, strategy):
    """Write a block of symbols in the shortest of three ways; ``whole`` says whether its bytes are still at hand."""
    freq = np.zeros(ALL, np.int64)
    distance_freq = np.zeros(DISTANCES, np.int64)
    freq[END] = 1
    for i in range(count):
        if symbols[i, 1] == 0:
            freq[symbols[i, 0]] += 1
        else:
            freq[_LENGTH_CODE[symbols[i, 0]] + LITERALS] += 1
            distance_freq[_DISTANCE_CODE[symbols[i, 1]]] += 1
    lengths, codes = np.zeros(ALL + 2, np.int64), np.zeros(ALL + 2, np.int64)
    distance_lengths, distance_codes = np.zeros(DISTANCES, np.int64), np.zeros(DISTANCES, np.int64)
    last_code, best, static = _build(freq, ALL, 15, _EXTRA_LENGTH, LITERALS, _FIXED, lengths, codes)
    last_distance, more, more_static = _build(
        distance_freq, DISTANCES, 15, _EXTRA_DISTANCE, 0, _FIXED_DISTANCE, distance_lengths, distance_codes
    )
    best += more
    static += more_static
    run_freq = np.zeros(LENGTHS_CODE, np.int64)
    run_lengths, run_codes = np.zeros(LENGTHS_CODE, np.int64), np.zeros(LENGTHS_CODE, np.int64)
    _runs(lengths, last_code, run_freq, False, bits, out, run_lengths, run_codes)
    _runs(distance_lengths, last_distance, run_freq, False, bits, out, run_lengths, run_codes)
    _, more, _ = _build(run_freq, LENGTHS_CODE, 7, _EXTRA_CODE, 0, _FIXED[:0], run_lengths, run_codes)
    ranks = LENGTHS_CODE
    while ranks > 4 and run_lengths[_ORDER[ranks - 1]] == 0:
        ranks -= 1
    best += more + 3 * ranks + 14
    best_bytes, static_bytes = (best + 10) >> 3, (static + 10) >> 3
    if static_bytes <= best_bytes or strategy == FIXED:
        best_bytes = static_bytes
    if stop - start + 4 <= best_bytes and whole:
        _put(bits, out, last, 3)
        _fill_byte(bits, out)
        size = stop - start
        _put(bits, out, size, 16)
        _put(bits, out, size ^ 0xFFFF, 16)
        for i in range(start, stop):
            out[bits[2]] = data[i]
            bits[2] += 1
    elif static_bytes == best_bytes:
        _put(bits, out, 2 + last, 3)
        _code(_FIXED, len(_FIXED), codes)
        _code(_FIXED_DISTANCE, DISTANCES, distance_codes)
        _send(bits, out, symbols, count, _FIXED, codes, _FIXED_DISTANCE, distance_codes)
    else:
        _put(bits, out, 4 + last, 3)
        _put(bits, out, last_code - 256, 5)
        _put(bits, out, last_distance, 5)
        _put(bits, out, ranks - 4, 4)
        for i in range(ranks):
            _put(bits, out, run_lengths[_ORDER[i]], 3)
        _runs(lengths, last_code, run_freq, True, bits, out, run_lengths, run_codes)
        _runs(distance_lengths, last_distance, run_freq, True, bits, out, run_lengths, run_codes)
        _send(bits, out, symbols, count, lengths, codes, distance_lengths, distance_codes)
    if last:
        _fill_byte(bits, out)


@njit(cache=True)
def _match(data, at, left, best, candidate, previous, mask, farthest, found, good, nice, chain):
    """The longest match longer than ``best``, or that; ``found[0]`` is set where there is a longer one."""
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


@njit(cache=True)
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
    good, lazy, nice, chain, waits = settings
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
                    length = _match(
                        data, at, left, SHORTEST - 1, last, previous, mask, farthest, found, good, nice, chain
                    )
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
                    length = _match(data, at, left, before, last, previous, mask, farthest, found, good, nice, chain)
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
                        _block(bits, out, data, begun, at, begun >= base, symbols, count, 0, strategy)
                        begun, count, flush = at, 0, False
                    at += 1
                else:
                    waiting = True
                    at += 1
            if count == room:
                _block(bits, out, data, begun, at, begun >= base, symbols, count, 0, strategy)
                begun, count = at, 0
        else:
            if waiting:
                symbols[count, 0], symbols[count, 1] = data[at - 1], 0
                count += 1
            _block(bits, out, data, begun, at, begun >= base, symbols, count, 1, strategy)
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
