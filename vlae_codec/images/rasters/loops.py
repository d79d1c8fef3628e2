# mypy: disable-error-code="no-untyped-def, assignment"
"""Compiled loops over bytes that depend on the byte before: PNG's filters, and QOI."""

from __future__ import annotations

import numpy as np
from numba import njit

from vlae_codec.compiled import inner

from .png import FILTERS

#: What QOI files end with.
QOI_END = 8


@njit(cache=True, inline="always")
def _predicted(kind, left, up, corner):
    if kind == 0:
        return 0
    if kind == 1:
        return left
    if kind == 2:
        return up
    if kind == 3:
        return (left + up) >> 1
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


@njit(cache=True)
def unfilter(lines, step):
    """The inverse of `filter_lines`: uint8 (rows, n) of lines (rows, 1 + n), in which a byte of the filter begins each.

    ``step`` is the distance in bytes to the pixel on the left. Empty if a filter is none of PNG's.
    """
    rows, count = lines.shape[0], lines.shape[1] - 1
    out = np.empty((rows, count), np.uint8)
    for y in range(rows):
        kind = lines[y, 0]
        if kind >= FILTERS:
            return np.empty((0, 0), np.uint8)
        for x in range(count):
            left = np.int64(out[y, x - step]) if x >= step else 0
            up = np.int64(out[y - 1, x]) if y > 0 else 0
            corner = np.int64(out[y - 1, x - step]) if y > 0 and x >= step else 0
            out[y, x] = (np.int64(lines[y, 1 + x]) + _predicted(kind, left, up, corner)) & 255
    return out


@njit(cache=True)
def filter_lines(rows, kinds, step):
    """Lines (rows, 1 + n) of a PNG: the filter of each row and the row less its prediction."""
    height, count = rows.shape
    out = np.empty((height, 1 + count), np.uint8)
    for y in range(height):
        kind = kinds[y]
        out[y, 0] = kind
        for x in range(count):
            left = np.int64(rows[y, x - step]) if x >= step else 0
            up = np.int64(rows[y - 1, x]) if y > 0 else 0
            corner = np.int64(rows[y - 1, x - step]) if y > 0 and x >= step else 0
            out[y, 1 + x] = (np.int64(rows[y, x]) - _predicted(kind, left, up, corner)) & 255
    return out


@njit(cache=True)
def smallest_filters(rows, step, left_out):
    """The filter of each row whose bytes, taken as signed, are smallest in sum; the first of several.

    ``left_out`` is a filter that is not chosen; -1 for none.
    """
    height, count = rows.shape
    kinds = np.empty(height, np.uint8)
    sums = np.empty(FILTERS, np.int64)
    for y in range(height):
        sums[:] = 0
        for x in range(count):
            left = np.int64(rows[y, x - step]) if x >= step else 0
            up = np.int64(rows[y - 1, x]) if y > 0 else 0
            corner = np.int64(rows[y - 1, x - step]) if y > 0 and x >= step else 0
            for kind in range(FILTERS):
                value = (np.int64(rows[y, x]) - _predicted(kind, left, up, corner)) & 255
                sums[kind] += min(value, 256 - value)
        if left_out >= 0:
            sums[left_out] = np.iinfo(np.int64).max
        kinds[y] = np.argmin(sums)
    return kinds


@inner
def _place(r, g, b, a):
    """Where QOI keeps a colour."""
    return (np.int64(r) * 3 + np.int64(g) * 5 + np.int64(b) * 7 + np.int64(a) * 11) & 63


@njit(cache=True)
def decode_qoi(data, pixels):
    """Fill pixels (n, 4) from QOI's operations; gives the number of bytes read, or -1 if they end early."""
    seen = np.zeros((64, 4), np.uint8)
    r, g, b, a = np.uint8(0), np.uint8(0), np.uint8(0), np.uint8(255)
    at, run = 0, 0
    for i in range(pixels.shape[0]):
        if run > 0:
            run -= 1
        else:
            if at + 5 > len(data):
                return -1
            tag = np.int64(data[at])
            at += 1
            if tag >= 0xFE:
                r, g, b = data[at], data[at + 1], data[at + 2]
                at += 3
                if tag == 0xFF:
                    a = data[at]
                    at += 1
            elif tag < 0x40:
                r, g, b, a = seen[tag, 0], seen[tag, 1], seen[tag, 2], seen[tag, 3]
            elif tag < 0x80:
                r = np.uint8((np.int64(r) + (tag >> 4 & 3) - 2) & 255)
                g = np.uint8((np.int64(g) + (tag >> 2 & 3) - 2) & 255)
                b = np.uint8((np.int64(b) + (tag & 3) - 2) & 255)
            elif tag < 0xC0:
                green = (tag & 63) - 32
                other = np.int64(data[at])
                at += 1
                r = np.uint8((np.int64(r) + green + (other >> 4) - 8) & 255)
                g = np.uint8((np.int64(g) + green) & 255)
                b = np.uint8((np.int64(b) + green + (other & 15) - 8) & 255)
            else:
                run = tag & 63
            place = _place(r, g, b, a)
            seen[place, 0], seen[place, 1], seen[place, 2], seen[place, 3] = r, g, b, a
        pixels[i, 0], pixels[i, 1], pixels[i, 2], pixels[i, 3] = r, g, b, a
    # A run goes past the last pixel in damaged files alone.
    return at if run == 0 else -1


@njit(cache=True, inline="always")
def _signed(value):
    """The difference of two bytes, around the corner."""
    return ((value + 128) & 255) - 128


@njit(cache=True)
def encode_qoi(pixels, out):
    """QOI's operations for pixels (n, 4), as the format's own encoder chooses them; gives their number of bytes.

    ``out`` has room for five bytes a pixel.
    """
    seen = np.zeros((64, 4), np.uint8)
    r0, g0, b0, a0 = np.int64(0), np.int64(0), np.int64(0), np.int64(255)
    at, run = 0, 0
    count = pixels.shape[0]
    for i in range(count):
        r, g, b, a = np.int64(pixels[i, 0]), np.int64(pixels[i, 1]), np.int64(pixels[i, 2]), np.int64(pixels[i, 3])
        if r == r0 and g == g0 and b == b0 and a == a0:
            run += 1
            if run == 62 or i == count - 1:
                out[at] = 0xC0 | (run - 1)
                at += 1
                run = 0
            continue
        if run > 0:
            out[at] = 0xC0 | (run - 1)
            at += 1
            run = 0
        place = _place(r, g, b, a)
        if seen[place, 0] == r and seen[place, 1] == g and seen[place, 2] == b and seen[place, 3] == a:
            out[at] = place
            at += 1
        else:
            seen[place, 0], seen[place, 1], seen[place, 2], seen[place, 3] = r, g, b, a
            dr, dg, db = _signed(r - r0), _signed(g - g0), _signed(b - b0)
            if a != a0:
                out[at] = 0xFF
                out[at + 1], out[at + 2], out[at + 3], out[at + 4] = r, g, b, a
                at += 5
            elif -2 <= dr <= 1 and -2 <= dg <= 1 and -2 <= db <= 1:
                out[at] = 0x40 | (dr + 2) << 4 | (dg + 2) << 2 | (db + 2)
                at += 1
            elif -8 <= dr - dg <= 7 and -32 <= dg <= 31 and -8 <= db - dg <= 7:
                out[at] = 0x80 | (dg + 32)
                out[at + 1] = (dr - dg + 8) << 4 | (db - dg + 8)
                at += 2
            else:
                out[at] = 0xFE
                out[at + 1], out[at + 2], out[at + 3] = r, g, b
                at += 4
        r0, g0, b0, a0 = r, g, b, a
    return at
