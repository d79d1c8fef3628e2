"""Binary files of Netpbm: PGM, PPM and PAM."""

from __future__ import annotations

import re

from .layout import Block, Layout

#: Between two numbers of a header: white space, and comments to the end of a line.
_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"
_PLAIN = re.compile(rb"P([56])" + (_GAP + rb"(\d{1,10})") * 3 + rb"(?:#[^\n\r]*[\n\r]|\s)")
_PAM = re.compile(rb"P7\n(?:[^\n]*\n){0,100}?ENDHDR\n")


def read(data: bytes) -> Layout | None:
    """Where the samples are; None if this is no such file, or one of bits or text."""
    if data[:2] == b"P7":
        return _pam(data)
    found = _PLAIN.match(data[:65536])
    if not found:
        return None
    width, height, most = (int(number) for number in found.groups()[1:])
    return _layout(found.end(), width, height, 1 if found[1] == b"5" else 3, most)


def _pam(data: bytes) -> Layout | None:
    found = _PAM.match(data[:65536])
    if not found:
        return None
    numbers = {}
    for line in found[0].split(b"\n"):
        words = line.split()
        if len(words) == 2 and words[0] in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL") and words[1].isdigit():
            numbers[words[0]] = int(words[1][:10])
    if len(numbers) != 4:
        return None
    return _layout(found.end(), numbers[b"WIDTH"], numbers[b"HEIGHT"], numbers[b"DEPTH"], numbers[b"MAXVAL"])


def _layout(start: int, width: int, height: int, channels: int, most: int) -> Layout | None:
    if not 1 <= most <= 65535:
        return None
    size = 1 if most < 256 else 2
    step = width * channels * size
    block = Block(0, 0, 0, height, width, channels, start + size - 1, step, channels * size, size, -1)
    return Layout(height, width, channels, size, (block,))
