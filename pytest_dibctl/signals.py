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
    """What has been heard so far; ``received`` counts the signals since the last ``forget``."""

    def __init__(self) -> None:
        self.received = 0
        self.removals = 0
        self.teardowns = 0
        self.pending: str | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, now or when what must not be broken is over.

        A removal is broken by the third signal only, a teardown of somebody else's by the second.
        """
        self.received += 1
        name = signal.Signals(number).name
        if self.received >= SIGNALS_TO_ABANDON:
            self.pending = None
            raise KeyboardInterrupt(f"{name} received again: removal abandoned")
        if self.removals or (self.teardowns and self.received == 1):
            self.pending = self.pending or f"{name} received"
        elif self.received == 1 or self.teardowns:
            raise KeyboardInterrupt(f"{name} received")
        _say(
            "dibctl: still removing what this run made; once more to abandon it" if self.received > 1 else ""
        )

    def forget(self) -> None:
        """Begin to count again: work goes on, so nobody is removing anything."""
        if self.pending is None:
            self.received = 0


_current: Interruption | None = None


@contextlib.contextmanager
def held(*, for_removal: bool = True) -> Iterator[None]:
    """Put a first signal off until the outermost such block has ended."""
    heard = _current
    if heard is None:
        yield
        return
    kind = "removals" if for_removal else "teardowns"
    setattr(heard, kind, getattr(heard, kind) + 1)
    try:
        yield
    finally:
        setattr(heard, kind, getattr(heard, kind) - 1)
        if heard.pending is not None and not heard.removals and not heard.teardowns:
            reason, heard.pending = heard.pending, None
            raise KeyboardInterrupt(reason)


def forget() -> None:
    """Begin to count signals again."""
    if _current is not None:
        _current.forget()


@contextlib.contextmanager
def as_keyboard_interrupt() -> Iterator[Interruption]:
    """Turn the stopping signals into one KeyboardInterrupt; the former handlers come back on leaving.

    SIGTERM and SIGHUP would otherwise end Python without any finalizer. Outside the main thread, where
    Python allows no handlers, nothing changes. A SIGHUP that is ignored (nohup) stays ignored.
    """
    global _current  # noqa: PLW0603 -- there is one set of signal handlers in a process
    heard = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    former = {
        number: signal.signal(number, heard)
        for number in STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    outer, _current = _current, heard
    try:
        yield heard
    finally:
        _current = outer
        for number, handler in former.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    if not text:
        return
    # os.write: a signal handler must not meet a lock that the interrupted code holds.
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
