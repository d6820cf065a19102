"""Supervision of the cloud's processes: starting them, waiting until they answer, telling which one ended."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system import process

POLL = 0.05
"""Seconds between two looks at whether a service answers."""

LAST_LINES = 15


class CloudError(DibctlError):
    """The cloud cannot be started, or part of it has ended."""


@dataclasses.dataclass(kw_only=True)
class Supervisor:
    """Parent of the services."""

    log: Path
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[str]] = dataclasses.field(default_factory=dict)

    def start(self, name: str, *argv: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Start a service; its output goes to NAME.out among the logs. Raises CommandError."""
        with (self.log / f"{name}.out").open("a") as output:
            self.running[name] = process.start(
                [str(part) for part in argv],
                env={**self.environment, **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self, name: str, *, grace: float) -> None:
        """Stop a service in order, by SIGTERM and ``grace`` seconds."""
        process.stop(self.running.pop(name), grace=grace)

    def wait(self, name: str, what: str, is_so: Callable[[], bool], *, timeout: float = 120) -> None:
        """Return once ``is_so``; raises CloudError when the service ends, or ``timeout`` (s) passes."""
        deadline = time.monotonic() + timeout
        while not is_so():
            self.check()
            if time.monotonic() > deadline:
                raise CloudError(f"{name}: {what}: not within {timeout:g} s{self._said(name)}")
            time.sleep(POLL)

    def wait_for_http(self, name: str, port: int) -> None:
        """Return once a service answers requests on a port of loopback."""
        self.wait(name, f"answer on port {port}", lambda: http_answers(port))

    def wait_for_port(self, name: str, port: int) -> None:
        """Return once a service accepts connections on a port of loopback."""
        self.wait(name, f"connection to port {port}", lambda: port_is_open(port))

    def wait_for_log(self, name: str, file: str, text: str) -> None:
        """Return once a log file contains ``text``."""
        path = self.log / file
        self.wait(
            name, f"{text!r} in {file}", lambda: path.exists() and text in path.read_text(errors="replace")
        )

    def check(self) -> None:
        """Raise CloudError when a service has ended."""
        for name, started in self.running.items():
            if (status := started.poll()) is not None:
                raise CloudError(f"{name} {process.describe_exit(status)}{self._said(name)}")

    def watch(self, stopping: threading.Event) -> None:
        """Return once ``stopping``; raises CloudError when a service ends before."""
        while not stopping.wait(0.5):
            self.check()

    def terminate_all(self) -> None:
        """Ask every service to end; who does not is killed with the pid namespace."""
        for started in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)

    def _said(self, name: str) -> str:
        files = sorted(self.log.glob(f"{name}*"), key=lambda path: path.stat().st_mtime)
        lines = [
            line for path in files for line in path.read_text(errors="replace").splitlines()[-LAST_LINES:]
        ]
        return "".join(f"\n  {line}" for line in lines)


def port_is_open(port: int) -> bool:
    """Tell whether something accepts connections on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def http_answers(port: int) -> bool:
    """Tell whether an HTTP server on a port of loopback answers with anything but a failure of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
