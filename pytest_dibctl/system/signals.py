"""SIGINT, SIGTERM and SIGHUP end a run the same way: once, with everything removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pytest_dibctl.system.text import visible

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS_TO_ABANDON = 3
SIGNALLED = 128
"""The number that shells add to the signal that ended a program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The words for the user when work is interrupted that no guardian takes over.

    ``doing`` names the work that goes on to its end nevertheless. ``after`` names the command for the rest if
    even that is cut off.
    """

    doing: str
    after: str


class Interruption:
    """The signals received so far; ``received`` counts them since the last ``forget``."""

    def __init__(self) -> None:
        self.received = 0
        self.first: int | None = None
        """The number of the first signal."""
        self.removals = 0
        self.teardowns = 0
        self.pending: str | None = None
        self.ends_at_once = False
        """Whether each signal interrupts the present work."""
        self.outlook: Callable[[], list[str]] | None = None
        """Returns the resources still to be removed, in words; called for the answer to a signal."""
        self.guarded = False
        """Whether a guardian removes the leftovers when this process is gone."""
        self.words: Words | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, now or when the protected work is over.

        A removal is broken by the third signal only, a teardown of other code by the second.
        """
        self.received += 1
        self.first = number if self.received == 1 else self.first
        name = signal.Signals(number).name
        if self.received == 1 and self.words is not None and (left := self._left()):
            _say(f"dibctl: {name} received; {self.words.doing} {', '.join(left)}")
        if self.received >= SIGNALS_TO_ABANDON:
            self.pending = None
            _say(self._farewell())
            raise KeyboardInterrupt(f"{name} received again: removal abandoned")
        if self.removals or (self.teardowns and self.received == 1):
            self.pending = self.pending or f"{name} received"
        elif self.received == 1 or self.teardowns or self.ends_at_once:
            raise KeyboardInterrupt(f"{name} received")
        _say(self._patience() if self.received > 1 else "")

    def _patience(self) -> str:
        left = self._left()
        if self.outlook is not None and not left:
            return ""
        if self.words is not None:
            return f"dibctl: still {self.words.doing} {', '.join(left)}; once more to end at once"
        what = f": {', '.join(left)}" if left else " what this run made"
        whom = "the run's guardian" if self.guarded else "`dibctl cleanup`"
        return f"dibctl: still removing{what}; once more to leave that to {whom}"

    def _farewell(self) -> str:
        left = self._left()
        if not left:
            return ""
        if self.words is not None:
            return f"dibctl: ended while {self.words.doing} {', '.join(left)}; {self.words.after}"
        if not self.guarded:
            return f"dibctl: left behind, for `dibctl cleanup`: {', '.join(left)}"
        return (
            f"dibctl: the run's guardian removes {', '.join(left)}; "
            "`dibctl cleanup` waits for it and says what is left"
        )

    def _left(self) -> list[str]:
        if self.outlook is None:
            return []
        with contextlib.suppress(Exception):  # no error may come out of a signal handler
            return self.outlook()
        return []

    def forget(self) -> None:
        """Begin to count again: work goes on, so nothing is being removed."""
        if self.pending is None:
            self.received, self.first = 0, None


def exit_code(number: int | None) -> int:
    """Return a shell's exit code for a signal that ended a program; 130, as for Ctrl-C, for None."""
    return SIGNALLED + (number or signal.SIGINT)


_current: Interruption | None = None


@contextlib.contextmanager
def held(*, for_removal: bool = True) -> Iterator[None]:
    """Put a first signal off until the outermost such block has ended."""
    interruption = _current
    if interruption is None:
        yield
        return
    kind = "removals" if for_removal else "teardowns"
    setattr(interruption, kind, getattr(interruption, kind) + 1)
    try:
        yield
    finally:
        setattr(interruption, kind, getattr(interruption, kind) - 1)
        if interruption.pending is not None and not interruption.removals and not interruption.teardowns:
            reason, interruption.pending = interruption.pending, None
            raise KeyboardInterrupt(reason)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let any signal end the block, also where ``held`` puts signals off: for work that only a person ends.

    Around such a block the interruption is due when the outermost ``held`` ends; elsewhere it is raised now.
    """
    interruption = _current
    if interruption is None:
        yield
        return
    before = interruption.removals, interruption.teardowns
    interruption.removals, interruption.teardowns, interruption.ends_at_once = 0, 0, True
    try:
        yield
    except KeyboardInterrupt as stop:
        if not any(before):
            raise
        interruption.pending = interruption.pending or str(stop)
    finally:
        interruption.removals, interruption.teardowns = before
        interruption.ends_at_once = False


def interrupted() -> bool:
    """Whether a signal came, and work has not gone on since."""
    return _current is not None and _current.received > 0


@contextlib.contextmanager
def undertaking(words: Words, left: Callable[[], list[str]]) -> Iterator[None]:
    """Have interruptions inside told of work that has no guardian; ``left`` names what it is still at."""
    interruption = _current
    if interruption is None:
        yield
        return
    before = interruption.words, interruption.outlook
    interruption.words, interruption.outlook = words, left
    try:
        yield
    finally:
        interruption.words, interruption.outlook = before


def guarded() -> None:
    """Note that from now on a guardian removes the leftovers when this process is gone."""
    if _current is not None:
        _current.guarded = True


def abandoned() -> bool:
    """Whether so many signals came that the rest was given up."""
    return _current is not None and _current.received >= SIGNALS_TO_ABANDON


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
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    former = {
        number: signal.signal(number, interruption)
        for number in STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    outer, _current = _current, interruption
    try:
        yield interruption
    finally:
        _current = outer
        for number, handler in former.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    if not text:
        return
    # os.write: a signal handler must not meet a lock that the interrupted code holds.
    with contextlib.suppress(OSError):
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{visible(text)}\n".encode(errors="replace")
        )
