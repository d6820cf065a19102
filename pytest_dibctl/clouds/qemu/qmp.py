"""A synchronous client of QEMU's machine protocol (QMP): each command has a connection of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from qemu.qmp import ExecuteError, QMPClient, QMPError

from pytest_dibctl.errors import InstanceError
from pytest_dibctl.system.sockets import connected

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
    """Run one QMP command on the control socket ``path`` and return its result.

    Raises QmpError when QEMU does not answer within ``timeout`` seconds, or answers with an error.
    """
    # A thread of its own lets the call work inside a running event loop; it ends before this returns.
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="qmp") as pool:
        return pool.submit(asyncio.run, _execute(path, command, arguments, timeout)).result()


def monitor(path: Path, line: str, *, timeout: float = TIMEOUT) -> str:
    """Run one command of the human monitor, where QMP has no command of its own; return its output.

    Raises QmpError as ``execute`` does. An error of the monitor's command is in the output instead.
    """
    return str(execute(path, "human-monitor-command", {"command-line": line}, timeout=timeout))


async def _execute(
    path: Path, command: str, arguments: Mapping[str, object] | None, patience: float
) -> object:
    client = QMPClient("dibctl")
    client.logger.setLevel(logging.CRITICAL)  # errors are raised, and callers expect many of them
    try:
        with connected(path) as connection:
            connection.setblocking(False)
            async with asyncio.timeout(patience):
                await client.connect(connection)
                try:
                    return await client.execute(command, arguments)
                finally:
                    # After `quit` QEMU closes the connection, which is an error here.
                    with contextlib.suppress(QMPError, OSError, EOFError):
                        await client.disconnect()
    except ExecuteError as error:
        raise QmpError(f"QEMU refused {command}: {error}") from None
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise QmpError(f"QEMU does not answer on its control socket ({command}): {reason}") from None
