"""Work on many items: in this process, in a pool of processes, or on a Ray cluster, where a worker may die of one.

All that knows of these engines is here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from vlae_codec.errors import VlaeError
from vlae_codec.files import keep_compiled

Item = TypeVar("Item")
Value = TypeVar("Value")

#: Fewest tasks that Ray is given at once, and how many for each that runs: enough that no worker waits, and that a
#: cluster which grows by itself sees what there is to do.
_FEWEST, _FOR_EACH = 64, 4
#: Seconds to wait until a cluster answers.
_PATIENCE = 10


@dataclass(frozen=True)
class Ray:
    """A cluster to work on.

    Attributes
    ----------
    address : str, optional
        As `ray.init` has it; None for the cluster that RAY_ADDRESS names or that runs on this machine, or else a new
        one of this machine alone.
    threads : int
        CPUs that each task takes.
    gpus : int
        GPUs that each task takes.
    variables : tuple of (str, str)
        Environment variables for the workers.
    """

    address: str | None = None
    threads: int = 1
    gpus: int = 0
    variables: tuple[tuple[str, str], ...] = ()


#: Worker processes at most, 0 to do the work in this process; or a cluster.
Engine = int | Ray


def default_jobs(threads: int) -> int:
    """Worker processes of so many threads each that keep this process's cores busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def run_each(
    function: Callable[[Item], Value], items: Sequence[Item], engine: Engine, start: Callable[[], None]
) -> Generator[tuple[Item, Value | None], None, None]:
    """Apply a function to every item, and give each with its value as it is done.

    Parameters
    ----------
    function : callable
        Must not raise, and must be importable, as the workers are other processes.
    items : sequence
    engine : int or Ray
    start : callable
        Called once in each process before its first item.

    Yields
    ------
    (item, value), the value None if the worker died of it. A death breaks a whole pool: what was in work then is done
    again, each item alone in a process, so that only an item that kills its own worker is given up. Ray does again what
    a lost worker or node had in work, and gives an item up after three more attempts. When the iterator is closed
    early, or an exception such as KeyboardInterrupt passes through it, the workers are ended at once.

    Raises
    ------
    VlaeError
        If Ray is not installed, the cluster cannot be reached, or its workers cannot work for us.
    """
    if isinstance(engine, Ray):
        yield from _run_ray(function, items, engine, start)
        return
    if not engine:
        start()
        for item in items:
            yield item, function(item)
        return
    left, suspects = deque(items), deque[Item]()
    while left or suspects:
        queue, workers = (deque([suspects.popleft()]), 1) if suspects else (left, min(engine, len(left)))
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


def _run_ray(
    function: Callable[[Item], Value], items: Sequence[Item], engine: Ray, start: Callable[[], None]
) -> Generator[tuple[Item, Value | None], None, None]:
    """Give Ray a bounded number of tasks at a time, and each item's value as it comes."""
    with _connected(engine) as ray:
        apply = ray.remote(num_cpus=engine.threads, num_gpus=engine.gpus)(_apply)
        work = ray.put((function, start))
        left, flying = iter(items), dict[Any, Item]()
        try:
            while True:
                room = max(_FEWEST, int(_FOR_EACH * ray.cluster_resources().get("CPU", 0) / engine.threads))
                # A cluster that lost nodes has less room than before.
                for item in itertools.islice(left, max(0, room - len(flying))):
                    # In a list Ray does not fetch it anew for each task.
                    flying[apply.remote([work], item)] = item
                if not flying:
                    return
                ray.wait(list(flying), num_returns=1)
                for reference in ray.wait(list(flying), num_returns=len(flying), timeout=0)[0]:
                    yield flying.pop(reference), _value_of(reference)
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)


def _value_of(reference: Any) -> Any:
    """What a task gave; None if its worker died of it."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise VlaeError(f"the cluster's workers cannot work: {_last_line(error)}") from None
    except ray.exceptions.RayError:
        return None


def _apply(work: list, item: Item) -> Any:
    """An item's value, in one of Ray's workers."""
    return _prepared(work[0])(item)


@functools.lru_cache(maxsize=1)
def _prepared(work: Any) -> Callable:
    """The function of a run; the worker is made ready for it once."""
    keep_compiled()
    import ray

    function, start = ray.get(work)
    start()
    return function


@contextlib.contextmanager
def _connected(engine: Ray) -> Iterator[Any]:
    """Ray, connected to a cluster; left as it is where this process is connected already."""
    # What Ray has to say would stand between our own lines, on stdout too; and a new cluster tells nobody of itself.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise VlaeError("Ray is not installed: pip install 'vlae-codec[cluster]'") from None
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = engine.address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _knock(address)
        with _errors_dropped():
            ray.init(
                engine.address, include_dashboard=False, log_to_driver=False, configure_logging=False,
                runtime_env={"env_vars": dict(engine.variables)} if engine.variables else None,
            )  # fmt: skip
    except Exception as error:
        # Some of Ray's are no more than that.
        raise VlaeError(f"no Ray cluster at {address}: {_last_line(error)}") from None
    try:
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        # Without a CPU there may be nodes to come, which Ray waits for.
        if 0 < largest < engine.threads:
            raise VlaeError(f"no node of the cluster has {engine.threads} CPUs, the largest has {largest:g}")
        yield ray
    finally:
        with _errors_dropped():
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at an address that names a host and a port: Ray would try for ten minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


@contextlib.contextmanager
def _errors_dropped() -> Iterator[None]:
    """Drop what is written on standard error meanwhile, as Ray's core does where it begins and ends."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _last_line(error: BaseException) -> str:
    """The end of what Ray says, which holds whole tracebacks."""
    return str(error).strip().splitlines()[-1]
