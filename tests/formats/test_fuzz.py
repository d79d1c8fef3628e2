"""A part of what tests/fuzz/mutate.py does for hours, and what it has found."""

from __future__ import annotations

import io
import json
import random
import time
import zlib

import numpy as np
import pytest
from conftest import GOLDEN, binary_images
from fuzz import mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.exact.integer import IntegerModel

import vlae_codec
from vlae_codec import Archive, Model, fields, load_model
from vlae_codec.errors import CorruptFile, UnknownModel, UnsafeModel, UnsupportedImage, VlaeError
from vlae_codec.formats import header as container
from vlae_codec.formats import lossy, sections
from vlae_codec.formats import single as api
from vlae_codec.formats.archive_writer import archive_array
from vlae_codec.formats.header import FallbackKind, FileKind, Header
from vlae_codec.images import sets

#: Of each kind, the files that show most; the script takes all.
CHOSEN = {
    "vlae": ["small", "metadata", "alpha"],
    "fallback": ["webp", "png", "deflate", "bilevel", "chunks", "tags", "webp-palette", "anew", "wide", "qoi"],
    "stored": ["stored", "packed"],
    "archive": ["archive-names", "archive-singles", "tiny-binary-array", "tiny-binary-short", "tiny-binary-listed"],
    "lossy": ["tiny-binary-lossy", "lossy-photograph"],
    "model": ["tiny-no-z", "tiny-binary"],
}


@pytest.fixture(scope="module")
def subjects() -> dict[str, mutate.Subject]:
    with pytest.MonkeyPatch.context() as patch:
        # It sets the variable itself, as a script does.
        patch.setenv("VLAE_CODEC_MODELS", str(GOLDEN))
        return {subject.name: subject for subject in mutate.subjects()}


@pytest.mark.parametrize("kind", list(CHOSEN))
@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_gives_its_own_pixels_or_an_error(
    subjects: dict[str, mutate.Subject], kind: str, seed: int
) -> None:
    rng = random.Random(seed)
    subject = subjects[rng.choice(CHOSEN[kind])]
    mutate.outcome(subject, *mutate.mutant(subject, rng, list(subjects.values())))


def header_length(data: bytes) -> int:
    """Bytes before the payload."""
    kind = container.kind_of(data)
    if kind is FileKind.LOSSY:
        return len(data) - 4 - 4 * len(lossy.LossyFile.from_bytes(data).words)
    if kind is FileKind.STORED:
        return len(data) - 4 - min(len(container.read_stored(data)[2]), len(data) // 2)
    if kind is FileKind.SHORT_ARCHIVE:
        return 40
    if kind is FileKind.ARCHIVE:
        return Archive(io.BytesIO(data)).segments[0].offset + 60
    return len(data) - 4 - len(container.read(data)[1])


@pytest.mark.parametrize(
    "name", ["small", "small-gaps", "metadata", "alpha", "stored", "packed", "chunks", "tags", "anew", "qoi",
             "palette-fallback", "webp", "archive-chain", "archive-single-array", "tiny-binary-short",
             "tiny-binary-listed-one", "tiny-binary-lossy"],
)  # fmt: skip
def test_every_byte_of_every_header(subjects: dict[str, mutate.Subject], name: str) -> None:
    subject = subjects[name]
    rng = random.Random(0)
    reached = 0
    for at in range(header_length(subject.data)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(subject.data)
            data[at] ^= flip
            with_checksum = mutate.repaired(bytes(data), subject.kind, rng)
            if subject.kind != "archive":
                with pytest.raises(VlaeError):
                    subject.decode(bytes(data), False)
            else:
                mutate.outcome(subject, bytes(data), False)
            reached += mutate.outcome(subject, with_checksum, True) not in ("NotAVlaeFile", "UnsupportedVersion")
    assert reached > 30


# -- what it found ---------------------------------------------------------------------------------------------------


def test_an_unknown_mode_of_pillow() -> None:
    header = Header(FileKind.FALLBACK, 3, 3, bytes(8), fallback_kind=FallbackKind.PNG, pillow_mode="RGBQ")
    with pytest.raises(CorruptFile, match="mode 'RGBQ', which Pillow does not know"):
        vlae_codec.info(container.write(header, b""))


@pytest.mark.parametrize("gamma", ["-1", "NaN", "1e300"])
def test_gamma_that_png_cannot_hold(gamma: str) -> None:
    from PIL import Image

    from vlae_codec.images import io as imaging
    from vlae_codec.images import metadata

    image = Image.new("L", (1, 1))
    metadata.restore_metadata(image, {"gamma": json.loads(gamma)})
    with pytest.raises(UnsupportedImage, match="cannot be written as PNG"):
        imaging.encode_output(image, ".png")


def test_text_that_is_no_text() -> None:
    header = Header(FileKind.FALLBACK, 1, 1, bytes(8), {"comment": "\ud800"})
    with pytest.raises(CorruptFile, match="metadata cannot be read"):
        container.read(container.write(header, b""))
    with pytest.raises(UnsupportedImage, match="no text in UTF-8"):
        fields.check_names(["\ud800.png"])


def resealed(parts: list[tuple[int, bytes]]) -> Archive:
    return Archive(io.BytesIO(mutate.assemble(parts, mutate.index_of(parts))), None, "cpu")


@pytest.fixture
def parts(binary_model: Model) -> list[tuple[int, bytes]]:
    """The sections of an archive of an array, without its index."""
    return mutate.sections(archive_array(binary_images(10, 8), binary_model, segment=5))[:-1]


@pytest.mark.parametrize("shape", [(10, 4, 16), (10, 8, 9), (10, 8, 8, 3)])
def test_an_array_of_another_shape_than_its_images(parts: list[tuple[int, bytes]], shape: tuple[int, ...]) -> None:
    head = zlib.compress(json.dumps(sets.Source("array", 1, shape=shape).to_json()).encode())
    with pytest.raises(CorruptFile, match=r"an image of shape \(8, 8\) in an array"):
        resealed([(sections.Tag.HEAD, head), *parts[1:]]).array()


@pytest.mark.parametrize("place", [10**9, 2**63, 2**64 - 1])
def test_an_index_that_is_nowhere(parts: list[tuple[int, bytes]], place: int) -> None:
    data = mutate.assemble(parts, mutate.index_of(parts))[:-20]
    where = place.to_bytes(8, "little")
    broken = Archive(io.BytesIO(data + where + zlib.crc32(where).to_bytes(4, "little") + sections.END))
    assert f"a section at byte {place} of a file" in broken.damaged[0]
    assert len(broken) == 10


@pytest.mark.parametrize("count", [0, 11, 1 << 28])
def test_counts_that_an_archive_cannot_hold(parts: list[tuple[int, bytes]], count: int) -> None:
    index = container.Reader(mutate.index_of(parts))
    numbers = [index.varint("", 0, 1 << 60) for _ in range(1 + 3 * len(parts))]
    # The second segment's; then the first's.
    for at in (9, 6):
        changed = b"".join(container.write_varint(count if i == at else n) for i, n in enumerate(numbers))
        with pytest.raises(CorruptFile, match=r"cannot hold|its head says"):
            Archive(io.BytesIO(mutate.assemble(parts, changed)))


def test_a_section_that_is_none_of_what_the_index_says(parts: list[tuple[int, bytes]]) -> None:
    index = mutate.index_of(parts).replace(bytes([sections.Tag.PLANNED]), bytes([sections.Tag.SINGLE]), 1)
    with pytest.raises(CorruptFile):
        Archive(io.BytesIO(mutate.assemble(parts, index))).array()


def test_a_batch_is_never_larger_than_an_encoder_makes_it() -> None:
    parts = mutate.sections((GOLDEN / "tiny-binary-listed-one.vlae").read_bytes())[:-1]
    tag, body = parts[1]
    one, many = container.write_varint(1), container.write_varint(1 << 20)
    # first image, count, names, digest and model, lanes, one batch of one image with plain z
    changed = body[:1] + many + body[2:20] + one + container.write_varint(1 << 22 | 2) + body[22:]
    assert body[1:2] == one
    assert body[20:22] == b"\x01\x06"
    found = [(sections.Tag.HEAD, parts[0][1]), (tag, changed)]
    with pytest.raises(CorruptFile):
        resealed(found).check()
    segment = sections.Segment(sections.Tag.CHAIN, 0, 0, 1 << 20)
    reader = Archive(io.BytesIO(mutate.assemble(parts, mutate.index_of(parts))), None, "cpu")
    reader.file.section_at = lambda offset, *wanted: (tag, changed, 0)  # type: ignore[method-assign]
    with pytest.raises(CorruptFile, match="a batch is"):
        reader.chain(segment)


def test_a_batch_without_z_among_those_with() -> None:
    model = load_model(GOLDEN / "tiny-binary-vae.safetensors", "cpu")
    packed = (GOLDEN / "tiny-binary-vae-listed.vlae").read_bytes()
    reader = Archive(io.BytesIO(packed), model)
    batches = reader.chain(reader.segments[0]).stages(7)
    assert len(batches) > 1
    # The last batch's kind is the lowest two bits of its one byte.
    parts = mutate.sections(packed)[:-1]
    coded = bytes(batch.count << 2 | batch.kind for batch in batches)
    changed = parts[1][1].replace(coded, coded[:-1] + bytes([batches[-1].count << 2]))
    assert changed != parts[1][1]
    with pytest.raises(CorruptFile, match="not of the kind that its model codes"):
        resealed([parts[0], (parts[1][0], changed)]).array()


def test_a_model_that_sees_nothing() -> None:
    with pytest.raises(UnknownModel, match="neither a window nor z"):
        VLAEConfig(image_size=8, window_rows=0, window_left=0, window_right=0, spatial=False, z_channels=0)


def test_an_archive_without_sections() -> None:
    with pytest.raises(CorruptFile, match="has no head"):
        Archive(io.BytesIO(mutate.assemble([], mutate.index_of([]))))


def test_a_prior_that_sees_what_it_predicts() -> None:
    model = IntegerModel.from_bytes((GOLDEN / "tiny-binary.safetensors").read_bytes())
    layer = model.layers["prior.0"]
    assert layer.weight[0, -1] == 0
    layer.weight = layer.weight.copy()
    layer.weight[0, -1] = 1
    with pytest.raises(UnsafeModel, match=r"prior\.0: a channel of z sees itself"):
        IntegerModel.from_bytes(model.to_bytes())


# -- sizes that are only claimed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1 << 24, 16), (16, 1 << 24), (1 << 14, 1 << 14)])
@pytest.mark.parametrize("model_name", ["tiny", "photo", "photo-global"])
def test_a_huge_image_in_a_few_bytes_takes_no_memory(
    size: tuple[int, int], model_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 10 GB of activations, if they were all kept; the message is empty, so the first pixel is an error."""
    from vlae_codec.stages import Stage, StageKind

    model = load_model(model_name, "cpu")
    # Otherwise it is refused at once, see below.
    monkeypatch.setattr(container, "SUBPIXELS", 1 << 40)

    def decompress(width: int, height: int, kind: StageKind) -> None:
        header = Header(
            FileKind.VLAE, width, height, bytes(8), model_id=model.id, occurring=np.ones((3, 256), np.bool_)
        )
        header.stages = [Stage(0, height, kind)]
        data = container.write(header, (1 << 63).to_bytes(8, "little"))
        assert len(data) < 100
        with pytest.raises(CorruptFile, match="end too soon|a stage with z"):
            api.decompress(data, model)

    for kind in StageKind if model.config.z_channels else [StageKind.WITHOUT_Z]:
        # The time to compile is another matter.
        decompress(20, 20, kind)
        with mutate.limits():
            decompress(*size, kind)


@pytest.mark.parametrize("size", [(1 << 14, 1 << 14), (1, 1 << 28), (1 << 28, 1)])
@pytest.mark.parametrize("values", [1, 2])
def test_a_huge_image_in_a_few_bytes_takes_no_time(size: tuple[int, int], values: int, tiny_model: Model) -> None:
    from vlae_codec.stages import Stage, StageKind

    occurring = np.zeros((3, 256), np.bool_)
    occurring[:, :values] = True
    stages = [Stage(0, size[1], StageKind.WITHOUT_Z)]
    header = Header(FileKind.VLAE, *size, bytes(8), model_id=tiny_model.id, occurring=occurring, stages=stages)
    data = container.write(header, (1 << 63).to_bytes(8, "little"))
    begun = time.process_time()
    if values == 1:
        # That many pixels of one colour are soon made, but nobody has asked for as many.
        with pytest.raises(UnsupportedImage, match="--max-pixels"):
            api.decompress(data, tiny_model, max_pixels=(1 << 28) - 1)
    else:
        with pytest.raises(CorruptFile, match="in a payload of 8 bytes"):
            api.decompress(data, tiny_model)
    assert time.process_time() - begun < 1


def test_a_picture_of_next_to_no_bits_is_left_to_a_fallback(
    tiny_model: Model, model_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "SUBPIXELS", 1)
    monkeypatch.setattr(container, "FEW_SUBPIXELS", 0)
    pixels = np.random.default_rng(0).integers(0, 2, (200, 300, 3), np.uint8)
    data = api.compress(pixels, tiny_model)
    assert vlae_codec.info(data)["mode"] == "fallback"
    assert np.array_equal(np.asarray(api.decompress(data)), pixels)


def test_a_huge_count_in_a_lossy_file_takes_no_memory(binary_model: Model) -> None:
    file = lossy.encode_images(binary_images(2, 8), binary_model, sets.Source(), [], fidelity=9.0)
    file.head["count"] = container.MAX_PIXELS // 64
    # Threads of a product that wait for each other on a busy machine take processor time, which is limited.
    with threadpool_limits(1), mutate.limits(), pytest.raises(CorruptFile, match="z ends too soon"):
        lossy.reconstruct(lossy.LossyFile.from_bytes(file.to_bytes()), binary_model)


def test_a_plan_is_never_more_than_its_bytes_can_hold(binary_model: Model) -> None:
    data = archive_array(binary_images(3, 8), binary_model)
    # The side and the number of images; after the model's id, how many have a plain z.
    assert (data[11:13], data[21]) == (b"\x08\x03", 1)
    many = data[:12] + container.write_varint(1 << 26) + data[13:-4]
    without_z = data[:21] + b"\0" + data[22:-4]
    for changed, message in ((many, "cannot hold 67108864 images"), (without_z, "not of the kind")):
        with pytest.raises(CorruptFile, match=message):
            Archive(io.BytesIO(changed + zlib.crc32(changed).to_bytes(4, "little")), binary_model).array()


def test_the_limit_of_pixels_is_the_callers(tiny_model: Model, binary_model: Model) -> None:
    from PIL import Image

    image = Image.new("RGB", (20, 10))
    data = api.compress(image, tiny_model)
    assert api.decompress(data, tiny_model, max_pixels=200).size == (20, 10)
    with pytest.raises(UnsupportedImage, match="20 x 10 pixels, more than 199; --max-pixels raises"):
        api.decompress(data, tiny_model, max_pixels=199)
    with pytest.raises(UnsupportedImage, match="more than 199"):
        api.compress(image, tiny_model, max_pixels=199)
    packed = archive_array(binary_images(10, 8), binary_model, segment=5)
    assert not Archive(io.BytesIO(packed), binary_model, max_pixels=320).check()
    with pytest.raises(UnsupportedImage, match="40 x 8 pixels, more than 319"):
        Archive(io.BytesIO(packed), binary_model, max_pixels=319).array()


def test_pillows_own_limit_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    image = Image.new("RGBA", (20, 10), (1, 2, 3, 4))
    again = api.decompress(api.compress(image))
    assert again.tobytes() == image.tobytes()
    assert Image.MAX_IMAGE_PIXELS == 10
