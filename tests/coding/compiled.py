"""Compile every kernel of the device for a GPU that need not be here, as coding would launch it: python compiled.py MODEL.

Prints each kernel's name, and what of its PTX adds up, multiplies, divides or draws roots.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from vlae_codec.models.exact.integer import IntegerModel
from vlae_codec.models.exact.steps import Area

from vlae_codec.coding.device import DeviceSteps
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.entropy.ans import Message

#: An H100's.
TARGET = GPUTarget("cuda", 90, 32)
_ARITHMETIC = re.compile(r"^\s*(?:@\S+\s+)?((?:wgmma\.mma|mma|fma|add|sub|mul|div|sqrt|ex2|lg2|rcp)[.\w:]*)", re.M)


class NoGpu:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET


def main() -> None:
    driver.set_active(NoGpu())
    run, compiled = JITFunction.run, {}

    def compile_only(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        made = run(kernel, *args, **(kwargs | {"warmup": True}))
        compiled[made.hash] = made
        return made

    JITFunction.run = compile_only
    for path in sys.argv[1:]:
        model = IntegerModel.from_bytes(Path(path).read_bytes())
        steps, width = DeviceSteps(model, torch.device("cpu")), 4
        image = np.zeros((2 + model.halo, width, 3), np.uint8)
        area = Area(image, model.halo, len(image), model.config.skew)
        channels = model.config.channels
        for coded, lanes in ((3, 16), (1, 1)):
            alphabet = Alphabet.having(np.ones((coded, 256), np.bool_))
            features = np.zeros((2, width, channels) if model.config.z_channels else (0, 0, channels), np.int16)
            for adapts in (False, True):
                steps.pop(Message(lanes).stack, area, features, alphabet, adapts)
            steps.learn(area, np.zeros((2, width, channels), np.int16), alphabet)
    for made in compiled.values():
        print(made.metadata.name, *sorted(set(_ARITHMETIC.findall(made.asm["ptx"]))))


if __name__ == "__main__":
    main()
