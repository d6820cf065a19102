"""The processes of this machine: which of them live, their parents, and their first environment.

A zombie counts as dead everywhere here: process 1 of a container may never wait for the orphans it inherits,
and a dead process would look alive for ever. A process id counts only together with the time its process
began, so a signal never reaches another process that got the id of a dead one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from pytest_dibctl.system import process
from pytest_dibctl.system.waiting import wait_until

Process = psutil.Process
"""A process, known by its id and the time it began."""

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_CLOSED = (psutil.Error, OSError)
"""Errors of a look into a process that is gone, a zombie or another user's."""


def parent(pid: int) -> int | None:
    """Return the parent of a process, None if the process is dead."""
    with contextlib.suppress(*_CLOSED):
        child = Process(pid)
        with child.oneshot():
            return None if child.status() in _DEAD else child.ppid()
    return None


def start_tick(pid: int) -> int | None:
    """Return when a living process began, in clock ticks since this machine's boot; None if it is dead.

    Seconds since 1970, as psutil counts, would move with the machine's clock.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The program's name stands in parentheses and may hold some itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    return None


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id and it is not dead."""
    return parent(pid) is not None


def is_child(pid: int) -> bool:
    """Whether a living process is a child of this one; an id that was given anew is another's child."""
    return parent(pid) == os.getpid()


def has_argument(pid: int, argument: str) -> bool:
    """Whether a living process has ``argument``, whole, on its command line."""
    with contextlib.suppress(*_CLOSED):
        return argument in Process(pid).cmdline()
    return False


def private_memory(pid: int) -> int:
    """Return the bytes of memory that a process shares with no file; 0 if it is gone."""
    with contextlib.suppress(*_CLOSED):
        memory = Process(pid).memory_info()
        return int(memory.rss - memory.shared)
    return 0


def with_argument(argument: str) -> tuple[Process, ...]:
    """Return the living processes that have ``argument``, whole, on their command line."""
    return _living(lambda candidate: argument in candidate.cmdline())


def with_variable(name: str, value: str) -> tuple[Process, ...]:
    """Return the living processes that were started with an environment variable, this one left out."""
    return _living(lambda candidate: candidate.pid != os.getpid() and candidate.environ().get(name) == value)


def working_in(directory: Path, *, program: str) -> tuple[Process, ...]:
    """Return the living processes in a working directory that have ``program`` on their command line."""
    return _living(
        lambda candidate: (
            candidate.cwd() == str(directory) and any(program in part for part in candidate.cmdline())
        )
    )


def _living(matches: Callable[[Process], bool]) -> tuple[Process, ...]:
    """Return the living processes that match; a process that may not be looked into does not match."""
    living = []
    for pid in psutil.pids():
        with contextlib.suppress(*_CLOSED):
            candidate = Process(pid)
            if matches(candidate) and candidate.status() not in _DEAD:
                living.append(candidate)
    return tuple(living)


def send(number: signal.Signals, receivers: Iterable[Process]) -> None:
    """Send a signal to processes; those that are gone, or belong to another user, are passed over."""
    for receiver in receivers:
        with contextlib.suppress(*_CLOSED):
            receiver.send_signal(number)


def end_marked(run_id: str, *, grace: float = process.KILL_GRACE) -> tuple[int, ...]:
    """End the processes that a dead run started and that have outlived it; return their ids.

    They get SIGTERM and, where that does not end them within ``grace`` seconds, SIGKILL and as long again.
    """
    outlived = _marked(run_id)
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(number, _marked(run_id))
        wait_until(lambda: not _marked(run_id), timeout=grace, poll=0.05)
    return tuple(survivor.pid for survivor in outlived)


def _marked(run_id: str) -> tuple[Process, ...]:
    return with_variable(process.RUN, run_id)
