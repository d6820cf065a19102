"""The QEMU process of an instance: our child, or one that an earlier run left running."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Protocol

from pytest_dibctl.system import process, processes

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class Guest(Protocol):
    """A QEMU process."""

    @property
    def pid(self) -> int: ...

    def ended(self) -> str | None:
        """Return how the process ended ("exited with 1"), or None while it runs."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; return whether it did."""
        ...

    def kill(self) -> None:
        """End the process, by force if it must be, and wait until it is gone."""
        ...


class Child:
    """A QEMU that this process started."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._started = started

    @property
    def pid(self) -> int:
        """The process id."""
        return self._started.pid

    def ended(self) -> str | None:
        """Return how the process ended, or None while it runs."""
        code = self._started.poll()
        return None if code is None else process.describe_exit(code)

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; return whether it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started.wait(seconds)
        return self._started.poll() is not None

    def kill(self) -> None:
        """End the process and wait for it."""
        process.stop(self._started, grace=GRACE)


class Stranger:
    """A QEMU that another process started, known by the instance's uuid on its command line."""

    def __init__(self, uuid: str, pid: int) -> None:
        self._uuid = uuid
        self.pid = pid

    def ended(self) -> str | None:
        """Return "is gone" once the process is."""
        return None if is_guest(self.pid, self._uuid) else "is gone"

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; return whether it did."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # Looked at after the descriptor is open: from here on the pid cannot become another process.
            if not is_guest(self.pid, self._uuid):
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """End the process and wait until it is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.ended():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            if self.wait(GRACE):
                return


def is_guest(pid: int, uuid: str) -> bool:
    """Return whether ``pid`` is a living QEMU that was given ``uuid``; a zombie is not living."""
    return processes.has_argument(pid, uuid)


def find(uuid: str, pid: int | None) -> Stranger | None:
    """Return the QEMU of an instance: the one recorded, else any whose command line has the uuid."""
    if pid is not None:
        return Stranger(uuid, pid) if is_guest(pid, uuid) else None
    # The run died after it had started QEMU and before it could write down the process id.
    guests = processes.with_argument(uuid)
    return Stranger(uuid, guests[0].pid) if guests else None


def running_in(directory: Path) -> tuple[int, ...]:
    """Return the processes whose working directory is an instance's: its QEMU, and nothing else."""
    return tuple(found.pid for found in processes.working_in(directory, program="qemu-"))


def kill(pid: int) -> None:
    """Kill a process of which nothing is known, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(GRACE * 1000)
        finally:
            os.close(descriptor)
