"""Programs and the Debian packages that bring them, and installing packages with apt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_dibctl.errors import CommandError, PreflightError
from pytest_dibctl.system import process

_QEMU: Final = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "qemu-img": "qemu-utils",
        "qemu-storage-daemon": "qemu-system-common",
        "nsenter": "util-linux",
        "bwrap": "bubblewrap",
        "blkid": "util-linux",
        "qemu-system-x86_64": _QEMU["x86_64"],
        "qemu-system-aarch64": _QEMU["aarch64"],
        "slirp4netns": "slirp4netns",
        "systemd-nspawn": "systemd-container",
        "ip": "iproute2",
        "ssh": "openssh-client",
        "ssh-keygen": "openssh-client",
        "sudo": "sudo",
        "ps": "procps",
        "mount": "mount",
        "losetup": "mount",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "prlimit": "util-linux",
        "findmnt": "util-linux",
        "fstrim": "util-linux",
        "getopt": "util-linux",
        "mkfs.ext4": "e2fsprogs",
        "lsattr": "e2fsprogs",
        "mkfs.xfs": "xfsprogs",
        "mkfs.vfat": "dosfstools",
        "debootstrap": "debootstrap",
        "mmdebstrap": "mmdebstrap",
        "zstd": "zstd",
        "kpartx": "kpartx",
        "dmsetup": "dmsetup",
        "sfdisk": "fdisk",
        "sgdisk": "gdisk",
        "pvcreate": "lvm2",
        "mksquashfs": "squashfs-tools",
        "git": "git",
        "curl": "curl",
    },
)
"""The Debian package of each program."""


def install(packages: Sequence[str], *, progress: Callable[[str], None]) -> None:
    """Install Debian packages; ``progress`` gets the lines of apt that tell how far it is.

    Raises PreflightError without root or apt, and when apt fails.
    """
    if not packages:
        return
    if shutil.which("apt-get", path=process.tool_path()) is None:
        raise PreflightError(
            f"there is no apt-get here to install {' '.join(packages)}",
            hint="install what these Debian packages hold with this system's package manager",
        )
    if os.geteuid() != 0:
        raise PreflightError(
            "installing packages needs root", hint=f"as root: apt-get install {' '.join(packages)}"
        )
    progress(f"installing {' '.join(packages)}")
    options = ["--yes", "--no-install-recommends"]
    for argv in (["apt-get", "update"], ["apt-get", "install", *options, *packages]):
        _apt(argv, progress)


def _apt(argv: Sequence[str], progress: Callable[[str], None]) -> None:
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if line.startswith(("Setting up ", "Get:", "Err:", "E: ")):
            progress(line)

    try:
        # An apt of unattended-upgrades may be at work on a fresh machine: wait for it instead of failing.
        environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        waiting = [argv[0], "-o", "DPkg::Lock::Timeout=120", *argv[1:]]
        result = process.run(waiting, env=environment, check=False, on_line=keep)
    except CommandError as error:
        raise PreflightError(error.message, hint=error.hint) from None
    if result.returncode != 0:
        errors = [line for line in lines if line.startswith(("E:", "Err:"))] or lines[-5:]
        raise PreflightError(
            f"{' '.join(argv)} {process.describe_exit(result.returncode)}"
            + "".join(f"\n  {line}" for line in errors),
            hint="see whether this machine's apt sources can be reached",
        )
