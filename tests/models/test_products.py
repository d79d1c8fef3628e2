"""Compiled sums of products against plain Python's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError
from vlae_codec.models.exact import products


@njit
def product_rows(inputs, weights, sums, count):
    products.product_rows(inputs, weights, sums, count)


@njit
def depthwise_row(kept, rows, columns, weights, affine, high, seen):
    products.depthwise_row(kept, rows, columns, weights, affine, high, seen)


def numbers(rng: np.random.Generator, size: int, *shape: int) -> np.ndarray:
    """Integers up to a size both ways, the largest among them."""
    return rng.choice([-size, size, *rng.integers(-size, size + 1, 20)], shape).astype(np.int16)


@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(1, 90), st.integers(1, 140), st.integers(0, 2))
def test_compiled_products_are_what_they_say(seed: int, rows: int, inputs: int, outputs: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    # 90 of these may reach 2^31 - 90 * 2^12, but no further.
    weight = numbers(rng, 11650, outputs, inputs)
    given_rows = numbers(rng, 2047, rows + spare, inputs + inputs % 2)
    packed = products.pack(weight)
    assert packed.shape == ((inputs + 1) // 2, products.rounded_up(outputs), 2)
    sums = np.full((rows + spare, packed.shape[1] + spare), 7, np.int32)
    product_rows(given_rows, packed, sums, rows)
    expected = given_rows[:rows, :inputs].astype(np.int64) @ weight.T.astype(np.int64)
    assert np.array_equal(sums[:rows, :outputs], expected)
    assert not sums[:rows, outputs : packed.shape[1]].any()
    assert (sums[rows:] == 7).all()
    assert (sums[:, packed.shape[1] :] == 7).all()
    plain = np.full_like(sums, 7)
    products.product_rows(given_rows, packed, plain, rows)
    assert np.array_equal(plain, sums)


@given(st.integers(0, 2**32), st.sampled_from([32, 64, 96]), st.integers(0, 2047))
def test_compiled_depthwise_layers_are_what_they_say(seed: int, inner: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    kept = np.abs(numbers(rng, 1023, 4, 9, inner))
    weight = numbers(rng, 1200, 13, inner)
    affine = np.stack([rng.integers(-(2**20), 2**20, inner), 2.0 ** rng.uniform(-16, 16, inner)]).astype(np.float32)
    rows, columns = (3, 0, 1), (7, 8, 0, 1, 2)
    packed, ordered = products.pack_depthwise(weight, affine)
    seen, plain = np.full((2, inner), -1, np.int16)
    depthwise_row(kept, rows, columns, packed, ordered, np.float32(high), seen)
    products.depthwise_row(kept, rows, columns, packed, ordered, np.float32(high), plain)
    total = sum(
        weight[i].astype(np.int64) * kept[rows[i // 5], columns[i % 5]].astype(np.int64) for i in range(len(weight))
    )
    expected = np.floor((total.astype(np.float32) + affine[0]) * affine[1]).clip(0, high)
    assert np.array_equal(seen, expected)
    assert np.array_equal(plain, expected)


def test_arrays_that_lie_otherwise_in_memory_are_refused() -> None:
    packed = products.pack(np.ones((32, 4), np.int16))
    sums = np.zeros((2, 32), np.int32)
    with pytest.raises(TypingError):
        product_rows(np.ones((4, 2), np.int16).T, packed, sums, 2)
