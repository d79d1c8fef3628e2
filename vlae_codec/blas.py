"""The library behind compiled matrix products, and how many threads it may start."""

from __future__ import annotations

from typing import Any

import scipy.linalg.cython_blas  # noqa: F401  it must be loaded before its threads can be limited
from threadpoolctl import ThreadpoolController

_threadpools = ThreadpoolController()


def single_threaded_products() -> Any:
    """A context in which a matrix product starts no threads: the loops around it already run on all of them."""
    return _threadpools.limit(limits=1, user_api="blas")
