"""The part of this machine that a container sees, and the command line of systemd-nspawn that starts it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.guards.container_network import DEVICE
from pytest_dibctl.guards.mounts import mount, point_of, table
from pytest_dibctl.guards.namespace import FIRST_USER, USERS
from pytest_dibctl.system import kernel, process

PROGRAM: Final = "systemd-nspawn"
CGROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = (Path("/proc"), Path("/run"), Path("/tmp"))  # noqa: S108 -- nothing but this guard's is there
INSTANCE: Final = Path("/run/instance")
"""Where the guard finds the instance's directory."""
SYSTEMD: Final = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
INITS: Final = (*SYSTEMD, "/sbin/init")
"""Where systemd-nspawn looks for the image's init, in this order."""
DROPPED: Final = ("CAP_MKNOD", "CAP_AUDIT_CONTROL")
"""Capabilities that systemd-nspawn would leave to a container; the kernel refuses them to these users anyway.
"""
SYSTEMD_OPTIONS: Final = ("systemd.mask=systemd-remount-fs.service",)
"""The root is no filesystem of the image's fstab, and cannot be mounted anew as such."""
_POWER_OFF: Final = {"systemd": signal.SIGRTMIN + 4, "busybox": signal.SIGUSR2}
"""The signal that powers off, by the program that is init; for others SIGPWR, as LXC sends it."""


def prepare() -> None:
    """Have the guard's /sys show its network, and give it a /run of its own, where nspawn leaves things."""
    run = Path("/run")
    mount("tmpfs", run, kind="tmpfs", options=("mode=755", "size=16m", "nosuid", "nodev"))
    _hide_release(run / "os-release")
    shelf = run / "cgroup"
    shelf.mkdir()
    if CGROUPS.is_dir():
        mount(str(CGROUPS), shelf, options=("rbind",))
    # Read-only: otherwise systemd-nspawn waits for an udevd, which sees no device of this namespace.
    mount("sysfs", Path("/sys"), kind="sysfs", options=("ro", "nosuid", "nodev", "noexec"))
    if CGROUPS.is_dir():
        mount(str(shelf), CGROUPS, options=("rbind",))


def moved(directory: Path) -> Path:
    """Show the instance's directory in the guard's /run, and return where: its path may lead through /tmp."""
    INSTANCE.mkdir(mode=0o700)
    mount(str(directory), INSTANCE, options=("bind",))
    return INSTANCE


def close_to_writing(writable: Collection[Path]) -> None:
    """Have nothing of this machine be writable from here but those mounts and what systemd-nspawn needs.

    While it prepares the container's root, systemd-nspawn follows some links in there as if this machine's
    root were theirs. /tmp becomes the guard's own. Raises CommandError and OSError.
    """
    mount("tmpfs", Path("/tmp"), kind="tmpfs", options=("mode=1777", "size=1m", "nosuid", "nodev"))  # noqa: S108
    kernel.set_read_only("/", recursive=True)
    for line in table():
        point = Path(point_of(line))
        if point in {*OWN, *writable} or CGROUPS in point.parents:
            kernel.set_read_only(str(point), read_only=False)


def _hide_release(blank: Path) -> None:
    """Put an empty file in the place of this machine's os-release, which nspawn shows to the container."""
    blank.touch()
    for release in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if release.exists():
            mount(str(blank), release.resolve(), options=("bind",))


def argv(spec: Mapping[str, Any], root: Path, *, systemd: bool) -> list[str]:
    """Return the command line that boots ``root`` as a container; ``systemd`` says that its init is that."""
    return [
        *(PROGRAM, "--quiet", "--settings=no", "--register=no", "--keep-unit", "--boot"),
        *(f"--directory={root}", f"--machine={spec['name']}", f"--hostname={spec['name']}"),
        f"--uuid={spec['id'].replace('-', '')}",
        "--console=read-only",
        # The owners of the root are mapped already: systemd-nspawn is to change none.
        *(f"--private-users={FIRST_USER}:{USERS}", "--private-users-ownership=off"),
        f"--network-interface={DEVICE}",
        f"--drop-capability={','.join(DROPPED)}",
        *("--link-journal=no", "--timezone=off", "--resolv-conf=off"),
        *(["--", *SYSTEMD_OPTIONS] if systemd else []),
    ]


def environment() -> dict[str, str]:
    """Return the environment of systemd-nspawn."""
    passed = ("PATH", "SYSTEMD_LOG_LEVEL")
    return {"LC_ALL": "C.UTF-8"} | {
        name: value for name, value in process.environment().items() if name in passed
    }


def power_signal(leader: int) -> int:
    """Return the signal on which the init ``leader`` powers off."""
    with contextlib.suppress(OSError):
        return _POWER_OFF.get(os.path.basename(os.readlink(f"/proc/{leader}/exe")), signal.SIGPWR)  # noqa: PTH115, PTH119
    return signal.SIGPWR
