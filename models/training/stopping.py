"""Ctrl-C while a step of training is under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruption_held() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back and tell whether it came; a second one interrupts at once.

    Elsewhere than in the main thread of a program that has Python's own answer to Ctrl-C, this does nothing.
    """
    came = False

    def hold(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
