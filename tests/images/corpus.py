"""Image files of every sort, none of them written by Pillow: by tifffile, imagecodecs, pypng, and by hand."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import png as pypng
import tifffile

HEIGHT, WIDTH = 40, 47
Make = Callable[[], bytes]


def grey(bits: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Slopes with a little noise, (H, W) or (H, W, C), of so many bits."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rng = np.random.default_rng(seed)
    planes = [(x * (5 + k) + y * 3) / 200 + rng.normal(0, 0.01, x.shape) for k in range(channels)]
    top = (1 << bits) - 1
    values = np.clip(np.rint(np.stack(planes, 2) * top), 0, top).astype(np.uint16 if bits > 8 else np.uint8)
    return values[..., 0] if channels == 1 else values


# -- TIFF --------------------------------------------------------------------------------------------------------------


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def tiffs() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}

    def add(name: str, plain: bool, values: np.ndarray, **options: object) -> None:
        found[f"{name}.tif"] = (lambda: tiff(values, **options), plain)

    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"):
        for order in "<>":
            values = grey(8 if dtype == "f2" else 16).astype(dtype)
            # Pillow's own reader knows few of these.
            add(f"{dtype}-{'le' if order == '<' else 'be'}", dtype[1] in "12", values, byteorder=order)
    for channels, order, big in itertools.product((2, 3, 4, 5), "<>", (False, True)):
        name = f"channels{channels}-{'le' if order == '<' else 'be'}{'-big' if big else ''}"
        photometric = "rgb" if channels > 2 else "minisblack"
        for bits in (8, 16):
            values = grey(bits, channels)
            add(f"{name}-{bits}", True, values, photometric=photometric, planarconfig="contig", byteorder=order,
                bigtiff=big)  # fmt: skip
            planes = np.ascontiguousarray(np.moveaxis(values, 2, 0))
            add(f"{name}-{bits}-planar", True, planes, photometric=photometric, planarconfig="separate",
                byteorder=order, bigtiff=big)  # fmt: skip
    for rows in (1, 2, 5, 16, HEIGHT):
        add(f"strips{rows}", True, grey(8, 3), rowsperstrip=rows, photometric="rgb")
    for tile, channels, bits in itertools.product(((16, 16), (16, 32), (32, 16)), (1, 3, 4), (8, 16)):
        photometric = "rgb" if channels > 1 else "minisblack"
        add(f"tiles{tile[0]}x{tile[1]}-{channels}-{bits}", True, grey(bits, channels), tile=tile,
            photometric=photometric)  # fmt: skip
    for extra in ("unspecified", "assocalpha", "unassalpha"):
        add(f"extra-{extra}", True, grey(8, 4), photometric="rgb", extrasamples=[extra])
        add(f"extra-{extra}-16", True, grey(16, 4), photometric="rgb", extrasamples=[extra])
    add("cmyk", True, grey(8, 4), photometric="separated")
    add("cmyk-and-one", True, grey(8, 5), photometric="separated", extrasamples=["unspecified"])
    add("white-is-zero", True, grey(), photometric="miniswhite")
    add("white-is-zero-16", True, grey(16), photometric="miniswhite")
    add("bits", False, grey() > 100)
    add("palette", True, grey(), photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256))
    for method in ("zlib", "lzw", "packbits", "deflate", "lzma", "jpeg"):
        for predictor in (False, True) if method in ("zlib", "lzw") else (False,):
            add(f"{method}{'-predictor' if predictor else ''}", False, grey(8, 3), photometric="rgb",
                compression=method, predictor=predictor)  # fmt: skip
    add("pages", False, np.stack([grey(), grey(seed=1)]), photometric="minisblack")
    add("words", True, grey(8, 3), photometric="rgb", description="a picture", software="by hand", datetime=True)
    geo = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (42113, "s", 0, "-9999", True), (65000, "B", 4, b"abcd", True)]
    add("tags", True, grey(8, 3), photometric="rgb", extratags=geo)
    for turned in range(1, 9):
        add(f"orientation{turned}", True, grey(8, 3), photometric="rgb", extratags=[(274, "H", 1, turned, True)])
    add("resolution", True, grey(8, 3), photometric="rgb", resolution=(300, 144))
    add("profile", True, grey(8, 3), photometric="rgb", iccprofile=bytes(range(200)))
    add("imagej", True, grey(16), imagej=True)
    add("ome", True, grey(16), ome=True)
    found["sub-directories.tif"] = (_raw_of_a_camera, False)
    found["sub-directories.dng"] = (_raw_of_a_camera, False)
    return found


def _raw_of_a_camera() -> bytes:
    """A thumbnail, and the picture in a directory below it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(grey(8, 3)[::4, ::4], photometric="rgb", subifds=1)
        writer.write(grey(16), photometric="minisblack")
    return buffer.getvalue()


# -- PNG ---------------------------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(png: bytes, before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG file with chunks before its pixels, and after them."""
    at = png.index(b"IDAT") - 4
    end = png.rindex(b"IEND") - 4
    return png[:at] + b"".join(chunk(*c) for c in before) + png[at:end] + b"".join(chunk(*c) for c in after) + png[end:]


def pypng_of(bits: int, kind: str, interlaced: bool, level: int | None = None) -> bytes:
    channels = {"grey": 1, "greyalpha": 2, "rgb": 3, "rgba": 4, "palette": 1}[kind]
    options: dict = {"greyscale": kind.startswith("grey"), "alpha": kind.endswith("a")}
    if kind == "greyalpha":
        options["alpha"] = True
    if kind == "palette":
        options = {"palette": [(i, 255 - i, i // 2) for i in range(1 << bits)]}
    buffer = io.BytesIO()
    pypng.Writer(WIDTH, HEIGHT, bitdepth=bits, interlace=interlaced, compression=level, **options).write(
        buffer, grey(bits, channels).reshape(HEIGHT, -1)
    ) if not interlaced else pypng.Writer(
        WIDTH, HEIGHT, bitdepth=bits, interlace=True, compression=level, **options
    ).write_array(buffer, grey(bits, channels).ravel().tolist())
    return buffer.getvalue()


def zlib_png(values: np.ndarray, level: int, strategy: int, memory: int, window: int, size: int, kind: int) -> bytes:
    """A PNG file of 8 bits made by hand: zlib's parameters, the size of a chunk, and the filter of all rows or 5."""
    from vlae_codec.images.rasters import loops

    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    rows = values.reshape(height, -1)
    kinds = np.full(height, kind, np.uint8) if kind < 5 else np.arange(height, dtype=np.uint8) % 5
    deflater = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    body = deflater.compress(loops.filter_lines(rows, kinds, channels).tobytes()) + deflater.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [chunk(b"IDAT", body[at : at + size]) for at in range(0, len(body), size)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(parts) + chunk(b"IEND", b"")


def deflated_elsewhere(values: np.ndarray) -> bytes:
    """A PNG file whose stream no parameters of zlib make: it ends in an empty block."""
    source = zlib_png(values, 6, 0, 8, 15, 1 << 20, 5)
    at = source.index(b"IDAT")
    length = int.from_bytes(source[at - 4 : at], "big")
    lines = zlib.decompress(source[at + 4 : at + 4 + length])
    deflater = zlib.compressobj(6)
    body = deflater.compress(lines[:50]) + deflater.flush(zlib.Z_SYNC_FLUSH) + deflater.compress(lines[50:])
    body += deflater.flush()
    whole = source[: at - 4] + len(body).to_bytes(4, "big") + b"IDAT" + body
    return whole + zlib.crc32(b"IDAT" + body).to_bytes(4, "big") + source[at + 8 + length :]


def pngs() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}

    def add(name: str, make: Make, plain: bool = True) -> None:
        found[f"{name}.png"] = (make, plain)

    depths = {"grey": (1, 2, 4, 8, 16), "palette": (1, 2, 4, 8), "greyalpha": (8, 16), "rgb": (8, 16), "rgba": (8, 16)}
    for kind, bits in depths.items():
        for depth, interlaced in itertools.product(bits, (False, True)):
            add(f"pypng-{kind}-{depth}{'-interlaced' if interlaced else ''}",
                lambda a=(depth, kind, interlaced): pypng_of(*a))  # fmt: skip
    for level in range(10):
        add(f"imagecodecs-level{level}", lambda level=level: imagecodecs.png_encode(grey(8, 3), level))
        for strategy in range(5):
            add(f"zlib-level{level}-strategy{strategy}",
                lambda a=(level, strategy): zlib_png(grey(8, 3), *a, 8, 15, 1 << 16, 5))  # fmt: skip
    for memory, window, size, kind in itertools.product((8, 9), (10, 15), (7, 300), (0, 1, 2, 3, 4)):
        add(f"memory{memory}-window{window}-chunks{size}-filter{kind}",
            lambda a=(memory, window, size, kind): zlib_png(grey(8, 4), 6, 0, *a))  # fmt: skip
    plain = imagecodecs.png_encode(grey(8, 3))
    unknown = [(b"prVt", b"private"), (b"tEXt", b"Title\0words"), (b"vpAg", bytes(9)), (b"tIME", bytes(7))]
    add("chunks", lambda: with_chunks(plain, unknown, unknown[::-1]))
    add("after-the-end", lambda: plain + b"more bytes")
    add("animation", lambda: with_chunks(plain, [(b"acTL", bytes(8)), (b"fcTL", bytes(26))], [(b"fdAT", bytes(30))]))
    add("chunk-of-another-checksum", lambda: with_chunks(plain, unknown)[:40] + b"?" + with_chunks(plain, unknown)[41:])
    add("two-streams", lambda: with_chunks(plain, [], [(b"IDAT", b"more")]), False)
    add("jpeg-named-png", lambda: imagecodecs.jpeg8_encode(grey(8, 3)), False)
    return found


# -- the others --------------------------------------------------------------------------------------------------------


def bmp(bits: int, *, size: int = 40, down: bool = False, compression: int = 0, more: bytes = b"", after: bytes = b"",
        padding: bytes = b"\0") -> bytes:  # fmt: skip
    """A bitmap whose header has so many bytes; ``more`` comes between header and pixels."""
    step = (WIDTH * bits + 31) // 32 * 4
    pixels = (grey(8, 4).tobytes() * 2)[: HEIGHT * (WIDTH * bits // 8)]
    length = WIDTH * bits // 8
    rows = [pixels[i * length : (i + 1) * length].ljust(step, padding) for i in range(HEIGHT)]
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    if size > 12:
        height = -HEIGHT if down else HEIGHT
        header = struct.pack("<IiiHHIIiiII", size, WIDTH, height, 1, bits, compression, 0, 2835, 2835, 0, 0)
        header = header.ljust(size, b"\0")
    offset = 14 + len(header) + len(more)
    start = struct.pack("<2sIHHI", b"BM", offset + step * HEIGHT, 0, 0, offset)
    return start + header + more + b"".join(rows) + after


def bmps() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}
    for bits, size, down in itertools.product((8, 16, 24, 32), (12, 40, 108, 124), (False, True)):
        more = bytes(range(256)) * (3 if size == 12 else 4) if bits == 8 else b""
        found[f"{bits}-{size}{'-down' if down else ''}.bmp"] = (
            lambda a=bits, b={"size": size, "down": down, "more": more}: bmp(a, **b), True)  # fmt: skip
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    found["565.bmp"] = (lambda: bmp(16, compression=3, more=masks), True)
    found["profile.bmp"] = (lambda: bmp(24, size=124, after=bytes(range(256))), True)
    found["padding.bmp"] = (lambda: bmp(24, padding=b"?"), True)
    found["after.bmp"] = (lambda: bmp(24, after=b"more"), True)
    for bits in (1, 4):
        found[f"{bits}.bmp"] = (lambda bits=bits: bmp(bits, more=bytes(range(4 << bits))), False)
    return found


def pnms() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}
    for most, channels in itertools.product((1, 3, 15, 100, 200, 255, 1023, 4095, 65535), (1, 3)):
        values = (grey(16, channels).astype(np.int64) * most // 65535).astype(">u2" if most > 255 else "u1")
        body = b"P%d\n# made by hand\n%d %d\n%d\n" % (5 if channels == 1 else 6, WIDTH, HEIGHT, most) + values.tobytes()
        found[f"max{most}.{'pgm' if channels == 1 else 'ppm'}"] = (lambda body=body: body, True)
    for most, channels in itertools.product((1, 255, 4095, 65535), (1, 2, 3, 4, 5)):
        values = (grey(16, channels).astype(np.int64) * most // 65535).astype(">u2" if most > 255 else "u1")
        body = b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH %d\nMAXVAL %d\nTUPLTYPE OF_MINE\n# words\nENDHDR\n" % (
            WIDTH, HEIGHT, channels, most) + values.tobytes()  # fmt: skip
        found[f"max{most}-{channels}.pam"] = (lambda body=body: body, True)
    size = b"%d %d" % (WIDTH, HEIGHT)
    two = b"P5 " + size + b" 255\n" + grey().tobytes() + b"P5 9 9 255\n" + bytes(81)
    text = b"P2 3 2 9\n1 2 3\n4 5 6\n"
    found["two.pgm"] = (lambda: two, True)
    found["comment-last.pgm"] = (lambda: b"P5 " + size + b" 255 # words\n" + grey().tobytes(), True)
    found["text.pgm"] = (lambda: text, False)
    found["bits.pbm"] = (lambda: b"P4 " + size + b"\n" + np.packbits(grey() > 100, axis=1).tobytes(), False)
    found["floats.pfm"] = (lambda: b"Pf\n" + size + b"\n-1.0\n" + grey().astype("<f4").tobytes(), False)
    return found


def tga(kind: int, depth: int, descriptor: int, identity: bytes = b"", after: bytes = b"") -> bytes:
    colours = bytes(range(256)) * 3 if kind == 1 else b""
    header = struct.pack("<BBBHHB", len(identity), kind == 1, kind, 0, len(colours) // 3, 24 if colours else 0)
    header += struct.pack("<HHHHBB", 0, 0, WIDTH, HEIGHT, depth, descriptor)
    return header + identity + colours + grey(8, 4).tobytes()[: HEIGHT * WIDTH * depth // 8] + after


def tgas() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}
    footer = bytes(495) + b"me" + bytes(8) + b"TRUEVISION-XFILE.\0"
    for (kind, depth), place in itertools.product(
        [(1, 8), (2, 16), (2, 24), (2, 32), (3, 8), (3, 16)], (0, 16, 32, 48)
    ):
        found[f"{kind}-{depth}-{place}.tga"] = (lambda a=(kind, depth, place): tga(*a), True)
    found["identity.tga"] = (lambda: tga(2, 24, 32, b"made by hand"), True)
    found["author.tga"] = (lambda: tga(2, 24, 0, b"made by hand", footer), True)
    runs = b"".join(bytes([0x80 | (WIDTH - 1), y, y, y]) for y in range(HEIGHT))
    start = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 24, 32)
    found["runs.tga"] = (lambda: start + runs, False)
    return found


def sgis() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}
    for size, channels in itertools.product((1, 2), (1, 2, 3, 4)):
        values = np.moveaxis(grey(8 * size, channels).reshape(HEIGHT, WIDTH, channels)[::-1], 2, 0)
        header = struct.pack(">HBBHHHH", 474, 0, size, 2 if channels == 1 else 3, WIDTH, HEIGHT, channels)
        header = (header + struct.pack(">II4s80sI", 0, 255, b"", b"name of the picture", 0)).ljust(512, b"?")
        body = values.astype(">u2" if size == 2 else "u1").tobytes()
        suffix = {1: "bw", 2: "sgi", 3: "rgb", 4: "rgba"}[channels]
        found[f"{size}-{channels}.{suffix}"] = (lambda a=header + body: a, True)
    return found


def others() -> dict[str, tuple[Make, bool]]:
    found: dict[str, tuple[Make, bool]] = {}
    for channels in (3, 4):
        values = grey(8, channels)
        found[f"{channels}.qoi"] = (lambda v=values: imagecodecs.qoi_encode(v), True)
        found[f"{channels}-after.qoi"] = (lambda v=values: imagecodecs.qoi_encode(v) + b"more", True)
        found[f"{channels}-linear.qoi"] = (lambda v=values: _linear(imagecodecs.qoi_encode(v)), True)
        for level in (-1, 60):
            found[f"{channels}-{level}.webp"] = (
                lambda a=(values, level): imagecodecs.webp_encode(a[0], a[1], lossless=a[1] < 0), False)  # fmt: skip
    flat = np.zeros((HEIGHT, 90, 3), np.uint8)
    found["runs.qoi"] = (lambda: imagecodecs.qoi_encode(flat), True)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    found["noise.qoi"] = (lambda: imagecodecs.qoi_encode(noise), True)
    # Pixels as whole colours throughout, which no encoder would write.
    long = b"".join(b"\xfe" + bytes(pixel) for pixel in noise[..., :3].reshape(-1, 3) // 32 * 32)
    found["long.qoi"] = (lambda: b"qoif" + struct.pack(">IIBB", WIDTH, HEIGHT, 3, 0) + long + bytes(7) + b"\1", False)
    plain = imagecodecs.gif_encode(grey())
    found["plain.gif"] = (lambda: plain, False)
    found["comment.gif"] = (lambda: plain[:-1] + b"!\xfe\x05words\0;", False)
    found["after.gif"] = (lambda: plain + b"more", False)
    found["two.gif"] = (lambda: imagecodecs.gif_encode(np.stack([grey(), grey(seed=1)])), False)
    found["a.jpg"] = (lambda: imagecodecs.jpeg8_encode(grey(8, 3)), False)
    found["a.jp2"] = (lambda: imagecodecs.jpeg2k_encode(grey(8, 3)), False)
    found["a.jxl"] = (lambda: imagecodecs.jpegxl_encode(grey(8, 3)), False)
    return found


def _linear(qoi: bytes) -> bytes:
    return qoi[:13] + b"\1" + qoi[14:]


#: Every file by its name: what makes it, and whether it is one that is made again from its pixels.
CORPUS: dict[str, tuple[Make, bool]] = {
    name: value for part in (tiffs, pngs, bmps, pnms, tgas, sgis, others) for name, value in part().items()
}
