"""PNG files: pixels, the bytes around the deflated stream as they are, and the stream itself where zlib made it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlae_codec.errors import CorruptFile
from vlae_codec.fields import Reader, write_varint

from .layout import from_values

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Its filters, in their order: none, sub, up, average, Paeth.
FILTERS = 5
#: Filters that encoders do not choose: libpng chooses every one, Pillow not the average.
LEFT_OUT = (-1, 3)
#: Bytes of the signature and the header.
START = 33
#: Channels by colour type, and the depths that each may have.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PALETTE = 3
#: First row and column, and steps between rows and columns, of the passes of an interlaced file.
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
#: Largest body of a chunk that is written.
MAX_CHUNK = 1 << 30
#: Most chunks that a stream is cut into.
MAX_CHUNKS = 1 << 20


@dataclass(frozen=True)
class Shape:
    """What the header says of the pixels."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        """Samples of a pixel."""
        return CHANNELS[self.colour]

    @property
    def bits(self) -> int:
        """Bits of a pixel."""
        return self.channels * self.depth

    @property
    def step(self) -> int:
        """Bytes to the pixel on the left, as filters have it."""
        return max(self.bits // 8, 1)

    @property
    def indexed(self) -> bool:
        """Whether samples are no brightness: places in a palette, or fewer than 8 bits."""
        return self.colour == PALETTE or self.depth < 8

    def passes(self) -> list[tuple[slice, slice, int, int]]:
        """For each pass its rows and columns, how many rows, and the bytes of each."""
        found = []
        for top, left, down, across in PASSES if self.interlaced else ((0, 0, 1, 1),):
            rows, columns = -(-(self.height - top) // down), -(-(self.width - left) // across)
            if rows > 0 and columns > 0:
                found.append((slice(top, None, down), slice(left, None, across), rows, -(-columns * self.bits // 8)))
        return found

    def start(self) -> bytes:
        """The signature and the header."""
        fields = (self.width, self.height, self.depth, self.colour, 0, 0, self.interlaced)
        return SIGNATURE + _chunk(b"IHDR" + struct.pack(">IIBBBBB", *fields))

    @property
    def inflated(self) -> int:
        """Bytes of the stream once inflated."""
        return sum(rows * (1 + count) for _, _, rows, count in self.passes())


@dataclass(frozen=True)
class Parameters:
    """What zlib is told: level 1 to 9, strategy 0 to 4, memory level 1 to 9, bits of the window 9 to 15."""

    level: int
    strategy: int
    memory: int
    window: int


def deflater_of(parameters: Parameters) -> zlib._Compress:
    """What deflates as the zlib that is here does, without header and checksum."""
    return zlib.compressobj(parameters.level, zlib.DEFLATED, -parameters.window, parameters.memory, parameters.strategy)


@dataclass(frozen=True)
class Stream:
    """What made a deflated stream of the pixels: filters of all rows, zlib's parameters, and how it was cut up."""

    start: bytes
    parameters: Parameters
    chunks: list[int] = field(repr=False)
    filters: bytes = field(repr=False)


@dataclass(frozen=True)
class Png:
    """A file taken apart: samples (H, W, C, size), bytes before and after the stream, and what made the stream."""

    shape: Shape
    samples: NDArray[np.uint8] = field(repr=False)
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    stream: Stream | None


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names, beginnings and lengths of the bodies of chunks; stops after IEND, or where the file does."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            return
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length


def _chunk(body: bytes) -> bytes:
    """A chunk of a name and a body."""
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def read_shape(data: bytes) -> Shape | None:
    """What a file's header says; None if it is no PNG file, or one of a kind that no standard knows."""
    if len(data) < START:
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    known = depth in DEPTHS.get(colour, ()) and width and height and max(width, height) < 1 << 31
    shape = Shape(width, height, depth, colour, bool(interlace))
    return shape if known and shape.start() == data[:START] else None


def read(data: bytes) -> Png | None:
    """A file taken apart; None if anything in it is not as the standard has it, so that it must be kept whole."""
    from .deflate import find_parameters

    shape = read_shape(data)
    places = [(at, length) for name, at, length in chunks(data) if name == b"IDAT"]
    if shape is None or not places or len(places) > MAX_CHUNKS:
        return None
    begin, end = places[0][0] - 8, places[-1][0] + places[-1][1] + 4
    if sum(12 + length for _, length in places) != end - begin:
        return None
    for at, length in places:
        if zlib.crc32(data[at - 4 : at + length]) != int.from_bytes(data[at + length : at + length + 4], "big"):
            return None
    body = b"".join(data[at : at + length] for at, length in places)
    inflater = zlib.decompressobj()
    try:
        lines = inflater.decompress(body, shape.inflated + 1)
        inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error:
        return None
    if len(lines) != shape.inflated or not inflater.eof or inflater.unused_data:
        return None
    taken = _take_apart(lines, shape)
    if taken is None:
        return None
    samples, filters = taken
    found = find_parameters(lines, body[2:-4], (body[0] >> 4) + 8, body[1] >> 6)
    stream = Stream(body[:2], found, [length for _, length in places], filters) if found else None
    return Png(shape, samples, data[:begin], data[end:], stream)


def _take_apart(lines: bytes, shape: Shape) -> tuple[NDArray[np.uint8], bytes] | None:
    """Samples and the filters of all rows; None if the same bytes would not be made of them again."""
    from . import loops

    samples = np.zeros((shape.height, shape.width, shape.channels, 2 if shape.depth == 16 else 1), np.uint8)
    filters = bytearray()
    at = 0
    for down, across, rows, count in shape.passes():
        size = rows * (1 + count)
        part = np.frombuffer(lines, np.uint8, size, at).reshape(rows, 1 + count)
        raw = loops.unfilter(part, shape.step)
        kinds = part[:, 0].copy()
        if raw.shape != (rows, count) or not np.array_equal(loops.filter_lines(raw, kinds, shape.step), part):
            return None
        target = samples[down, across]
        target[...] = _from_rows(raw, target.shape[1], shape)
        # Bits that fill the last byte of a row belong to no sample.
        if shape.depth < 8 and not np.array_equal(_to_rows(target, shape), raw):
            return None
        filters += kinds.tobytes()
        at += size
    return samples, bytes(filters)


def _from_rows(raw: NDArray[np.uint8], columns: int, shape: Shape) -> NDArray[np.uint8]:
    """Rows of bytes as samples (rows, columns, channels, size), the lower byte first."""
    if shape.depth == 16:
        return raw.reshape(len(raw), columns, shape.channels, 2)[..., ::-1]
    if shape.depth == 8:
        return raw.reshape(len(raw), columns, shape.channels, 1)
    bits = np.unpackbits(raw, axis=1).reshape(len(raw), -1, shape.depth)
    weights = (1 << np.arange(shape.depth)[::-1]).astype(np.uint8)
    return (bits @ weights).astype(np.uint8)[:, :columns, None, None]


def _to_rows(samples: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """The inverse of `_from_rows`."""
    rows = len(samples)
    if shape.depth >= 8:
        return np.ascontiguousarray(samples[..., ::-1]).reshape(rows, -1)
    bits = np.unpackbits(np.ascontiguousarray(samples).reshape(rows, -1, 1), axis=2)[..., 8 - shape.depth :]
    return np.packbits(bits.reshape(rows, -1), axis=1)


def _lines(samples: NDArray[np.uint8], shape: Shape, filters: bytes | None) -> Iterator[bytes]:
    """The inverse of `_take_apart`, pass by pass; without filters those are chosen here."""
    from . import loops

    at = 0
    for down, across, rows, _ in shape.passes():
        raw = _to_rows(samples[down, across], shape)
        if filters is not None:
            # A copy, as loops would be compiled once more for what is read-only.
            kinds = np.frombuffer(filters, np.uint8, rows, at).copy()
        else:
            kinds = np.zeros(rows, np.uint8) if shape.indexed else loops.smallest_filters(raw, shape.step, -1)
        yield loops.filter_lines(raw, kinds, shape.step).tobytes()
        at += rows


# -- back ------------------------------------------------------------------------------------------------------------


def write(png: Png, own: bool = False) -> bytes:
    """The file: the very bytes where there is a stream; otherwise the same pixels and the same bytes around them.

    ``own`` deflates by `deflate` instead of by the zlib that is here, which may make other bytes than zlib's own.
    """
    stream = png.stream
    lines = b"".join(_lines(png.samples, png.shape, stream.filters if stream else None))
    if stream is None:
        body = zlib.compress(lines)
    else:
        if own:
            from .deflate import deflate

            deflated = deflate(lines, stream.parameters)
        else:
            deflater = deflater_of(stream.parameters)
            deflated = deflater.compress(lines) + deflater.flush()
        body = stream.start + deflated + zlib.adler32(lines).to_bytes(4, "big")
    sizes = stream.chunks if stream else [min(MAX_CHUNK, len(body) - at) for at in range(0, len(body), MAX_CHUNK)]
    if sum(sizes) != len(body):
        raise CorruptFile(f"the deflated pixels take {len(body)} bytes, expected {sum(sizes)}")
    out, at = [png.before], 0
    for size in sizes:
        out.append(_chunk(b"IDAT" + body[at : at + size]))
        at += size
    return b"".join([*out, png.after])


def rewritten(png: Png, is_right: Callable[[bytes], bool]) -> bytes:
    """The file by the zlib that is here, or where that is not right by our own, which takes twice as long."""
    try:
        data = write(png)
    except CorruptFile:
        data = b""
    return data if png.stream is None or is_right(data) else write(png, own=True)


def to_recipe(png: Png) -> bytes:
    """All but the samples."""
    # The header is made anew of the size and these three.
    before = png.before[START:]
    out = bytearray([png.shape.depth, png.shape.colour, png.shape.interlaced])
    out += write_varint(len(before)) + before + write_varint(len(png.after)) + png.after
    stream = png.stream
    if stream is None:
        return bytes(out)
    out += stream.start + bytes(astuple(stream.parameters))
    runs: list[list[int]] = []
    for size in stream.chunks:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    out += write_varint(len(runs)) + b"".join(write_varint(number) for run in runs for number in run)
    filters = np.frombuffer(stream.filters, np.uint8)
    if filters.min() == filters.max():
        return bytes(out) + bytes([filters[0]])
    # Where the encoder chose as most do, all differences are zero.
    differences = [
        ((filters - _expected_filters(png.samples, png.shape, left_out)) % FILTERS).astype(np.uint8)
        for left_out in LEFT_OUT
    ]
    best = min(range(len(LEFT_OUT)), key=lambda i: np.count_nonzero(differences[i]))
    return bytes(out) + bytes([FILTERS + best]) + differences[best].tobytes()


def _expected_filters(samples: NDArray[np.uint8], shape: Shape, left_out: int) -> NDArray[np.int64]:
    from . import loops

    kinds = [
        loops.smallest_filters(_to_rows(samples[down, across], shape), shape.step, left_out)
        for down, across, _, _ in shape.passes()
    ]
    return np.concatenate(kinds).astype(np.int64)


def from_recipe(recipe: bytes, values: NDArray, exact: bool) -> Png:
    """The inverse of `to_recipe`, for pixels as `layout.to_values` has them; `CorruptFile` if it does not fit them."""
    reader = Reader(recipe)
    depth, colour, interlaced = (
        reader.byte("the depth", 17),
        reader.byte("the colour type", 7),
        reader.byte("a flag", 2),
    )
    if depth not in DEPTHS.get(colour, ()):
        raise CorruptFile(f"a PNG file of colour type {colour} and {depth} bits, which no standard knows")
    samples = from_values(values, CHANNELS[colour], 2 if depth == 16 else 1)
    if depth < 8 and samples.max() >> depth:
        raise CorruptFile(f"samples of up to {samples.max()} in a PNG file of {depth} bits")
    shape = Shape(samples.shape[1], samples.shape[0], depth, colour, bool(interlaced))
    before = reader.take(reader.varint("a length", 0, len(recipe)), "the chunks before the pixels")
    after = reader.take(reader.varint("a length", 0, len(recipe)), "what follows the pixels")
    stream = None
    if exact:
        start = reader.take(2, "the beginning of the stream")
        parameters = Parameters(
            reader.byte("zlib's level", 10), reader.byte("zlib's strategy", 5), reader.byte("zlib's memory level", 10),
            reader.byte("zlib's window", 16),
        )  # fmt: skip
        if parameters.level < 1 or parameters.memory < 1 or parameters.window < 9:
            raise CorruptFile(f"zlib has no {parameters}")
        sizes: list[int] = []
        for _ in range(reader.varint("the number of runs", 1, MAX_CHUNKS)):
            count = reader.varint("the number of chunks", 1, MAX_CHUNKS - len(sizes))
            sizes += [reader.varint("a chunk's size", 0, (1 << 31) - 1)] * count
        rows = sum(rows for _, _, rows, _ in shape.passes())
        kind = reader.byte("the filters", FILTERS + len(LEFT_OUT))
        if kind < FILTERS:
            filters = bytes([kind]) * rows
        else:
            differences = np.frombuffer(reader.take(rows, "the filters"), np.uint8)
            together = (differences + _expected_filters(samples, shape, LEFT_OUT[kind - FILTERS])) % FILTERS
            filters = together.astype(np.uint8).tobytes()
        stream = Stream(start, parameters, sizes, filters)
    if reader.at != len(recipe):
        raise CorruptFile(f"{len(recipe) - reader.at} bytes after the recipe, expected none")
    return Png(shape, samples, shape.start() + before, after, stream)
