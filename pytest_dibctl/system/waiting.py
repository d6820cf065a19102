"""Waiting by polling: one loop with a deadline and pauses, for the whole package."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

POLL = 0.1
"""Seconds between two looks, unless the caller says otherwise."""


def wait_until(
    condition: Callable[[], T], *, timeout: float | None = None, poll: float | Iterator[float] = POLL
) -> T:
    """Call ``condition`` until it returns something true; return its last value.

    The last value is false when ``timeout`` seconds have passed first; without a timeout the wait has no end.
    ``condition`` is called once at least, and once more when the time is over. ``poll`` is the seconds
    between two calls, or yields them one after the other. An error that ``condition`` raises ends the wait.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while not (value := condition()):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        pause = poll if isinstance(poll, (int, float)) else next(poll)
        time.sleep(min(pause, left))
    return value


def wait_while(
    condition: Callable[[], T], *, timeout: float | None = None, poll: float | Iterator[float] = POLL
) -> T:
    """Call ``condition`` until it returns something false; return its last value. See ``wait_until``."""
    last: list[T] = []

    def is_over() -> bool:
        last[:] = [condition()]
        return not last[0]

    wait_until(is_over, timeout=timeout, poll=poll)
    return last[0]


def growing(first: float, *, factor: float, longest: float) -> Iterator[float]:
    """Yield pauses in seconds, each ``factor`` times the previous, none above ``longest``."""
    pause = first
    while True:
        yield min(pause, longest)
        pause = min(pause * factor, longest)


class Every:
    """Tells when it is time for the next line of progress; ``seconds`` lie between two."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def is_due(self) -> bool:
        """Whether ``seconds`` have passed since this last returned True; True for the first call."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
