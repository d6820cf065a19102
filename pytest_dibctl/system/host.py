"""Which machine and user this is, the same after a reboot; and which process, for those on other machines."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

from pytest_dibctl.system import processes

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def identity() -> dict[str, str]:
    """Return the identity of this machine and user; machines cloned from one image differ by name.

    The machine's id itself is confidential (machine-id(5)), so only a digest of it is given.
    """
    return {
        "engine": "qemu",
        "machine": _digest(_text(MACHINE_ID)),
        "hostname": socket.gethostname(),
        "uid": str(os.getuid()),
    }


def process_token(pid: int) -> str | None:
    """Return a text that means one living process among those of all machines; None if it is dead.

    Containers share a machine's boot id, and each has processes of the same ids: so their pid namespace
    counts.
    """
    began = processes.start_tick(pid)
    return f"{_pid_namespace()}-{pid}-{began}" if began is not None else None


def is_over(token: str) -> bool:
    """Whether the process of ``token`` is known to have ended; never so for another machine's process."""
    match = re.fullmatch(r"([0-9a-f]{16})-([1-9][0-9]{0,9})-([0-9]{1,20})", token)
    if match is None or match[1] != _pid_namespace():
        return False
    return processes.start_tick(int(match[2])) != int(match[3])


def _pid_namespace() -> str:
    """Return a digest of this boot of this machine and this namespace of process ids."""
    return _digest(f"{_text(MACHINE_ID)} {_text(BOOT_ID)} {Path('/proc/self/ns/pid').readlink()}")


def _digest(text: str) -> str:
    return hashlib.sha256(f"pytest-dibctl {text}".encode()).hexdigest()[:16]


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
