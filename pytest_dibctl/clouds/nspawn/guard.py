"""The guard of a container as its instance sees it: a process, and orders that it follows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds import reaping
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guards import container
from pytest_dibctl.system import process, processes, sockets

CONTROL: Final = "control.sock"
PATIENCE: Final = 60.0
"""Seconds an order may take; making a disk anew takes 0.1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power:
    """Whether the container runs: ``state`` is running, rebooting, off or failed; ``code`` is nspawn's.

    ``trouble`` says why it could not reboot.
    """

    state: str
    code: int
    boots: int
    trouble: str | None


class Guard:
    """The guard of the instance ``name``.

    ``started`` is the process that made its namespaces, when this process started it, and ``helpers`` are to
    be reaped after it. ``notes`` name the parts of the image that are not in the container, if this process
    opened it.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        pid: int,
        *,
        started: subprocess.Popen[str] | None = None,
        helpers: Sequence[subprocess.Popen[str]] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.pid = pid
        self.notes = tuple(notes)
        self._name = name
        self._control = directory / CONTROL
        self._started = started
        self._helpers = tuple(helpers)

    def order(self, command: str, name: str | None = None) -> Power:
        """Have the guard do something, perhaps with the snapshot ``name``; return how the container is then.

        Raises InstanceError when the guard refuses, and when it does not answer.
        """
        try:
            with sockets.connected(self._control, timeout=PATIENCE) as connection:
                connection.sendall(json.dumps({"execute": command, "name": name}).encode() + b"\n")
                answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        except (OSError, ValueError) as error:
            raise InstanceError(f"{self._name}: its guard does not answer ({command}): {error}") from None
        if "error" in answer:
            raise InstanceError(f"{self._name}: {answer['error']}", hint=answer["hint"])
        return Power(**answer)

    def ended(self) -> str | None:
        """Return how the guard ended, None while it lives."""
        if self._started is not None:
            code = self._started.poll()
            return None if code is None else process.describe_exit(code)
        return None if processes.has_argument(self.pid, container.instance_option(self._name)) else "is gone"

    def lost(self) -> str | None:
        """Return the name of a helper that has ended before the guard."""
        ended = next((helper for helper in self._helpers if helper.poll() is not None), None)
        if ended is None or self.ended():
            return None
        return str(ended.args[0]) if isinstance(ended.args, list) else str(ended.args)

    def kill(self) -> None:
        """End the guard, and with it the kernel ends everything that it holds."""
        end(self._name)
        if self._started is not None:
            process.stop(self._started, grace=reaping.GRACE)
            for pipe in (self._started.stdout, self._started.stdin):
                if pipe is not None:
                    pipe.close()
        reaping.reap(self._helpers)


def end(name: str) -> None:
    """Kill the guard of an instance and its starters, and wait until they are gone."""
    option = container.instance_option(name)
    for candidate in processes.with_argument(option):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(candidate.pid)
            try:
                # The descriptor is of one process, even if its id is used again.
                if processes.has_argument(candidate.pid, option):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    reaping.await_end(descriptor)
            finally:
                os.close(descriptor)


def find(name: str, directory: Path) -> Guard | None:
    """Return the living guard of an instance that another process started."""
    guards = processes.with_argument(container.instance_option(name))
    # unshare, which made the namespaces, has the same argument; the guard is its child.
    inner = [candidate for candidate in guards if candidate.name() != "unshare"]
    return Guard(name, directory, inner[-1].pid) if inner else None
