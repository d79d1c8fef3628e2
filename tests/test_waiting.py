from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from threadpoolctl import threadpool_info

CODING = """
import numpy as np, vlae_codec
from numba import njit, prange

@njit(parallel=True)
def count(out):
    for i in prange(len(out)):
        out[i] = i

count(np.zeros(4))
"""


@pytest.fixture(autouse=True)
def _gnu() -> None:
    torch.get_num_threads()
    if not any(found["prefix"] == "libgomp" for found in threadpool_info()):
        pytest.skip("only GNU OpenMP tells how its threads wait")


def spin_counts(code: str, **variables: str) -> set[int]:
    """What each OpenMP that the code loads says of its threads."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)}


def test_threads_spin_no_longer_than_it_takes_to_wake_them() -> None:
    assert spin_counts(CODING) == {3000}


def test_what_the_user_has_set_stays() -> None:
    assert spin_counts(CODING, GOMP_SPINCOUNT="7") == {7}
    assert min(spin_counts(CODING, OMP_WAIT_POLICY="ACTIVE")) > 1_000_000


def test_the_default_is_another() -> None:
    assert min(spin_counts("import torch")) > 10_000
