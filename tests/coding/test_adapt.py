from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import KINDS, compiled, picture, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from vlae_codec.models.exact.loops import CHUNK, set_threads
from vlae_codec.models.exact.products import rounded_up
from vlae_codec.models.likelihood import BEYOND, gradient_predictor, log_likelihood

from vlae_codec import Model
from vlae_codec.coding import adapt, parts
from vlae_codec.coding.gradient import pixel_gradient
from vlae_codec.coding.photo import PhotoCoder
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.entropy import cdf
from vlae_codec.entropy.ans import Message
from vlae_codec.errors import CorruptFile
from vlae_codec.stages import StageKind

gradient_of_pixel = compiled(pixel_gradient)
split_weights, split_rows = compiled(parts.split_weights), compiled(parts.split_rows)
forward_rows, back_rows, put_together = (
    compiled(loop) for loop in (parts.forward_rows, parts.back_rows, parts.put_together)
)
transpose, add_outer = compiled(parts.transpose), compiled(parts.add_outer)


def check_adapting(coder: PhotoCoder, image: np.ndarray, kind: StageKind, channels: int = 3) -> tuple[np.ndarray, int]:
    """Assert that decoding gives the image back and uses up the message; its words, and how many without learning."""
    if not coder.config.z_channels:
        kind = StageKind.WITHOUT_Z
    alphabet = Alphabet.of(image, channels)
    message, stages, costs = coder.encode(image, alphabet, kind, adapts=True)
    words = message.flatten()
    again, _ = coder.decode(
        Message.unflatten(words, message.lanes), image.shape[:2], alphabet, stages, adapts=True
    )  # fmt: skip
    assert np.array_equal(again, image)
    assert -1e-6 <= 32 * len(words) - costs.elbo <= 64 * message.lanes + 1e-3 * costs.elbo
    return words, len(coder.encode(image, alphabet, kind).message.flatten())


@settings(max_examples=40)
@given(
    st.integers(1, 60), st.integers(1, 70), st.sampled_from(KINDS), st.sampled_from(list(StageKind)),
    st.integers(0, 2**32),
)  # fmt: skip
def test_every_size_and_kind(
    any_tiny_model: Model, height: int, width: int, kind: str, z_kind: StageKind, seed: int
) -> None:
    image = picture(kind, height, width, seed)
    check_adapting(any_tiny_model.photographs, image, z_kind, 1 if kind == "grey" else 3)


def test_the_heads_learn_what_a_picture_is_like(tiny_model: Model) -> None:
    image = np.ascontiguousarray(smooth(np.random.default_rng(3), 150, 170))
    words, without = check_adapting(tiny_model.photographs, image, StageKind.WITHOUT_Z)
    assert len(words) < 0.96 * without


def test_the_number_of_threads_does_not_matter(tiny_model: Model) -> None:
    image = picture("smooth", 90, 60, seed=4)
    made = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            made.append(check_adapting(tiny_model.photographs, image, StageKind.BITS_BACK)[0])
    finally:
        set_threads(2)
    assert np.array_equal(*made)


def test_what_is_learned_is_needed(tiny_model: Model) -> None:
    coder, image = tiny_model.photographs, picture("smooth", 60, 60, seed=4)
    alphabet = Alphabet.of(image, 3)
    message, stages, _ = coder.encode(image, alphabet, StageKind.WITHOUT_Z, adapts=True)
    # Without it the pixels come out wrong, or what is left of the message tells.
    with pytest.raises(CorruptFile):
        coder.decode(message, image.shape[:2], alphabet, stages)


@pytest.mark.parametrize("kind", ["smooth", "gaps"])
def test_the_gradient_is_that_of_the_code_length(kind: str) -> None:
    """Against torch's own gradient of the float likelihood, which lacks only the tables' rounding."""
    rng = np.random.default_rng(1)
    image = picture(kind, 6, 7, seed=2)
    alphabet = Alphabet.of(image, 3)
    k = 3
    units = np.repeat([cdf.LOGIT_STEPS, cdf.MEAN_STEPS * 8, cdf.SCALE_STEPS, cdf.COUPLING_STEPS], 3 * k)
    params = rng.uniform(-1.9, 1.9, (6, 7, 12 * k))
    params[..., 6 * k : 9 * k] = rng.uniform(1.0, 3.5, (6, 7, 3 * k))
    # Scales are an index that begins at the smallest.
    offset = np.repeat([0, 0, -cdf.SCALE_LOWEST * cdf.SCALE_STEPS, 0], 3 * k)
    whole = np.rint(params * units + offset).astype(np.int16)
    x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    low, high = torch.empty_like(x), torch.empty_like(x)
    for c in range(3):
        values = alphabet.values[c, : alphabet.counts[c]].astype(float)
        edges = np.concatenate([[-BEYOND], (values[1:] + values[:-1]) / 2, [BEYOND]])
        rank = alphabet.ranks[c][image[..., c]]
        low[0, c], high[0, c] = torch.from_numpy(edges[rank]), torch.from_numpy(edges[rank + 1])
    given_to = torch.from_numpy((whole - offset) / units).permute(2, 0, 1)[None].float().requires_grad_()
    (-log_likelihood(given_to, x.float(), gradient_predictor(x.float()), low.float(), high.float()).sum()).backward()
    assert given_to.grad is not None
    expected = given_to.grad[0].permute(1, 2, 0).numpy()
    found, interval = np.empty(12 * k), np.empty((2, 3), np.uint32)
    away = []
    for y, row in enumerate(expected):
        for x_, each in enumerate(row):
            gradient_of_pixel(whole[y, x_], image, y, x_, alphabet, np.empty((7, k), np.int64), found, interval)
            away.append(np.abs(found - each).max() / (1 + np.abs(each).max()))
    # Where a value is all but impossible, the tables' digits end.
    assert np.mean(np.array(away) < 2e-3) > 0.9


def test_every_sum_is_exact() -> None:
    outputs, most = 12 * 16, 256
    assert outputs * adapt.LARGEST * adapt.WEIGHT_MAX < 2**53
    assert most * 2047 * adapt.WEIGHT_MAX + adapt.ONE * adapt.BIAS_MAX < 2**53
    # As many pixels as a step and the one before have: no stage has a longer diagonal.
    pixels = adapt.GROUP + 2 * 1024
    assert pixels * 2047 * adapt.LARGEST < 2**53
    # And of parts, in int32.
    weights = (adapt.WEIGHT_MAX / (1 << parts.WEIGHT_BITS), 1 << (parts.WEIGHT_BITS - 1))
    gradients = (adapt.LARGEST / (1 << parts.GRADIENT_BITS), 1 << (parts.GRADIENT_BITS - 1))
    assert most * 2047 * max(weights) < 2**31
    assert outputs * max(gradients) * max(weights) < 2**31
    assert CHUNK * 2047 * max(gradients) < 2**31


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 12), st.integers(1, 9))
def test_products_of_parts_are_those_of_the_whole(seed: int, rows: int, inputs: int, outputs: int) -> None:
    rng, outputs = np.random.default_rng(seed), 2 * outputs

    def numbers(most: float, *shape: int) -> np.ndarray:
        return np.rint(rng.choice([-most, most, *rng.uniform(-most, most, 9)], shape))

    weights, values = numbers(adapt.WEIGHT_MAX, inputs, outputs), numbers(adapt.LARGEST, rows, outputs)
    given_rows = np.abs(numbers(2047, rows, 2 * rounded_up(inputs))).astype(np.int16)
    wide = rounded_up(outputs)
    # Forward.
    packed = np.zeros((2, (inputs + 1) // 2, wide, 2), np.int16)
    split_weights(weights, packed)
    sums = np.zeros((4, max(rows, inputs), wide), np.int32)
    forward_rows(given_rows, packed, sums, rows)
    exact = given_rows[:, :inputs].astype(np.int64) @ weights.astype(np.int64)
    upper = sums[0, :rows, :outputs].astype(np.int64) << parts.WEIGHT_BITS
    assert np.array_equal(upper + sums[1, :rows, :outputs], exact)
    # Back.
    back, halves = np.zeros((2, outputs // 2, rounded_up(inputs), 2), np.int16), np.zeros((2, rows, wide), np.int16)
    split_weights(weights.T, back)
    split_rows(values.astype(np.int32), halves)
    returned = np.zeros((rows, inputs))
    back_rows(halves, back, sums, rows)
    put_together(sums, rows, returned)
    assert np.array_equal(returned, values.astype(np.int64) @ weights.T.astype(np.int64))
    # By the weights, added to what is there.
    columns, words = np.zeros((inputs, rows + 1), np.int16), np.zeros(((rows + 1) // 2, wide), np.int32)
    transpose(given_rows, rows, columns)
    into = np.ones((inputs, outputs))
    add_outer(columns, halves, rows, words, sums, into)
    assert np.array_equal(into, 1 + given_rows[:, :inputs].T.astype(np.int64) @ values.astype(np.int64))
