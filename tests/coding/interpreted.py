"""Kernels of the device in Triton's interpreter, on this CPU: a few milliseconds an operation, so on tiny pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from vlae_codec.models.exact.integer import IntegerModel

from vlae_codec.coding.photo import PhotoCoder

triton = pytest.importorskip("triton", reason="Triton, which GPUs are programmed in, is for Linux alone")


class _Kept:
    """Instead of what takes the interpreter's names out of Triton again after each call, which takes half the time."""

    def restore(self) -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def _faster_interpreter() -> Iterator[None]:
    if not triton.knobs.runtime.interpret:
        pytest.skip("kernels are compiled here: the tests marked gpu run them")
    from triton.runtime import interpreter

    put_in: set[int] = set()
    patch, options = interpreter._patch_lang, interpreter.interpreter_builder.options

    def once(function: Any) -> Any:
        names = id(function.__globals__)
        if names not in put_in:
            put_in.add(names)
            patch(function)
        return _Kept()

    interpreter._patch_lang = once
    # Nor need every sum be looked at for an overflow.
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)
    yield
    interpreter._patch_lang, interpreter.interpreter_builder.options = patch, options


def on_device(model: IntegerModel) -> PhotoCoder:
    """A coder whose steps are taken by the kernels."""
    import torch

    from vlae_codec.coding.device import DeviceSteps

    coder = PhotoCoder(model)
    coder.on_device = DeviceSteps(model, torch.device("cpu"))
    return coder
