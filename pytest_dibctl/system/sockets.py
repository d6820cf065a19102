"""Unix sockets in directories whose paths are long."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TIMEOUT: Final = 15.0
"""Seconds."""


@contextlib.contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    """Yield a new socket that listens at ``path``; raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listening:
        with short_name(path) as address:
            listening.bind(address)
        listening.listen(8)
        yield listening


@contextlib.contextmanager
def connected(path: Path, *, timeout: float = TIMEOUT) -> Iterator[socket.socket]:
    """Yield a blocking connection to the unix socket ``path``; its operations, too, raise OSError.

    One of them takes at most ``timeout`` seconds.
    """
    with (
        short_name(path) as address,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection,
    ):
        connection.settimeout(timeout)
        connection.connect(address)
        yield connection


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Yield another name of a socket: an address has at most 107 bytes, the path of a run's directory more.

    Raises OSError when there is no such directory.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
