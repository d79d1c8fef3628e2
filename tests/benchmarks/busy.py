"""Measure how much slower coding is beside another busy process.

python tests/benchmarks/busy.py PHOTOGRAPH [--megapixels N] [--limit 2.2]

Each figure is the median of rounds that alternate: on the idle machine, then beside one process that computes all the
time. The exit code is 1 if the second takes more than ``--limit`` times as long. Start it on a machine that does
nothing else. GOMP_SPINCOUNT and OMP_WAIT_POLICY, where they are set, say how threads wait, else the package does.
"""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import time

import click
from vlae_codec.cli.bench import run_quietly, test_picture

from vlae_codec import load_model
from vlae_codec.coding.wavefront import Alphabet
from vlae_codec.registry import DEFAULT_MODEL
from vlae_codec.stages import StageKind


@click.command()
@click.argument("photograph", type=click.Path(exists=True, dir_okay=False))
@click.option("--megapixels", default=0.4, show_default=True, help="The photograph is mirrored out to this.")
@click.option("--rounds", default=5, show_default=True)
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--limit", default=2.2, show_default=True, help="Most that a busy process may slow coding down.")
def main(photograph: str, megapixels: float, rounds: int, model: str, limit: float) -> None:
    """Time coding PHOTOGRAPH, alone and beside a busy process."""
    coder = load_model(model, "cpu").photographs
    picture = test_picture(photograph, megapixels)
    alphabet = Alphabet.of(picture, 3)
    kind = StageKind.BITS_BACK if coder.config.z_channels else StageKind.WITHOUT_Z
    run_quietly(coder, test_picture(photograph, 0.02))
    seconds: dict[tuple[str, bool], list[float]] = {}
    digests = set()
    for turn in range(2 * rounds):
        busy = turn % 2 == 1
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            time.sleep(0.2)
            begun = time.perf_counter()
            message, stages, _ = coder.encode(picture, alphabet, kind)
            seconds.setdefault(("encode", busy), []).append(time.perf_counter() - begun)
            digests.add(hashlib.sha256(message.flatten().tobytes()).hexdigest())
            begun = time.perf_counter()
            coder.decode(message, picture.shape[:2], alphabet, stages)
            seconds.setdefault(("decode", busy), []).append(time.perf_counter() - begun)
        finally:
            if other is not None:
                other.kill()
                other.wait()
    if len(digests) != 1:
        sys.exit("the bytes differ from round to round")
    print(f"{picture.shape[1]} x {picture.shape[0]}, medians of {rounds}; SHA-256 of the bytes {digests.pop()[:16]}")
    worst = 0.0
    for what in ("encode", "decode"):
        alone, beside = (statistics.median(seconds[what, busy]) for busy in (False, True))
        worst = max(worst, beside / alone)
        print(f"{what}: {alone:.2f} s alone, {beside:.2f} s beside a busy process, {beside / alone:.2f} times")
    if worst > limit:
        sys.exit(f"{worst:.2f} times is more than {limit}")


if __name__ == "__main__":
    main()
