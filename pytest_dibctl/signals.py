"""SIGINT, SIGTERM and SIGHUP end a run the same way: once, with everything removed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS_TO_ABANDON = 3


class Interruption:
    """What has been heard so far; ``received`` counts the signals, ``last`` is the newest."""

    def __init__(self) -> None:
        self.received = 0
        self.last: signal.Signals | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal; protect the removal that follows from the next."""
        self.received += 1
        self.last = signal.Signals(number)
        if self.received == 1:
            raise KeyboardInterrupt(f"{self.last.name} received")
        if self.received < SIGNALS_TO_ABANDON:
            _say("dibctl: still removing what this run made; once more to abandon it")
            return
        raise KeyboardInterrupt(f"{self.last.name} received again: removal abandoned")


@contextlib.contextmanager
def as_keyboard_interrupt() -> Iterator[Interruption]:
    """Turn the stopping signals into one KeyboardInterrupt; the former handlers come back on leaving.

    SIGTERM and SIGHUP would otherwise end Python without any finalizer. Outside the main thread, where
    Python allows no handlers, nothing changes. A SIGHUP that is ignored (nohup) stays ignored.
    """
    heard = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    former = {
        number: signal.signal(number, heard)
        for number in STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield heard
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    # os.write: a signal handler must not meet a lock that the interrupted code holds.
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
