"""Work on many items in worker processes, of which one may die without taking the others along."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def default_jobs(threads: int) -> int:
    """Worker processes of so many threads each that keep this process's cores busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def run_each(
    function: Callable[[Item], Value], items: Sequence[Item], jobs: int, start: Callable[[], None]
) -> Generator[tuple[Item, Value | None], None, None]:
    """Apply a function to every item, and give each with its value as it is done.

    Parameters
    ----------
    function : callable
        Must not raise, and must be importable, as the workers are spawned.
    items : sequence
    jobs : int
        Worker processes at most; 0 does the work in this process, one item after the other.
    start : callable
        Called once in each process before its first item.

    Yields
    ------
    (item, value), the value None if the worker died of it. A death breaks a whole pool: what was in work then is done
    again, each item alone in a process, so that only an item that kills its own worker is given up. When the iterator
    is closed early, or an exception such as KeyboardInterrupt passes through it, the workers are ended at once.
    """
    if not jobs:
        start()
        for item in items:
            yield item, function(item)
        return
    left, suspects = deque(items), deque[Item]()
    while left or suspects:
        queue, workers = (deque([suspects.popleft()]), 1) if suspects else (left, min(jobs, len(left)))
        lost = yield from _run_pool(function, queue, workers, start)
        if workers == 1:
            yield from ((item, None) for item in lost)
        else:
            suspects.extend(lost)


def _run_pool(
    function: Callable[[Item], Value], queue: deque[Item], workers: int, start: Callable[[], None]
) -> Generator[tuple[Item, Value], None, list[Item]]:
    """Work through a queue until it is empty or the pool breaks; returns the items that were in work when it broke."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(start,))
    flying: dict[Future[Value], Item] = {}
    ready: list[tuple[Item, Value]] = []
    lost: list[Item] = []
    broken = False
    try:
        while True:
            # No more than one item for each worker, so that few are in doubt when one dies.
            while queue and not broken and len(flying) < workers:
                try:
                    with _interrupts_held():
                        flying[pool.submit(function, queue[0])] = queue[0]
                    queue.popleft()
                except BrokenProcessPool:
                    broken = True
            yield from ready
            ready.clear()
            if not flying:
                return lost
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                item = flying.pop(future)
                try:
                    ready.append((item, future.result()))
                except BrokenProcessPool:
                    broken = True
                    lost.append(item)
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile; processes begun meanwhile never get it, so that they print no tracebacks."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    start()


def _leave_with_parent() -> None:
    """End this worker when the process that began it is gone; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
