"""Programs at a terminal of their own, as a person has them, and what they show there."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import time
from collections.abc import Callable, Iterator
from subprocess import Popen, TimeoutExpired

PATIENCE = 240
"""Seconds to wait for words on the screen."""


@contextlib.contextmanager
def at_terminal(start: Callable[[int], Popen[str]]) -> Iterator[tuple[int, Popen[str]]]:
    """Have ``start`` start a program with a terminal, by its descriptor; gives the terminal's other end."""
    ours, theirs = pty.openpty()
    try:
        try:
            child = start(theirs)
        finally:
            os.close(theirs)
        try:
            yield ours, child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(timeout=60)
                except TimeoutExpired:
                    # Its guardian removes what it made; a test that is run again shall not find it alive.
                    child.kill()
                    child.wait()
                    raise
    finally:
        os.close(ours)


def read_until(descriptor: int, awaited: str | None, then: str = "") -> str:
    """Return what comes until the words, or until the end; fail where the words do not come.

    ``then`` has to come after them. One read may bring both, so two calls would wait for it in vain.
    """

    def came() -> bool:
        if awaited is None:
            return False
        _, found, after = seen.partition(awaited)
        return bool(found) and then in after

    seen = ""
    deadline = time.monotonic() + PATIENCE
    while not came() and time.monotonic() < deadline:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # how a terminal says that nobody is there any more
            data = b""
        if not data:
            break
        seen += data.decode(errors="replace")
    assert awaited is None or came(), seen
    return seen
