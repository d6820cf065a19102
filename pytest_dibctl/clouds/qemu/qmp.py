"""A synchronous client of QEMU's machine protocol: one short connection per command, nothing left running."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from qemu.qmp import ExecuteError, QMPClient, QMPError

from pytest_dibctl.errors import InstanceError

TIMEOUT = 15.0
"""Seconds a command may take; QEMU answers in milliseconds unless the machine is badly overloaded."""


class QmpError(InstanceError):
    """QEMU did not answer, or refused a command."""


def execute(
    path: Path,
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    timeout: float = TIMEOUT,
) -> object:
    """Run one QMP command on the control socket ``path`` and return what it returns.

    Raises QmpError when nobody answers within ``timeout`` seconds, or QEMU answers with an error.
    """
    # A thread of its own, gone when this returns, so that this works inside a running event loop as well.
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="qmp") as pool:
        return pool.submit(asyncio.run, _execute(path, command, arguments, timeout)).result()


def monitor(path: Path, line: str, *, timeout: float = TIMEOUT) -> str:
    """Run one command of the human monitor, for what QMP has no command for; return its output."""
    return str(execute(path, "human-monitor-command", {"command-line": line}, timeout=timeout))


async def _execute(
    path: Path, command: str, arguments: Mapping[str, object] | None, patience: float
) -> object:
    client = QMPClient("dibctl")
    client.logger.setLevel(logging.CRITICAL)  # what goes wrong is raised, and often expected
    try:
        with _connected(path) as connection:
            async with asyncio.timeout(patience):
                await client.connect(connection)
                try:
                    return await client.execute(command, arguments)
                finally:
                    # After `quit` the connection ends with an error of its own.
                    with contextlib.suppress(QMPError, OSError, EOFError):
                        await client.disconnect()
    except ExecuteError as error:
        raise QmpError(f"QEMU refused {command}: {error}") from None
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        said = str(error) or type(error).__name__
        raise QmpError(f"QEMU does not answer on its control socket ({command}): {said}") from None


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    # The address of a unix socket has at most 107 bytes, the path of a run's directory may have more.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
            connection.setblocking(False)
            yield connection
    finally:
        os.close(directory)
