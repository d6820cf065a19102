"""Waiting for processes that may never get there: with a deadline that shows what they said."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import AnyStr

from tests.support.terminals import PATIENCE

__all__ = ["PATIENCE", "ended", "finish", "stop", "until"]


@contextlib.contextmanager
def ended(child: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Kill a child that still runs at the end: leaving Popen's own block would wait for it for ever."""
    with child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def until(
    holds: Callable[[], object], child: subprocess.Popen[str] | None = None, *, seconds: float = PATIENCE
) -> None:
    """Wait until something holds; fail with the child's output when it ends or the time is up before."""
    deadline = time.monotonic() + seconds
    while True:
        over = child is not None and child.poll() is not None  # before the look: its last act may count
        if holds():
            return
        if over or time.monotonic() > deadline:
            said = stop(child) if child is not None else ""
            when = "before it ended" if over else f"within {seconds:g} s"
            raise AssertionError(f"it did not come to that {when}\n{said}")
        time.sleep(0.05)


def finish(child: subprocess.Popen[str], seconds: float = PATIENCE) -> str:
    """Return what a child says to its end; fail with that when the end does not come."""
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it did not end within {seconds:g} s:\n{stop(child)}") from None
    return output or ""


def stop(child: subprocess.Popen[str]) -> str:
    """End a child so that it can clean up, and return what it said."""
    child.terminate()
    try:
        output, _ = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate(timeout=60)
    return output or ""
