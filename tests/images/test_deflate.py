"""Our own deflate writes what zlib writes, bit for bit, so that files are made again whatever zlib is installed."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from corpus import grey, zlib_png
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae_codec import CorruptFile
from vlae_codec.images import rasters
from vlae_codec.images.rasters import deflate as own
from vlae_codec.images.rasters import png
from vlae_codec.images.rasters.png import Parameters

#: zlib-ng and others choose otherwise than zlib, which is what a file is held against.
REFERENCE = own.is_zlib_here()


def by_zlib(data: bytes, parameters: Parameters) -> bytes:
    deflater = png.deflater_of(parameters)
    return deflater.compress(data) + deflater.flush()


def sample(kind: str) -> bytes:
    """Bytes of all sorts, some of more than a block and a window."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.integers(-2, 3, 60000)).astype(np.uint8).tobytes()
    return {
        "empty": b"", "one": b"a", "noise": rng.bytes(40000), "zeros": bytes(70000), "walk": walk,
        "words": b"the quick brown fox jumps over the lazy dog, " * 900,
        "few": rng.integers(0, 3, 50000).astype(np.uint8).tobytes(),
        "mixed": walk[:20000] + rng.bytes(20000) + bytes(9000) + walk[:30000],
        "far": walk[:300] + rng.bytes(32400) + walk[:300] + rng.bytes(5000) + walk[:300],
    }[kind]  # fmt: skip


@pytest.mark.skipif(not REFERENCE, reason="another zlib than the one that is repeated here")
@pytest.mark.parametrize("kind", ["empty", "one", "noise", "zeros", "walk", "words", "few", "mixed", "far"])
def test_every_level_and_strategy(kind: str) -> None:
    data = sample(kind)
    for level, strategy in itertools.product(range(1, 10), range(5)):
        parameters = Parameters(level, strategy, 8, 15)
        assert own.deflate(data, parameters) == by_zlib(data, parameters), parameters
    for memory, window in itertools.product((1, 9), (9, 12)):
        for level, strategy in ((1, 0), (4, 1), (6, 2), (6, 3), (9, 0)):
            parameters = Parameters(level, strategy, memory, window)
            assert own.deflate(data, parameters) == by_zlib(data, parameters), parameters


@pytest.mark.skipif(not REFERENCE, reason="another zlib than the one that is repeated here")
@settings(max_examples=150)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8),
    order=st.lists(st.integers(0, 7), max_size=120),
    level=st.integers(1, 9), strategy=st.integers(0, 4), memory=st.integers(1, 9), window=st.integers(9, 15),
)  # fmt: skip
def test_any_bytes(pieces, order, level, strategy, memory, window) -> None:
    data = b"".join(pieces[i % len(pieces)] for i in order)
    parameters = Parameters(level, strategy, memory, window)
    made = own.deflate(data, parameters)
    assert made == by_zlib(data, parameters)
    assert zlib.decompress(made, -15) == data


def test_a_png_is_made_again_where_zlib_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source = zlib_png(grey(8, 3), 6, 1, 9, 15, 100, 5)
    found = rasters.find(source)
    assert found is not None
    elsewhere = lambda parameters: zlib.compressobj(1, zlib.DEFLATED, -9, 1)  # noqa: E731
    monkeypatch.setattr(png, "deflater_of", elsewhere)
    monkeypatch.setattr(own, "deflater_of", elsewhere)
    assert not own.is_zlib_here()
    assert rasters.rebuild(found.form, found.recipe, found.values, found.digest) == source
    # And there it is taken apart as well as here.
    again = rasters.find(source)
    assert again is not None
    assert (again.form, again.recipe) == (found.form, found.recipe)
    with pytest.raises(CorruptFile, match="checksum"):
        rasters.rebuild(found.form, found.recipe, found.values, bytes(8))
