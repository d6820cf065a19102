"""A synchronous client of QEMU's machine protocol (QMP): each command has a connection of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
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


def screendump(path: Path, picture: int, *, png: bool, timeout: float = TIMEOUT) -> None:
    """Have QEMU write the guest's screen to the open file ``picture``, as PNG or else as PPM.

    QEMU gets the descriptor and needs no file that it could open. Raises QmpError as ``execute`` does, also
    for a machine without a screen.
    """
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="qmp") as pool:
        pool.submit(asyncio.run, _screendump(path, picture, png=png, patience=timeout)).result()


async def _screendump(path: Path, picture: int, *, png: bool, patience: float) -> None:
    async with _session(path, "screendump", patience) as client:
        client.send_fd_scm(picture)
        # The set goes with this connection.
        opened = await client.execute("add-fd", {})
        assert isinstance(opened, dict)
        how = {"format": "png"} if png else {}
        await client.execute("screendump", {"filename": f"/dev/fdset/{opened['fdset-id']}", **how})


async def _execute(
    path: Path, command: str, arguments: Mapping[str, object] | None, patience: float
) -> object:
    async with _session(path, command, patience) as client:
        return await client.execute(command, arguments)


@contextlib.asynccontextmanager
async def _session(path: Path, command: str, patience: float) -> AsyncIterator[QMPClient]:
    """Connect for one command, or for those that belong to it; errors are raised as QmpError."""
    client = QMPClient("dibctl")
    client.logger.setLevel(logging.CRITICAL)  # errors are raised, and callers expect many of them
    try:
        with connected(path) as connection:
            connection.setblocking(False)
            async with asyncio.timeout(patience):
                await client.connect(connection)
                try:
                    yield client
                finally:
                    # After `quit` QEMU closes the connection, which is an error here.
                    with contextlib.suppress(QMPError, OSError, EOFError):
                        await client.disconnect()
    except ExecuteError as error:
        raise QmpError(f"QEMU refused {command}: {error}") from None
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise QmpError(f"QEMU does not answer on its control socket ({command}): {reason}") from None
