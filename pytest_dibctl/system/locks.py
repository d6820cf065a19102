"""Locks between processes that the kernel releases however their holder ends: flock(2) on a file.

A lock belongs to the open file, not to the process. A child that inherits the descriptor holds the lock too,
and it is released when the last of them has closed it or ended. The file itself stays: if one process removed
it, a second that waits for it and a third that makes it anew would both hold "the" lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pytest_dibctl.system.waiting import POLL, wait_until


@contextlib.contextmanager
def opened(path: Path, *, create: bool = True, mode: int = 0o600) -> Iterator[int]:
    """Open the file of a lock and yield its descriptor, not locked yet; it is closed in the end.

    ``path`` may be a directory, which must exist. ``mode`` is for a file that is made now. Raises OSError,
    FileNotFoundError among them for a file that is not there without ``create``.
    """
    # For writing: NFS refuses an exclusive lock on a file that is open for reading only.
    # Not through a link: in a shared folder, it would have root make a file wherever another user likes.
    for_file = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else for_file
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def hold(descriptor: int, *, shared: bool = False) -> None:
    """Take the lock of an open file, waiting in the kernel for as long as it takes.

    A signal that arrives just before the wait begins is handled only when the wait is over: where a user
    may press Ctrl-C meanwhile, use ``hold_by_looking``.
    """
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_hold(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free at this moment; return whether it was."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def let_go(descriptor: int) -> None:
    """Release the lock of an open file, which stays open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def hold_by_looking(
    descriptor: int,
    *,
    timeout: float | None = None,
    poll: float = POLL,
    while_waiting: Callable[[], object] | None = None,
) -> bool:
    """Take the exclusive lock of an open file, looking every ``poll`` seconds; return whether it is held.

    It is not when ``timeout`` seconds have passed; None waits without end. ``while_waiting`` is called after
    each look that found the lock taken; an error that it raises ends the wait.
    """

    def is_held() -> bool:
        if try_hold(descriptor):
            return True
        if while_waiting is not None:
            while_waiting()
        return False

    return wait_until(is_held, timeout=timeout, poll=poll)


@contextlib.contextmanager
def shared(path: Path, *, mode: int = 0o600) -> Iterator[int]:
    """Hold the lock of ``path`` together with others that hold it shared; yield the descriptor."""
    with opened(path, mode=mode) as descriptor:
        hold(descriptor, shared=True)
        yield descriptor


@contextlib.contextmanager
def exclusive(
    path: Path,
    *,
    mode: int = 0o600,
    timeout: float | None = None,
    poll: float = POLL,
    while_waiting: Callable[[], object] | None = None,
) -> Iterator[int]:
    """Hold the lock of ``path`` alone; yield the descriptor. See ``hold_by_looking``.

    Raises TimeoutError, which is an OSError, when the lock is not free within ``timeout`` seconds.
    """
    with opened(path, mode=mode) as descriptor:
        if not hold_by_looking(descriptor, timeout=timeout, poll=poll, while_waiting=while_waiting):
            raise TimeoutError(f"another process has held {path} for {timeout:g} s")
        yield descriptor


@contextlib.contextmanager
def exclusive_if_free(path: Path, *, mode: int = 0o600) -> Iterator[int | None]:
    """Hold the lock of ``path`` alone if it is free now; yield the descriptor, None if it is not free."""
    with opened(path, mode=mode) as descriptor:
        yield descriptor if try_hold(descriptor) else None


def is_held(path: Path, *, pauses: Iterable[float] = (0.0,)) -> bool:
    """Whether a process holds the lock of ``path``; False where there is no such file.

    A look takes the lock for a moment, and another look at the same moment would mistake that for a holder.
    So there is a look after each of ``pauses``, in seconds, and all have to find the lock taken.
    """
    try:
        with opened(path, create=False) as descriptor:
            for pause in pauses:
                time.sleep(pause)
                if try_hold(descriptor):
                    return False
    except FileNotFoundError:
        return False
    return True
