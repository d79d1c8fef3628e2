from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from conftest import KINDS, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from vlae_codec.models.exact.loops import set_threads

from vlae_codec import Model
from vlae_codec.coding.photo import PhotoCoder, lanes_for, message_for
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.entropy.ans import Message, Messages
from vlae_codec.errors import CorruptFile
from vlae_codec.stages import Stage, StageKind, affordable_rows, wavefront


def copied(message: Message | Messages) -> Message | Messages:
    """A message as it is read from a file."""
    if isinstance(message, Messages):
        return Messages.unflatten(message.flatten(), message.lanes, message.lengths[:-1])
    return Message.unflatten(message.flatten(), message.lanes)


STAGE_KINDS = st.sampled_from(list(StageKind))


def check_image(coder: PhotoCoder, image: np.ndarray, z_kind: StageKind, channels: int = 3) -> list[Stage]:
    """Assert that decoding gives the image back and uses up the message; returns the stages."""
    if not coder.config.z_channels:
        z_kind = StageKind.WITHOUT_Z
    alphabet = Alphabet.of(image, channels)
    message, stages, costs = coder.encode(image, alphabet, z_kind)
    words = message.flatten()
    again, _ = coder.decode(copied(message), image.shape[:2], alphabet, stages)
    assert np.array_equal(again, image)
    assert [stages[0].first, *[s.last for s in stages]] == [*[s.first for s in stages], len(image)]
    # The words hold the ELBO; each lane keeps up to 64 bits.
    lanes = len(message.lengths) * message.lanes
    assert -1e-6 <= 32 * len(words) - costs.elbo <= 64 * lanes + 1e-3 * costs.elbo
    return stages


@settings(max_examples=60)
@given(
    st.integers(1, 60), st.integers(1, 70), st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 4),
    st.sampled_from([1, 2]), st.booleans(),
)  # fmt: skip
def test_several_messages(
    any_tiny_model: Model, height: int, width: int, kind: str, count: int, lanes: int, threads: int, adapts: bool
) -> None:
    image, coder = picture(kind, height, width), any_tiny_model.photographs
    alphabet = Alphabet.of(image, 1 if kind == "grey" else 3)
    set_threads(threads)
    try:
        with (
            patch("vlae_codec.coding.photo.message_for", lambda *_: Messages(count, lanes)),
            patch("vlae_codec.coding.photo.STAGE_PIXELS", 1600),
        ):
            message, stages, costs = coder.encode(image, alphabet, StageKind.WITHOUT_Z, adapts=adapts)
        again, _ = coder.decode(copied(message), image.shape[:2], alphabet, stages, adapts=adapts)
    finally:
        set_threads(2)
    assert np.array_equal(again, image)
    bits = 32 * len(message.flatten())
    assert -1e-6 <= bits - costs.elbo <= 64 * count * lanes + 1e-3 * costs.elbo


def test_large_images_have_several_messages_unless_z_is_drawn() -> None:
    assert message_for(3 * 400 * 300, StageKind.WITHOUT_Z).lengths == [4] * 8
    assert message_for(3 * 400 * 300, StageKind.BITS_BACK).lengths == [32]
    assert message_for(3 * 64 * 64, StageKind.WITHOUT_Z).lengths == [2]


@pytest.mark.parametrize("part", range(3))
def test_each_message_must_hold_its_share(tiny_model: Model, part: int) -> None:
    image, coder = picture("smooth", 40, 50), tiny_model.photographs
    alphabet = Alphabet.of(image, 3)
    with patch("vlae_codec.coding.photo.message_for", lambda *_: Messages(3, 2)):
        message, stages, _ = coder.encode(image, alphabet, StageKind.WITHOUT_Z)
    words, lengths = message.flatten(), message.lengths
    end = sum(lengths[: part + 1])
    lengths[part] -= 1
    short = Messages.unflatten(np.delete(words, end - 1), 2, lengths[:-1])
    with pytest.raises(CorruptFile, match="too soon"):
        coder.decode(short, image.shape[:2], alphabet, stages)
    lengths[part] += 2
    long = Messages.unflatten(np.insert(words, end, 5), 2, lengths[:-1])
    with pytest.raises(CorruptFile, match="left over"):
        coder.decode(long, image.shape[:2], alphabet, stages)


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 70), st.sampled_from(KINDS), STAGE_KINDS, st.integers(0, 2**32))
def test_every_size_and_kind(
    any_tiny_model: Model, height: int, width: int, kind: str, z_kind: StageKind, seed: int
) -> None:
    check_image(any_tiny_model.coder, picture(kind, height, width, seed), z_kind, 1 if kind == "grey" else 3)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (2, 2), (16, 16), (17, 15), (300, 200), (200, 300), (3, 257)]
)
@pytest.mark.parametrize("kind", ["smooth", "noise", "flat", "extreme"])
def test_sizes_named_in_the_specification(tiny_model: Model, size: tuple[int, int], kind: str) -> None:
    for z_kind in StageKind:
        check_image(tiny_model.coder, picture(kind, *size), z_kind)


def test_stages_grow_from_a_small_one_without_z(tiny_model: Model) -> None:
    stages = check_image(tiny_model.coder, picture("smooth", 300, 100), StageKind.BITS_BACK)
    assert stages[-1].kind is StageKind.WITHOUT_Z
    assert stages[0].kind is StageKind.BITS_BACK
    assert stages[-1].count < 40
    assert stages[0].count > 200


def test_a_picture_without_pixel_bits_never_runs_dry(tiny_model: Model) -> None:
    check_image(tiny_model.coder, picture("flat", 200, 40), StageKind.BITS_BACK)


def test_threads_and_bands_do_not_change_a_word(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture("smooth", 90, 120)
    alphabet = Alphabet.of(image, 3)
    coder = tiny_model.coder
    message, stages, _ = coder.encode(image, alphabet, StageKind.BITS_BACK)
    monkeypatch.setattr("vlae_codec.models.exact.bands.BAND_PIXELS", 500)
    again, same_stages, _ = coder.encode(image, alphabet, StageKind.BITS_BACK)
    assert np.array_equal(message.flatten(), again.flatten())
    assert stages == same_stages
    assert np.array_equal(coder.decode(again, image.shape[:2], alphabet, stages)[0], image)


def test_damaged_words_never_pass_for_a_picture(tiny_model: Model) -> None:
    image = picture("smooth", 40, 40)
    alphabet = Alphabet.of(image, 3)
    message, stages, _ = tiny_model.coder.encode(image, alphabet, StageKind.BITS_BACK)
    words = message.flatten()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = words.copy()
        damaged[rng.integers(2 * message.lanes, len(words))] ^= np.uint32(1 << int(rng.integers(32)))
        try:
            other, _ = tiny_model.coder.decode(Message.unflatten(damaged, message.lanes), (40, 40), alphabet, stages)
        except CorruptFile:
            continue
        assert not np.array_equal(other, image)
    for cut in (len(words) - 1, len(words) // 2, 2 * message.lanes):
        with pytest.raises(CorruptFile, match="too soon|left over|head outside"):
            tiny_model.coder.decode(Message.unflatten(words[:cut], message.lanes), (40, 40), alphabet, stages)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 6))
def test_wavefront_visits_every_place_after_its_neighbours(rows: int, width: int, skew: int) -> None:
    seen: set[tuple[int, int]] = set()
    for ys, xs in wavefront(rows, width, skew):
        step = set(zip(ys.tolist(), xs.tolist(), strict=True))
        for y, x in step:
            needed = {(y, x - 1)} | {(y - 1, xx) for xx in range(x - 1, x + skew)}
            assert {(yy, xx) for yy, xx in needed if yy >= 0 and 0 <= xx < width} <= seen
        assert not step & seen
        seen |= step
    assert len(seen) == rows * width


def test_affordable_rows() -> None:
    wanted = np.array([5.0, 4.0, 3.0])
    assert [affordable_rows(stock, wanted) for stock in (-1.0, 2.9, 3.0, 7.0, 11.9, 12.0)] == [0, 0, 1, 2, 2, 3]


def test_lanes_are_few_for_small_images() -> None:
    assert lanes_for(1) == 1
    assert lanes_for(3 * 512 * 512) == 16
    assert lanes_for(3 * 1024 * 1024) == 48
    assert lanes_for(3 << 28) == 256


@pytest.mark.parametrize("kind", list(StageKind))
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_that_are_known_need_no_network(tiny_model: Model, kind: StageKind, channels: int) -> None:
    """A file of 153 bytes that claimed 16384 x 16384 pixels, one value per channel, kept a core busy for 19 minutes."""
    coder = tiny_model.photographs
    height, width = (40, 60) if kind is StageKind.PLAIN_Z else (2000, 3000)
    image = np.full((height, width, 3), (7, 7, 7) if channels == 1 else (7, 0, 255), np.uint8)
    alphabet = Alphabet.of(image, channels)
    done: list[int] = []
    message, stages, costs = coder.encode(image, alphabet, kind, done.append)
    again, spent = coder.decode(copied(message), (height, width), alphabet, stages)
    assert np.array_equal(again, image)
    assert costs.pixels == 0
    assert sum(done) == height * width
    assert costs.seconds["network"] == spent.seconds["network"] == spent.seconds["wavefront"] == 0


@pytest.mark.parametrize("kind", list(StageKind))
def test_known_pixels_are_coded_as_by_the_network(
    tiny_model: Model, kind: StageKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under it a value that is alone has the whole interval, so words and stages are the same without."""
    monkeypatch.setattr("vlae_codec.coding.photo.STAGE_PIXELS", 50 * 16 * 2)
    coder, image = tiny_model.photographs, np.full((90, 50, 3), 9, np.uint8)
    alphabet = Alphabet.of(image, 3)
    message, stages, _ = coder.encode(image, alphabet, kind)
    # It is left to the network to find that the pixels are known.
    monkeypatch.setattr(Alphabet, "certain", False)
    other, same, _ = coder.encode(image, alphabet, kind)
    assert stages == same
    assert len(stages) == 3
    assert np.array_equal(message.flatten(), other.flatten())
    assert np.array_equal(coder.decode(message, (90, 50), alphabet, stages)[0], image)
