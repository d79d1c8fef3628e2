# mypy: disable-error-code="no-untyped-def, assignment"
"""Deflate's blocks: codes for symbols, and the bits that are written, chosen as zlib chooses them; see `deflate`."""

from __future__ import annotations

import numpy as np

from vlae_codec.compiled import inner

#: zlib's strategies: all as usual; short matches dropped; no matches; those of distance 1 alone; the fixed code alone.
DEFAULT, FILTERED, HUFFMAN, RUNS, FIXED = range(5)
LONGEST = 258
LITERALS, ALL, DISTANCES, LENGTHS_CODE = 257, 286, 30, 19
END = 256
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


@inner
def _put(bits, out, value, count):
    """Append bits, the lowest first; ``bits`` holds those that wait, their number and the bytes written."""
    bits[0] |= value << bits[1]
    bits[1] += count
    while bits[1] >= 8:
        out[bits[2]] = bits[0] & 255
        bits[2] += 1
        bits[0] >>= 8
        bits[1] -= 8


@inner
def _fill_byte(bits, out):
    if bits[1] > 0:
        _put(bits, out, 0, 8 - bits[1])


@inner
def _smaller(freq, depth, n, m):
    return freq[n] < freq[m] or (freq[n] == freq[m] and depth[n] <= depth[m])


@inner
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


@inner
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


@inner
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


@inner
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


@inner
def _send(bits, out, symbols, lengths, codes, distance_lengths, distance_codes):
    """A block's symbols: (length or literal, distance), distance 0 for literals."""
    for i in range(len(symbols)):
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


@inner
def write_block(sink, data, start, stop, whole, symbols, last, strategy):
    """Write a block of symbols in the shortest of three ways; ``whole`` says whether its bytes are still at hand.

    ``sink``: the bits that wait, their number and the bytes written, int64 (3,); the bytes, uint8.
    """
    bits, out = sink
    freq = np.zeros(ALL, np.int64)
    distance_freq = np.zeros(DISTANCES, np.int64)
    freq[END] = 1
    for i in range(len(symbols)):
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
        _send(bits, out, symbols, _FIXED, codes, _FIXED_DISTANCE, distance_codes)
    else:
        _put(bits, out, 4 + last, 3)
        _put(bits, out, last_code - 256, 5)
        _put(bits, out, last_distance, 5)
        _put(bits, out, ranks - 4, 4)
        for i in range(ranks):
            _put(bits, out, run_lengths[_ORDER[i]], 3)
        _runs(lengths, last_code, run_freq, True, bits, out, run_lengths, run_codes)
        _runs(distance_lengths, last_distance, run_freq, True, bits, out, run_lengths, run_codes)
        _send(bits, out, symbols, lengths, codes, distance_lengths, distance_codes)
    if last:
        _fill_byte(bits, out)
