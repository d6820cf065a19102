"""The QEMU process of an instance: a child of this process, or a process that an earlier run started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pytest_dibctl.clouds.reaping import GRACE, await_end, reap
from pytest_dibctl.system import process, processes

SETTLE = 1.0
"""Seconds in which QEMU ends, if that is why its helper has."""
BY_SIGNAL = 128
"""Added to the number of a signal in the exit code of bubblewrap."""


class Guest(Protocol):
    """A QEMU process."""

    @property
    def pid(self) -> int: ...

    def ended(self) -> str | None:
        """Return how the process ended ("exited with 1"), or None while it runs."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the process to end; return whether it has ended."""
        ...

    def lost(self) -> str | None:
        """Return the name of a helper that has ended before QEMU; None for helpers of another process."""
        ...

    def kill(self) -> None:
        """End the process with SIGTERM, after ``GRACE`` with SIGKILL, and wait until it is gone."""
        ...


class Child:
    """A QEMU that this process started in its sandbox, and whose ``helpers`` it must reap as well.

    ``started`` is the process that made the sandbox and waits for QEMU, ``pid`` is QEMU. The helpers end by
    themselves after QEMU.
    """

    def __init__(
        self,
        started: subprocess.Popen[str],
        *,
        uuid: str,
        pid: int,
        helpers: Sequence[subprocess.Popen[str]] = (),
    ) -> None:
        self._started = started
        self._qemu = Stranger(uuid, pid)
        self._helpers = tuple(helpers)

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._qemu.pid

    def ended(self) -> str | None:
        """Return how the process ended, or None while it runs."""
        code = self._started.poll()
        if code is None:
            return None
        reap(self._helpers)  # QEMU's last messages are in its logs then
        # bubblewrap tells of signals like a shell.
        return process.describe_exit(BY_SIGNAL - code if code > BY_SIGNAL else code)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the process to end; return whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started.wait(seconds)
        return self._started.poll() is not None

    def lost(self) -> str | None:
        """Return the name of a helper that has ended before QEMU."""
        ended = next((helper for helper in self._helpers if helper.poll() is not None), None)
        # QEMU may have ended with it a moment ago.
        if ended is None or self.wait(SETTLE):
            return None
        return str(ended.args[0]) if isinstance(ended.args, list) else str(ended.args)

    def kill(self) -> None:
        """End the process with SIGTERM, after ``GRACE`` with SIGKILL, and reap it."""
        self._qemu.kill()
        self.wait(GRACE)
        process.stop(self._started, grace=GRACE)
        reap(self._helpers)


class Stranger:
    """A QEMU that another process started; the instance's uuid on its command line identifies it."""

    def __init__(self, uuid: str, pid: int) -> None:
        self._uuid = uuid
        self.pid = pid

    def lost(self) -> str | None:
        """Return None: the helpers are not known."""

    def ended(self) -> str | None:
        """Return "is gone" once the process has ended, None while it runs."""
        return None if is_guest(self.pid, self._uuid) else "is gone"

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the process to end; return whether it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # The check comes after the descriptor is open, which holds on to one process even if its pid is
            # used again.
            if not is_guest(self.pid, self._uuid):
                return True
            return await_end(descriptor, seconds)
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """End the process with SIGTERM, after ``GRACE`` with SIGKILL, and wait until it is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.ended():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            if self.wait(GRACE):
                return


def is_guest(pid: int, uuid: str) -> bool:
    """Return whether ``pid`` runs with ``uuid`` as an argument; a zombie does not run."""
    return processes.has_argument(pid, uuid)


def find(uuid: str, pid: int | None) -> Stranger | None:
    """Return the QEMU of an instance: the recorded ``pid``, or without one, a process with the uuid.

    Returns None when it has ended.
    """
    if pid is not None:
        return Stranger(uuid, pid) if is_guest(pid, uuid) else None
    # The run ended between the start of QEMU and the record of its process id. The process that made its
    # sandbox has the same argument.
    guests = [
        candidate for candidate in processes.with_argument(uuid) if candidate.name().startswith("qemu-")
    ]
    return Stranger(uuid, guests[0].pid) if guests else None


def kill_all(uuid: str) -> None:
    """Kill the processes of an instance, whether its sandbox is made already or not."""
    for candidate in processes.with_argument(uuid):
        kill(candidate.pid)


def running_in(directory: Path) -> tuple[int, ...]:
    """Return the process ids of QEMU whose working directory is an instance's ``directory``."""
    return tuple(qemu.pid for qemu in processes.working_in(directory, program="qemu-"))


def kill(pid: int) -> None:
    """Kill a process at once, and wait up to ``GRACE`` seconds until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            await_end(descriptor)
        finally:
            os.close(descriptor)
