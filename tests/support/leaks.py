"""What a test left behind on this machine: processes, mounts, loop devices, files.

Other people's builds and guests may run at the same time, so things are told apart by where they come
from: processes by a variable in their environment, the rest by the temporary directory of this session.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pytest_dibctl.system import process

MARKER = "DIBCTL_TEST_SESSION"
"""The environment variable that every process started by the session inherits."""
PATIENCE = 30.0
"""Seconds for what was ended to be gone: a QEMU, a FUSE daemon, a loop device on a busy machine."""


def processes(marker: str) -> dict[int, str]:
    """Return the command lines, by process id, of living processes that bear ``marker``, without this one.

    A zombie is not alive; whoever should have waited for it may be process 1, which need not.
    """
    wanted = f"{MARKER}={marker}".encode()
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if wanted not in (directory / "environ").read_bytes().split(b"\0"):
                continue
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        if state not in "ZX" and int(directory.name) != os.getpid():
            found[int(directory.name)] = line
    return found


def mounts(under: Path) -> set[str]:
    """Return the mount points in ``under``."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split()[4] for line in lines}
    return {point for point in points if Path(point).is_relative_to(under)}


def loop_devices(under: Path) -> set[str]:
    """Return "device: file" for the loop devices on files in ``under``."""
    listing = process.run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"]).output
    devices = json.loads(listing)["loopdevices"] if listing.strip() else []
    return {
        f"{device['name']}: {device['back-file']}"
        for device in devices
        if device["back-file"] and Path(device["back-file"]).is_relative_to(under)
    }


def files(under: Path) -> set[str]:
    """Return what is directly in ``under``, the session's temporary directory."""
    return {str(path) for path in under.iterdir()}


def running(line: str) -> set[str]:
    """Return the ids of living processes with this command line."""
    wanted = line.encode().replace(b" ", b"\0") + b"\0"
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            if (directory / "cmdline").read_bytes() == wanted:  # a zombie has none
                found.add(directory.name)
    return found


def settled(look: Callable[[], set[str]], *, seconds: float | None = None) -> set[str]:
    """Return what ``look`` finds once it finds nothing, or at the end of ``seconds``."""
    deadline = time.monotonic() + (PATIENCE if seconds is None else seconds)
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
