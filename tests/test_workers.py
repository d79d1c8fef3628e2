from __future__ import annotations

import os
import signal
from contextlib import closing

from vlae_codec.workers import default_jobs, run_each


def square(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return number * number


def nothing() -> None:
    """No preparation."""


def test_only_the_item_that_kills_its_worker_is_given_up() -> None:
    """In company too, where a death takes the items along that others work on."""
    assert dict(run_each(square, [-1, 2, 3], 2, nothing)) == {-1: None, 2: 4, 3: 9}


def test_in_this_process_items_are_done_in_order() -> None:
    started: list[bool] = []
    with closing(run_each(square, [3, 1, 2], 0, lambda: started.append(True))) as results:
        assert list(results) == [(3, 9), (1, 1), (2, 4)]
    assert started == [True]


def test_jobs_and_threads_share_the_cores() -> None:
    assert default_jobs(1) >= default_jobs(2) >= default_jobs(1 << 20) == 1
