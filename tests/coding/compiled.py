"""Compile every kernel of the device for a GPU that need not be here, as coding would launch it.

python tests/coding/compiled.py MODEL.safetensors ...

Prints each kernel's name, and what of its PTX computes. The exit code is 1 if something of it would not be exact.
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
NAMES = {
    f"{name}_kernel" for name in ("network", "advance", "pop", "heads", "learn", "update")
}  # fmt: skip
#: Two roundings in one, roundings to another than the nearest, and products of floats with fewer digits.
_INEXACT = re.compile(
    r"fma|.*\.approx|.*\.full|(add|sub|mul|div|sqrt)\.(rz|rm|rp|ftz|f32|f64)|w?g?mma.*(f16|bf16|tf32|f32)"
)
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
        for coded, lanes in ((1, 1), (3, 16)):
            alphabet = Alphabet.having(np.ones((coded, 256), np.bool_))
            features = np.zeros((2, width, channels) if model.config.z_channels else (0, 0, channels), np.int16)
            steps.pop(Message(lanes).stacks, area, features, alphabet, False)
        steps.pop(Message(lanes).stacks, area, features, alphabet, True)
        steps.learn(area, np.zeros((2, width, channels), np.int16), alphabet)
    wrong = False
    for made in compiled.values():
        found = sorted(set(_ARITHMETIC.findall(made.asm["ptx"])))
        inexact = [each for each in found if _INEXACT.match(each)]
        wrong |= bool(inexact)
        print(made.metadata.name, *found, *([f"INEXACT: {' '.join(inexact)}"] if inexact else []), flush=True)
    names = {made.metadata.name for made in compiled.values()}
    if names != NAMES:
        sys.exit(f"compiled {sorted(names)}, expected {sorted(NAMES)}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
