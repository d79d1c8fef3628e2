"""All that a machine with a GPU should show: that its bytes are the CPU's, how fast it codes, and in how much memory.

python tests/benchmarks/gpu.py [--image PHOTOGRAPH] [--sizes 1,4,16] [--batches 1,4,16] [--minutes 18]
python tests/benchmarks/gpu.py --interpret

The exit code is 1 where something differs. What does not fit into the time is left out, and said. ``--interpret`` takes
no GPU: it runs the same lines on tiny pictures in Triton's interpreter, to see that they work. Its rates say nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

# Before Triton and torch are loaded.
INTERPRET = "--interpret" in sys.argv
if INTERPRET:
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from vlae_codec.cli.bench import multiply_adds, test_picture  # noqa: E402

from vlae_codec import load_model  # noqa: E402
from vlae_codec.coding.photo import PhotoCoder  # noqa: E402
from vlae_codec.coding.wavefront import Alphabet  # noqa: E402
from vlae_codec.entropy.ans import Message  # noqa: E402
from vlae_codec.stages import Coded, StageKind  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
#: Products of bytes for each multiply-add of the network, whose factors have two digits each.
PRODUCTS = 4
#: The best of so many rounds counts.
ROUNDS = 1 if INTERPRET else 2


def product_rate(device: str) -> float:
    """Multiply-adds of bytes a second, at best."""
    if INTERPRET:
        return float("nan")
    a, b = (torch.ones((8192, 8192), dtype=torch.int8, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        torch._int_mm(a, b.t())
        torch.cuda.synchronize()
        best = max(best, 8192.0**3 / (time.perf_counter() - begun))
    return best


class Bench:
    """One model on the CPU and on a device."""

    def __init__(self, name: str, device: str) -> None:
        self.cpu = load_model(name, "cpu").photographs
        self.kind = StageKind.BITS_BACK if self.cpu.config.z_channels else StageKind.WITHOUT_Z
        if INTERPRET:
            from vlae_codec.coding.device import DeviceSteps

            self.gpu = PhotoCoder(self.cpu.model)
            self.gpu.on_device = DeviceSteps(self.cpu.model, torch.device("cpu"))
        else:
            self.gpu = load_model(name, device).photographs
        if self.gpu.on_device is None:
            sys.exit("the kernels are not made for this GPU or model, or Triton is not installed")

    def both_ways(self, picture: np.ndarray, adapts: bool) -> bool:
        """Whether CPU and device give the same words, and either decodes them."""
        alphabet = Alphabet.of(picture, 3)
        coded = [coder.encode(picture, alphabet, self.kind, adapts=adapts) for coder in (self.cpu, self.gpu)]
        words = [each.message.flatten() for each in coded]
        same = np.array_equal(*words)
        for coder in (self.cpu, self.gpu):
            again = self.decode(coder, Coded(unflatten(coded[0], words[0]), *coded[0][1:]), picture, alphabet, adapts)
            same &= np.array_equal(again, picture)
        return same

    def decode(
        self, coder: PhotoCoder, coded: Coded, picture: np.ndarray, alphabet: Alphabet, adapts: bool
    ) -> np.ndarray:
        return coder.decode(coded.message, picture.shape[:2], alphabet, coded.stages, adapts=adapts)[0]

    def encode_seconds(self, picture: np.ndarray, adapts: bool) -> tuple[float, Coded, str]:
        """The best of `ROUNDS`, what it gave, and what it was spent on."""
        alphabet, best, coded = Alphabet.of(picture, 3), float("inf"), None
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            made = self.gpu.encode(picture, alphabet, self.kind, adapts=adapts)
            seconds = time.perf_counter() - begun
            if seconds < best:
                best, coded = seconds, made
        assert coded is not None
        parts = coded.costs.seconds
        return best, coded, ", ".join(f"{part} {100 * each / best:.0f} %" for part, each in parts.items() if each)

    def decode_seconds(self, picture: np.ndarray, coded: Coded, adapts: bool, batch: int) -> float:
        """Of so many pictures at once, each in a thread and a stream of its own; exits if one is not the same."""
        alphabet, words = Alphabet.of(picture, 3), coded.message.flatten()

        def one(_: int) -> np.ndarray:
            mine = coded._replace(message=unflatten(coded, words))
            if INTERPRET:
                return self.decode(self.gpu, mine, picture, alphabet, adapts)
            with torch.cuda.stream(torch.cuda.Stream()):
                return self.decode(self.gpu, mine, picture, alphabet, adapts)

        with ThreadPoolExecutor(batch) as pool:
            begun = time.perf_counter()
            found = list(pool.map(one, range(batch)))
            seconds = time.perf_counter() - begun
        if not all(np.array_equal(each, picture) for each in found):
            sys.exit("a decoded picture differs from the one encoded")
        return seconds


def unflatten(coded: Coded, words: np.ndarray) -> Message:
    return Message.unflatten(words, coded.message.lanes)


def rates(bench: Bench, image: str | None, sizes: list[float], batches: list[int], end: float) -> None:
    """Print MP/s, the share of what the products alone would allow, and the device's memory."""
    macs, rate = PRODUCTS * multiply_adds(bench.gpu.config), product_rate(bench.gpu.device)
    limit = rate / macs / 1e6
    print(f"{macs:.0f} products of bytes a pixel, {rate / 1e12:.0f} T/s measured: limit {limit:.0f} MP/s")
    print(
        "| MP | batch | learning | encode MP/s | decode MP/s | decode, of the limit | memory MiB |\n" + "|---" * 7 + "|"
    )
    for megapixels in sizes:
        picture = test_picture(image, megapixels)
        each = picture.shape[0] * picture.shape[1] / 1e6
        for adapts in (True, False):
            if time.monotonic() > end:
                print(f"no time is left for {megapixels} MP, learning {adapts}")
                continue
            seconds, coded, parts = bench.encode_seconds(picture, adapts)
            for batch in batches if megapixels == sizes[0] else batches[:1]:
                if not INTERPRET:
                    torch.cuda.reset_peak_memory_stats()
                took = min(bench.decode_seconds(picture, coded, adapts, batch) for _ in range(ROUNDS))
                memory = 0 if INTERPRET else torch.cuda.max_memory_allocated() / (1 << 20)
                done = each * batch / took
                print(
                    f"| {each:.4g} | {batch} | {adapts} | {each / seconds:.3g} | {done:.3g} | "
                    f"{100 * done / limit:.2g} % | {memory:.0f} |", flush=True,
                )  # fmt: skip
            print(f"encoding: {parts}")


@click.command()
@click.option("--image", help="Photograph to tile to the sizes; default: a synthetic one.")
@click.option("--sizes", default="1,4,16", show_default=True, help="Megapixels.")
@click.option("--batches", default="1,4,16", show_default=True, help="Pictures of the first size decoded at once.")
@click.option("--minutes", default=18.0, show_default=True, help="After these nothing more is begun.")
@click.option("-m", "--model", default="photo", show_default=True)
@click.option("--interpret", is_flag=True, help="Without a GPU: tiny pictures in Triton's interpreter.")
def main(image: str | None, sizes: str, batches: str, minutes: float, model: str, interpret: bool) -> None:
    """Check and measure coding on a GPU."""
    end = time.monotonic() + 60 * minutes
    if interpret:
        model, sizes, batches = str(ROOT / "tests/golden/tiny-pointwise.safetensors"), "0.000005", "1"
        print("interpreted: rates say nothing")
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU here that PyTorch can use; --interpret runs the same without one")
    else:
        print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/coding/test_gpu.py"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.exit("tests marked gpu failed")
    bench = Bench(model, "cuda")
    picture = test_picture(image, 0.000005 if interpret else 0.05)
    for adapts in (True, False):
        begun = time.perf_counter()
        if not bench.both_ways(picture, adapts):
            sys.exit(f"CPU and device differ, learning {adapts}")
        took = time.perf_counter() - begun
        print(f"CPU and device give the same words and decode them, learning {adapts}: {took:.1f} s")
    rates(bench, image, [float(each) for each in sizes.split(",")], [int(each) for each in batches.split(",")], end)


if __name__ == "__main__":
    main()
