"""Stopping a long command in good order."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(patience: float = 0.0) -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, for the loop to see between two steps; a second one stops at once.

    Within ``patience`` seconds a second one is taken for the same: torchrun passes on a Ctrl-C that its
    processes have heard already.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    first = [0.0]

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not stopped.is_set():
            first[0] = time.monotonic()
        elif time.monotonic() - first[0] >= patience:
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
