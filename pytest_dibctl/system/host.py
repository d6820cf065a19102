"""Which machine and user this is: the same after a reboot, another one behind a shared directory."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")


def identity() -> dict[str, str]:
    """Return what tells this machine and user from others; machines cloned from one image differ by name.

    The machine's id itself is confidential (machine-id(5)), so only a digest of it is given.
    """
    try:
        machine_id = MACHINE_ID.read_text().strip()
    except OSError:
        machine_id = ""
    digest = hashlib.sha256(f"pytest-dibctl {machine_id}".encode()).hexdigest()[:16]
    return {"engine": "qemu", "machine": digest, "hostname": socket.gethostname(), "uid": str(os.getuid())}
