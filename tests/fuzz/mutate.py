"""Decode damaged files for as long as asked: each must give its own pixels or a `VlaeError`, in little time and memory.

python tests/fuzz/mutate.py --seconds 600 --seed 0

A share of the mutants has every checksum made right again, so that what lies behind the checksums is reached too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
sys.path.insert(0, str(HERE.parent))

from conftest import binary_images, picture, vlae_file  # noqa: E402

import vlae_codec  # noqa: E402
from vlae_codec import Archive, registry  # noqa: E402
from vlae_codec.coding.binary import BinaryCoder  # noqa: E402
from vlae_codec.coding.wavefront import Alphabet  # noqa: E402
from vlae_codec.errors import VlaeError  # noqa: E402
from vlae_codec.formats import header as container  # noqa: E402
from vlae_codec.formats import lossy  # noqa: E402
from vlae_codec.formats import single as api  # noqa: E402
from vlae_codec.formats.archive_writer import ArchiveWriter, archive_array  # noqa: E402
from vlae_codec.formats.chains import binary_digest  # noqa: E402
from vlae_codec.formats.header import FallbackKind, FileKind, Header, Reason, write_varint  # noqa: E402
from vlae_codec.formats.section_writer import CHAINS, END, Tag  # noqa: E402
from vlae_codec.formats.sections import END_BYTES  # noqa: E402
from vlae_codec.formats.source import compress_file, restore_file  # noqa: E402
from vlae_codec.images import fallback  # noqa: E402
from vlae_codec.images import io as imaging  # noqa: E402
from vlae_codec.images.metadata import metadata_of  # noqa: E402
from vlae_codec.images.pixels import to_planes  # noqa: E402
from vlae_codec.images.rasters import deflate  # noqa: E402
from vlae_codec.images.rasters.png import Parameters  # noqa: E402
from vlae_codec.images.sets import Source  # noqa: E402
from vlae_codec.stages import StageKind  # noqa: E402

#: Most seconds and bytes of memory that one mutant may take.
SECONDS = 5
BYTES = 256 << 20
#: Mutants in a row of one file, so that its model stays loaded.
RUN = 200
#: Values at which counts and lengths go wrong.
EXTREMES = [0, 1, 2, 3, 127, 128, 255, 256, 1 << 14, (1 << 16) - 1, 1 << 24, 1 << 28, (1 << 28) + 1, (1 << 31) - 1,
            1 << 31, (1 << 32) - 1, 1 << 32, 1 << 34, 1 << 56, (1 << 63) - 1, 1 << 63]  # fmt: skip
TEXTS = [b"0", b"-1", b"1", b"2", b"64", b"65", b"268435456", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""',
         b'"../a"', b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b'"\\ud800"']  # fmt: skip


class WrongResult(Exception):
    """What was decoded is neither the original nor refused."""


class TooSlow(BaseException):
    """Not an `Exception`, so that nothing that is tested can catch it."""


@dataclass(frozen=True)
class Subject:
    """A sound file, and what decodes it and tells whether the result is right.

    ``decode`` takes the mutant and whether its checksums were made right; it returns a word for the outcome, or raises.
    """

    name: str
    kind: str
    data: bytes = field(repr=False)
    decode: Callable[[bytes, bool], str] = field(repr=False)


# -- what is mutated -------------------------------------------------------------------------------------------------


def subjects() -> list[Subject]:
    """The golden files of the tiny models, and files of the forms that are not among those."""
    os.environ["VLAE_CODEC_MODELS"] = str(GOLDEN)
    # Compiling it takes longer than a mutant may.
    deflate.deflate(b"", Parameters(6, 0, 8, 15))
    found = []
    for path in sorted(GOLDEN.glob("*.vlae")):
        # Those of the shipped models, and archives of 300 images, take too long; `made` has smaller ones.
        if not path.stem.startswith(("fast", "photo")) and not path.stem.endswith("array"):
            found.append(_subject(path.stem, path.read_bytes()))
    found += [_subject(name, data) for name, data in made().items()]
    found += [_model(path) for path in sorted(GOLDEN.glob("*.safetensors"))]
    return found


def made() -> dict[str, bytes]:
    """Files of every other form, and small archives."""
    files = {}
    for name in ("tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"):
        loaded = registry.load_model(GOLDEN / f"{name}.safetensors", "cpu")
        files[f"{name}-array"] = archive_array(binary_images(7, 8), loaded, segment=4, embed=True)
        particles = 2 if loaded.config.z_channels else 1
        files[f"{name}-short"] = archive_array(binary_images(19, 8), loaded, particles=particles, key="a")
    model = registry.load_model(GOLDEN / "tiny.safetensors", "cpu")
    binary = registry.load_model(GOLDEN / "tiny-binary.safetensors", "cpu")
    rgba = Image.fromarray(np.concatenate([picture("smooth", 9, 12), picture("flat", 9, 12)[..., :1]], 2), "RGBA")
    palette = Image.fromarray(picture("gaps", 12, 9)).convert("P")
    grey = Image.fromarray(picture("grey", 11, 10)).convert("L")
    grey.info.update(icc_profile=b"profile", dpi=(72, 72), gamma=0.45455, comment="a comment", transparency=3)
    files |= {
        "webp": _fallback(rgba, FallbackKind.WEBP), "png": _fallback(palette, FallbackKind.PNG),
        "deflate": _fallback(palette, FallbackKind.DEFLATE),
        "bilevel": _fallback(grey.convert("1"), FallbackKind.DEFLATE),
        "webp-palette": container.write(*_smallest(palette)),
        "wide": _fallback(Image.new("I;16", (9, 9), 700), FallbackKind.PNG),
    }  # fmt: skip
    header = Header(FileKind.VLAE, *grey.size, fallback.digest_of(grey), metadata_of(grey))
    planes = to_planes(np.asarray(grey))
    files["metadata"] = api.encode_as(StageKind.PLAIN_Z, *planes, header, model)
    header = Header(FileKind.VLAE, *rgba.size, fallback.digest_of(rgba), alpha=api._encode_alpha(np.asarray(rgba)))
    files["alpha"] = api.encode_as(StageKind.WITHOUT_Z, *to_planes(np.asarray(rgba)), header, model)
    files["stored"] = container.write_stored(Reason.SMALLEST, "a.png", fallback.saved(grey, "PNG"))
    words = PngInfo()
    words.add_text("Author", "somebody", zip=True)
    words.add_itxt("Title", "a picture")
    larger = Image.fromarray(picture("smooth", 40, 40))
    for name, fmt, options in (
        ("chunks", "PNG", {"pnginfo": words, "dpi": (300, 300), "icc_profile": b"profile"}),
        ("anew", "PNG", {"compress_level": 0}),
        ("tags", "TIFF", {"dpi": (300, 300), "description": "a picture"}),
        ("qoi", "QOI", {}),
    ):
        files[name] = compress_file(fallback.saved(larger, fmt, **options), f"a.{fmt.lower()}", model)
        assert container.kind_of(files[name]) is not FileKind.STORED
    files["packed"] = container.write_stored(Reason.FORMAT, "a.gif", fallback.saved(larger.quantize(9), "BMP"))
    small = Image.fromarray(picture("smooth", 20, 24))
    files["small"] = vlae_file(small, StageKind.BITS_BACK, model)
    files["turned"] = vlae_file(Image.fromarray(picture("smooth", 14, 19)), StageKind.WITHOUT_Z, model, orientation=5)
    files["small-gaps"] = vlae_file(Image.fromarray(picture("gaps", 9, 12)), StageKind.PLAIN_Z, model)
    writer = ArchiveWriter(Source(), model, embed=True)
    for name, data in (("a.png", vlae_file(small, StageKind.BITS_BACK, model)), ("b/c.png", files["webp"])):
        writer.add_single(data, name)
    files["archive-singles"] = writer.finish()
    writer = ArchiveWriter(Source("array", shape=(2, 20, 24, 3)), model)
    for _ in range(2):
        writer.add_single(vlae_file(small, StageKind.PLAIN_Z, model), "")
    files["archive-single-array"] = writer.finish()
    bits = binary_images(12, 8)
    writer = ArchiveWriter(Source("files", 255, "1"), binary)
    for first in (0, 6):
        writer.add_chain(bits[first : first + 6], [f"{i}.png" for i in range(first, first + 6)])
    files["archive-names"] = writer.finish()
    writer = ArchiveWriter(Source("array", 1, shape=(3, 8, 8)), binary)
    writer.add_chain(bits[:3], [])
    files["archive-chain"] = writer.finish()
    files["lossy-photograph"] = lossy.encode_photograph(small, model, "a.png").to_bytes()
    return files


def _fallback(image: Image.Image, kind: FallbackKind) -> bytes:
    header = Header(
        FileKind.FALLBACK, *image.size, fallback.digest_of(image), fallback_kind=kind, pillow_mode=image.mode
    )
    options = {"lossless": True, "exact": True} if kind is FallbackKind.WEBP else {}
    payload = fallback.raw(image) if kind is FallbackKind.DEFLATE else fallback.saved(image, kind.name, **options)
    return container.write(header, payload)


def _smallest(image: Image.Image) -> tuple[Header, bytes]:
    kind, payload = fallback.smallest_fallback(image)
    header = Header(
        FileKind.FALLBACK, *image.size, fallback.digest_of(image), fallback_kind=kind, pillow_mode=image.mode
    )
    return header, payload


def _subject(name: str, data: bytes) -> Subject:
    file_kind = container.kind_of(data)
    if file_kind in (FileKind.ARCHIVE, FileKind.SHORT_ARCHIVE):
        return _archive(name, data)
    if file_kind is FileKind.LOSSY:
        return _lossy(name, data)
    kind = file_kind.name.lower()
    original = api.decompress(data)
    expected = (original.mode, original.size, original.tobytes())

    def decode(mutant: bytes, repaired: bool) -> str:
        refused = _refusal(lambda: vlae_codec.info(mutant))
        image = api.decompress(mutant)
        if refused:
            raise WrongResult(f"decoded, but info says {refused}")
        _refusal(lambda: imaging.encode_output(image, ".png"))
        _refusal(lambda: restore_file(mutant))
        if (image.mode, image.size, image.tobytes()) == expected:
            return "same pixels"
        if repaired and fallback.digest_of(image) == container.read(mutant)[0].digest:
            return "another valid file"
        raise WrongResult(f"other pixels, {image.mode} {image.size}")

    return Subject(name, kind, data, decode)


def _refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except VlaeError as error:
        return str(error) or "refused"
    return ""


def _flat(image: Any) -> bytes:
    pixels = np.asarray(image, np.uint8)
    return repr((getattr(image, "mode", ""), pixels.shape)).encode() + pixels.tobytes()


def _archive(name: str, data: bytes) -> Subject:
    sound = Archive(io.BytesIO(data), None, "cpu")
    expected = [_flat(image) for image in sound]
    bits = {binary_digest(sound.binary_segment(s)) for s in sound.segments if s.tag in CHAINS}
    array = sound.array() if sound.source.kind == "array" else None

    def decode(mutant: bytes, repaired: bool) -> str:
        archive = Archive(io.BytesIO(mutant), None, "cpu")
        info = _refusal(archive.info)
        if len(archive.names) != len(archive):
            raise WrongResult(f"{len(archive.names)} names of {len(archive)} images")
        # Which of the ways to read it: all of them would take three times as long.
        view = zlib.crc32(mutant) % 3
        if view == 0 and array is not None and archive.source.kind == "array":
            got = archive.array()
            if not repaired and not np.array_equal(got, array):
                raise WrongResult(f"another array of {got.dtype}, {got.shape}")
            return "same pixels" if np.array_equal(got, array) else "another valid file"
        if view == 1:
            return "partly restored" if archive.check() or info else "same pixels"
        result = "same pixels"
        for number, segment in enumerate(archive.segments):
            try:
                image = _flat(archive[segment.first])
                chain = archive._decoded.segments.get(number)
            except VlaeError:
                result = "partly restored"
                continue
            # The sections' checksums alone hold their order, what stands for a one, and the mode.
            if not repaired and image != expected[segment.first]:
                raise WrongResult(f"image {segment.first} is another one")
            if chain is not None and binary_digest(chain) not in bits:
                raise WrongResult(f"other images from {segment.first} on")
        return result

    return Subject(name, "archive", data, decode)


def _lossy(name: str, data: bytes) -> Subject:
    sound = lossy.LossyFile.from_bytes(data)
    expected = lossy.reconstruct(sound, seed=3)

    def decode(mutant: bytes, repaired: bool) -> str:
        file = lossy.LossyFile.from_bytes(mutant)
        file.info()
        drawn = lossy.reconstruct(file, seed=3)
        if drawn.dtype != np.uint8 or drawn.shape[:2] != (1, file.head["count"]):
            raise WrongResult(f"drawn {drawn.dtype}, {drawn.shape} of {file.head['count']} images")
        if np.array_equal(drawn, expected):
            return "same pixels"
        if not repaired:
            raise WrongResult("other pixels")
        # A lossy file has no digest of pixels: with a right checksum it is another file.
        return "another valid file"

    return Subject(name, "lossy", data, decode)


def _model(path: Path) -> Subject:
    photograph, bits = picture("smooth", 7, 9), binary_images(3, 8)

    def decode(mutant: bytes, repaired: bool) -> str:
        model = registry.model_from_bytes(mutant, "mutant", "cpu")
        # Whatever is accepted as a model must code without loss.
        if isinstance(model.coder, BinaryCoder):
            size = model.coder.config.image_size
            images = bits if size == 8 else binary_images(3, size)
            message, plan, _ = model.coder.encode(images, 2)
            again = np.concatenate(list(model.coder.decode(message, plan.stages(len(images)))))
        else:
            images, alphabet = photograph, Alphabet.of(photograph, 3)
            stages_kind = StageKind.PLAIN_Z if model.coder.config.z_channels else StageKind.WITHOUT_Z
            message, stages, _ = model.coder.encode(images, alphabet, stages_kind)
            again, _ = model.coder.decode(message, images.shape[:2], alphabet, stages)
        if not np.array_equal(again, images):
            raise WrongResult("a model that codes with loss")
        return "the same model" if mutant == path.read_bytes() else "another valid model"

    return Subject(path.stem, "model", path.read_bytes(), decode)


# -- mutations -------------------------------------------------------------------------------------------------------


def sections(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and bodies of an archive's sections but its index, as far as their lengths lead."""
    found, reader = [], container.Reader(data[:-END_BYTES])
    reader.at = 10
    try:
        while reader.at < len(reader.data):
            tag = reader.take(1, "")[0]
            length = reader.varint("", 0, 1 << 40)
            reader.take(4, "")
            found.append((tag, reader.take(length, "")))
    except VlaeError:
        pass
    return found


def assemble(parts: list[tuple[int, bytes]], index: bytes) -> bytes:
    """An archive of sections, every checksum right; ``index`` is the body of the index."""
    out = bytearray(container.MAGIC) + bytes([container.VERSION, FileKind.ARCHIVE])
    for tag, body in parts:
        out += bytes([tag]) + write_varint(len(body)) + zlib.crc32(bytes([tag]) + body).to_bytes(4, "little") + body
    place = len(out).to_bytes(8, "little")
    out += bytes([5]) + write_varint(len(index)) + zlib.crc32(b"\5" + index).to_bytes(4, "little") + index
    return bytes(out) + place + zlib.crc32(place).to_bytes(4, "little") + END


def index_of(parts: list[tuple[int, bytes]], rng: random.Random | None = None) -> bytes:
    """The index of sections; with ``rng``, one of its numbers is replaced."""
    numbers, last, at = [len(parts)], 0, 10
    for tag, body in parts:
        count = 1 if tag == Tag.SINGLE else 0
        if tag in CHAINS:
            try:
                reader = container.Reader(body)
                reader.varint("", 0, 1 << 60)
                count = reader.varint("", 0, 1 << 60)
            except VlaeError:
                count = 1
        numbers += [tag & 0x7F, at - last, count]
        last, at = at, at + 5 + len(write_varint(len(body))) + len(body)
    if rng:
        numbers[rng.randrange(len(numbers))] = rng.choice(EXTREMES)
    return b"".join(map(write_varint, numbers))


def repaired(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Every checksum made right: a file's own, or those of an archive's sections, index and end."""
    if kind == "model":
        return data
    if kind != "archive" or data[9:10] == bytes([FileKind.SHORT_ARCHIVE]):
        return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")
    parts = sections(data)
    if rng.random() < 0.2 and parts:
        at = rng.randrange(len(parts))
        if parts[at][0] == Tag.SINGLE and len(parts[at][1]) > 20:
            # The file within has a checksum of its own.
            begin = parts[at][1].find(container.MAGIC)
            if begin >= 0:
                parts[at] = (parts[at][0], parts[at][1][:begin] + repaired(parts[at][1][begin:], "image", rng))
    if parts and parts[-1][0] == Tag.INDEX:
        last = parts.pop()[1]
        if rng.random() < 0.3:
            return assemble(parts, last)
    return assemble(parts, index_of(parts, rng if rng.random() < 0.2 else None))


def _bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One change of some bytes."""
    out = bytearray(data)
    # Headers are short and payloads long: half of the changes fall near the beginning.
    end = min(len(data), 120) if rng.random() < 0.5 else len(data)
    at = rng.randrange(max(end, 1))
    length = min(rng.choice([1, 1, 2, 4, 8, 32, 200]), len(data) - at)
    piece = bytes(out[at : at + length])
    what = rng.randrange(12)
    if what < 3 and out:
        out[at] ^= 1 << rng.randrange(8)
    elif what == 3 and out:
        out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif what == 4:
        out[at:at] = rng.randbytes(length)
    elif what == 5:
        del out[at : at + length]
    elif what == 6:
        out[at:at] = piece
    elif what == 7:
        to = rng.randrange(max(len(data), 1))
        out[at : at + length], out[to : to + length] = out[to : to + length], piece
    elif what == 8:
        del out[at:]
    elif what == 9:
        out += rng.randbytes(rng.choice([1, 4, 100]))
    elif what == 10:
        out = out[:at] + other[rng.randrange(len(other)) :]
    else:
        return _number(data, at, rng)
    return bytes(out)


def _number(data: bytes, at: int, rng: random.Random) -> bytes:
    """Whatever stands at a place, read as a varint or as a fixed field, overwritten by an extreme value."""
    value = rng.choice(EXTREMES) + rng.randrange(-1, 2)
    value = max(value, 0)
    if rng.random() < 0.3:
        size = rng.choice([2, 4, 8])
        return (
            data[:at]
            + (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(["little", "big"]))
            + data[at + size :]
        )
    end = at
    while end < len(data) - 1 and data[end] >= 0x80:
        end += 1
    return data[:at] + write_varint(value) + data[end + 1 :]


def _text(text: bytes, rng: random.Random) -> bytes:
    """JSON with one of its values replaced, or a byte changed."""
    if rng.random() < 0.2 and text:
        return _bytes(text, rng, text)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    places = list(_places(value))
    if not places:
        return rng.choice(TEXTS)
    holder, key = rng.choice(places)
    holder[key] = "\0HERE\0"
    return json.dumps(value, separators=(",", ":")).encode().replace(b'"\\u0000HERE\\u0000"', rng.choice(TEXTS))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _inflated(data: bytes, rng: random.Random) -> bytes:
    """A zlib stream within the data, its text changed, packed again, and the length before it made right."""
    at = data.find(b"\x78\xda")
    if at < 0:
        return data
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data[at:])
    except zlib.error:
        return data
    if not inflater.eof:
        return data
    size = len(data) - at - len(inflater.unused_data)
    packed = zlib.compress(_text(text, rng), 9)
    length = write_varint(size)
    before = data[:at]
    if before.endswith(length):
        before = before[: -len(length)] + write_varint(len(packed))
    return before + packed + inflater.unused_data


def _tensors(data: bytes, rng: random.Random) -> bytes:
    """A model file whose JSON is changed: of the tensors, or of the configuration."""
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size]
    try:
        head = json.loads(text)
        if rng.random() < 0.7:
            meta = head["__metadata__"]
            meta["vlae_codec_model"] = _text(meta["vlae_codec_model"].encode(), rng).decode("utf-8", "replace")
            text = json.dumps(head, separators=(",", ":")).encode()
        else:
            text = _text(text, rng)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def mutant(subject: Subject, rng: random.Random, others: list[Subject]) -> tuple[bytes, bool]:
    """A changed copy of a file, and whether its checksums were made right."""
    data, other = subject.data, rng.choice(others).data
    repair = rng.random() < 0.6
    if subject.kind == "model" and rng.random() < 0.6:
        return _tensors(data, rng), True
    if subject.kind == "archive" and data[9:10] != bytes([FileKind.SHORT_ARCHIVE]) and rng.random() < 0.4:
        parts = sections(data)[:-1]
        at = rng.randrange(len(parts))
        tag, body = parts[at]
        change = rng.randrange(8)
        if change == 0:
            del parts[at]
        elif change == 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[at])
        elif change == 2:
            parts[at] = (rng.randrange(8), body)
        elif change < 5:
            parts[at] = (tag, _inflated(body, rng))
        else:
            parts[at] = (tag, _bytes(body, rng, other))
        return assemble(parts, index_of(parts, rng if rng.random() < 0.3 else None)), True
    if repair and rng.random() < 0.2:
        data = _inflated(data, rng)
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            data = _bytes(data, rng, other)
    # Two files may be joined to one that is whole.
    return (repaired(data, subject.kind, rng), True) if repair else (data, any(data == each.data for each in others))


# -- running ---------------------------------------------------------------------------------------------------------


@contextmanager
def limits() -> Iterator[None]:
    """`TooSlow` after `SECONDS`, and `WrongResult` where more than `BYTES` were taken."""

    def late(number: int, frame: Any) -> None:
        raise TooSlow(f"took more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Processor time, as a busy machine is no fault of the file's.
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown << 10 > BYTES:
            raise WrongResult(f"took {grown >> 10} MiB of memory")


def outcome(subject: Subject, data: bytes, was_repaired: bool) -> str:
    """A word for what became of a mutant; raises anything else than a `VlaeError`."""
    try:
        with limits():
            return subject.decode(data, was_repaired)
    except VlaeError as error:
        return type(error).__name__


def main() -> int:
    """Run; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Decode damaged files for as long as asked.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=1 << 60, help="mutants at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--save", type=Path, default=Path("fuzz-failures"), help="folder for mutants that fail")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    everything = subjects()
    chosen = [subject for subject in everything if arguments.only in subject.name]
    for subject in chosen:
        # What is compiled or loaded once is not the mutants' cost.
        outcome(subject, subject.data, False)
    counts: Counter[tuple[str, str]] = Counter()
    failures: Counter[str] = Counter()
    begun, done = time.monotonic(), 0
    while done < arguments.count and time.monotonic() - begun < arguments.seconds:
        subject = rng.choice(chosen)
        for _ in range(min(RUN, arguments.count - done)):
            data, was_repaired = mutant(subject, rng, everything)
            done += 1
            try:
                result = outcome(subject, data, was_repaired)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                result = "FAILED"
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(frame.filename).name}:{frame.lineno}"
                key = f"{subject.kind}: {type(error).__name__}: {str(error)[:100]} ({place})"
                failures[key] += 1
                if failures[key] <= 3:
                    arguments.save.mkdir(parents=True, exist_ok=True)
                    path = (
                        arguments.save / f"{subject.name}-{zlib.crc32(data):08x}{'-repaired' if was_repaired else ''}"
                    )
                    path.write_bytes(data)
                    print(f"{path}: {key}", flush=True)
            counts[subject.kind, result] += 1
    seconds = time.monotonic() - begun
    print(f"{done} mutants of {len(chosen)} files in {seconds:.0f} s, {done / seconds:.0f} a second")
    for (kind, result), count in sorted(counts.items()):
        print(f"{kind:10} {result:22} {count:8}")
    for key, count in failures.most_common():
        print(f"{count:6} x {key}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
