"""Starting a guard in namespaces of its own, and looking from there at the machine outside.

A guard is a module of this package with a ``main``, run by an isolated Python: it depends neither on the
working directory nor on the environment of the run that starts it. It imports nothing but the standard
library, ``errors``, what starts processes and calls the kernel in ``system``, and this room, so that it
starts at once.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_dibctl.guards import mounts
from pytest_dibctl.system import process

NEW_MOUNTS: Final = 0x00020000
NEW_PIDS: Final = 0x20000000
NEW_USERS: Final = 0x10000000
NEW_NETWORK: Final = 0x40000000
"""The kernel's numbers for namespaces of mounts, of process ids, of users and of networks."""

FIRST_USER: Final = 1_878_982_656
USERS: Final = 65_536
"""User and group ids of this machine that stand for 0 and up in ``users``: the last of those that systemd
sets aside for containers, so that no file and no process of this machine is theirs."""

TOOLS: Final = ("unshare", "setpriv")
"""The programs that start a guard, and have the kernel end it with its starter."""

_APART: Final = "--apart-from"


def command(module: str, arguments: Sequence[str], *, namespaces: Sequence[str] = ()) -> list[str]:
    """Return the argv that runs the ``main`` of ``module`` with ``arguments``.

    ``namespaces`` are options of unshare(1), a mount namespace among them; without any, the guard stays in
    those of this process.
    """
    guard = process.isolated_python(module)
    if not namespaces:
        return [*guard, *arguments]
    return ["unshare", *namespaces, "--", *guard, f"{_APART}={_mount_namespace()}", *arguments]


def parser(*, required: bool) -> argparse.ArgumentParser:
    """Return a parser of a guard's arguments, which reads what ``command`` adds to them.

    ``required`` refuses a start without namespaces of its own.
    """
    parser_ = argparse.ArgumentParser()
    parser_.add_argument(_APART, required=required)
    return parser_


def is_asked_for(options: argparse.Namespace) -> bool:
    """Whether the guard was started with namespaces of its own."""
    return options.apart_from is not None


def is_missing(options: argparse.Namespace) -> bool:
    """Whether the guard should have a mount namespace of its own, and is in that of its starter instead.

    Its mounts would then be mounts of the whole machine.
    """
    return bool(options.apart_from == _mount_namespace())


def _mount_namespace() -> str:
    return str(Path("/proc/self/ns/mnt").readlink())


def unshare(kind: int) -> None:
    """Go on in a new namespace of a kind, NEW_MOUNTS or NEW_PIDS; raises OSError.

    Of NEW_PIDS only the children started from now on are in it. Python has ``os.unshare`` since 3.12.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def users() -> int:
    """Return a descriptor, which the caller closes, of a new user namespace.

    Its users are FIRST_USER and up outside, this machine's root is none of them. Raises OSError.
    """
    reader, writer = os.pipe()
    helper = os.fork()
    if helper == 0:
        # os._exit: nothing of the parent's is to be flushed or removed by this copy of it.
        try:
            unshare(NEW_USERS)
            os.write(writer, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        if not os.read(reader, 1):
            raise OSError(errno.EPERM, "no user namespace can be made")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{helper}/{name}").write_text(f"0 {FIRST_USER} {USERS}\n")
        return os.open(f"/proc/{helper}/ns/user", os.O_RDONLY)
    finally:
        os.close(reader)
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)


def rejoin(namespace: int, kind: int) -> None:
    """Go back into a namespace of a kind, by an open descriptor of it; raises OSError.

    Python has ``os.setns`` since 3.12.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class MachineProc:
    """The /proc that was mounted when this was made, even if another /proc is mounted over it later.

    psutil reads what is at /proc by its path, which may be another namespace's by then.
    """

    def __init__(self) -> None:
        self._directory = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def open(self, path: str) -> int:
        """Open a file of /proc for reading; return a descriptor that the caller closes. Raises OSError."""
        return os.open(path, os.O_RDONLY, dir_fd=self._directory)

    def read(self, path: str) -> str:
        """Return the text of a file of /proc, empty where there is none."""
        return os.fsdecode(self._read(path))

    def _read(self, path: str) -> bytes:
        try:
            with os.fdopen(self.open(path), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def is_apart(self, pid: int) -> bool:
        """Whether a process lives in another namespace of process ids than this one."""
        return self._pid_namespace(pid) not in ("", self._pid_namespace("self"))

    def heeds(self, pid: int, number: signal.Signals) -> bool:
        """Whether a process has a handler for a signal: the first of a namespace is deaf without one."""
        found = re.search(r"^SigCgt:\s*([0-9a-f]+)", self.read(f"{pid}/status"), re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)

    def companions(self, leader: int) -> list[int]:
        """Return the other processes of the pid namespace that ``leader`` lives in."""
        namespace = self._pid_namespace(leader)
        with os.scandir(self._directory) as entries:
            pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
        return [pid for pid in pids if pid != leader and self._pid_namespace(pid) == namespace]

    def mount_points(self, below: Path) -> list[str]:
        """Return this process's mount points below a directory, the last mounted first."""
        points = [mounts.point_of(line) for line in mounts.lines(self._read("self/mountinfo"))]
        return [point for point in reversed(points) if point.startswith(f"{below}/")]

    def _pid_namespace(self, pid: int | str) -> str:
        try:
            return os.readlink(f"{pid}/ns/pid", dir_fd=self._directory)
        except OSError:
            return ""
