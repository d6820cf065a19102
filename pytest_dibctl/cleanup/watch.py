"""Waiting for the death of a run's guardian, and of each that follows it.

The kernel says through a pidfd that any process has ended, also one that this process did not start. A thread
waits for that. It is not there while this process forks: a fork of a process with threads may hang, and
Python warns of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from collections.abc import Callable


class Watch:
    """Waits for the death of a process, then for that of its successor, until ``end`` is called.

    ``successor`` is called in the thread that waits. It returns the process to watch next, None for none.
    """

    def __init__(self, pid: int, *, successor: Callable[[], int | None]) -> None:
        self._successor = successor
        self._ended = False
        self._watched = _opened(pid)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        _WATCHES.add(self)
        self.resume()

    def sees_life(self) -> bool:
        """Whether the watched process lives, and is still watched."""
        watched = self._watched
        return not self._ended and watched is not None and not _is_readable(watched)

    def end(self) -> None:
        """Watch no more."""
        if not self._ended:
            self._ended = True
            _WATCHES.discard(self)
            self.pause()
            for descriptor in (self._wake, self._watched):
                if descriptor is not None:
                    os.close(descriptor)

    def pause(self) -> None:
        """End the thread; a death is noticed after ``resume``."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            os.eventfd_write(self._wake, 1)
            thread.join()

    def resume(self) -> None:
        """Go on watching."""
        if not self._ended:
            with contextlib.suppress(OSError):
                os.eventfd_read(self._wake)
            self._thread = threading.Thread(target=self._run, name="dibctl-guardian-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            # A process that cannot be opened has ended already.
            if self._watched is not None:
                ready, _, _ = select.select([self._watched, self._wake], [], [])
                if self._wake in ready:
                    return
            pid = self._successor()
            if pid is None:
                return
            if self._watched is not None:
                os.close(self._watched)
            self._watched = _opened(pid)


def _opened(pid: int) -> int | None:
    """Return a descriptor of a process, None if it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


_WATCHES: weakref.WeakSet[Watch] = weakref.WeakSet()


def _before_fork() -> None:
    for watch in list(_WATCHES):
        watch.pause()


def _after_fork() -> None:
    for watch in list(_WATCHES):
        watch.resume()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_WATCHES.clear)
