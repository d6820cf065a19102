"""Pauses between two tries of a call, or two looks at what is waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pytest_dibctl.errors import ApiError

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 3.0
"""Seconds between two looks at something that is being waited for."""


def pauses_between() -> Iterator[float]:
    """Yield seconds to wait between two tries or looks, longer and longer."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE)


def found_again(find: Callable[[], T | None], *, patience: float) -> T | None:
    """Look once at least, and for ``patience`` seconds; a look that meets faults takes its own time."""
    until = time.monotonic() + patience
    pauses = pauses_between()
    while True:
        thing = find()
        if thing is not None or time.monotonic() >= until:
            return thing
        time.sleep(next(pauses))


def pause_before_again(error: ApiError, pauses: Iterator[float], deadline: float) -> None:
    """Wait before a call is repeated, as long as the service wants; raise ``error`` if that is too long."""
    pause = max(next(pauses), error.retry_after or 0.0)
    if time.monotonic() + pause > deadline:
        raise error
    log.debug("%s; trying again in %.1f s", error.message, pause)
    time.sleep(pause)
