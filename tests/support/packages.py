"""Which Debian packages the tests with real builds and real guests need, and which of them are missing.

``python -m tests.support.packages`` names the missing ones, with ``--install`` it installs them. With
``unit`` it does that for those of the unit tests alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pytest_dibctl.errors import PreflightError
from pytest_dibctl.system import process

TEST_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        # building: diskimage-builder itself, and what the micro element copies from this machine
        "sudo": "sudo",
        "unshare": "util-linux",
        "ps": "procps",
        "mkfs.ext4": "e2fsprogs",
        "qemu-img": "qemu-utils",
        "qemu-storage-daemon": "qemu-system-common",
        "busybox": "busybox-static",
        "dropbear": "dropbear-bin",
        "resize2fs": "e2fsprogs",
        # booting
        "qemu-system-x86_64": "qemu-system-x86",
        "genisoimage": "genisoimage",
        "ssh": "openssh-client",
        # booting containers
        "systemd-nspawn": "systemd-container",
        "debootstrap": "debootstrap",
        # filesystems and packages that Debian's images do not have
        "mkfs.xfs": "xfsprogs",
        "mkfs.btrfs": "btrfs-progs",
        "rpmbuild": "rpm",
        # looking at reports
        "chromium": "chromium",
        # whole disks
        "sfdisk": "fdisk",
        "mcopy": "mtools",
        "syslinux": "syslinux",
        "/usr/lib/syslinux/mbr/mbr.bin": "syslinux-common",
        # repositories of images
        "git": "git",
    }
)
"""Debian packages by a program (or a file) of each."""
UNIT = ("git",)
"""What the unit tests need of them, besides the packages that ``dibctl doctor --install`` brings."""


def missing() -> tuple[str, ...]:
    """Return the packages that this machine lacks."""
    return lacking_of(TEST_PACKAGES)


def missing_for_unit() -> tuple[str, ...]:
    """Return the packages that this machine lacks for the unit tests."""
    return lacking_of({tool: TEST_PACKAGES[tool] for tool in UNIT})


def lacking_of(wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the packages of ``wanted`` whose program, or file, is not there."""
    path = process.tool_path()
    return tuple(sorted({package for tool, package in wanted.items() if not _found(tool, path)}))


def _found(tool: str, path: str) -> bool:
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool, path=path) is not None


def require() -> None:
    """Raise PreflightError, with the line that helps, when this machine cannot run the real tests."""
    lacking = missing()
    if lacking:
        raise PreflightError(
            f"tests with real builds and guests need Debian packages that are missing: {', '.join(lacking)}",
            hint=f"apt-get update && apt-get install -y {' '.join(lacking)}",
        )
    if os.geteuid() != 0:
        raise PreflightError("tests with real builds need root: diskimage-builder mounts and uses chroot")


def install(packages: Sequence[str]) -> None:
    """Install packages; raises CommandError when apt cannot."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    process.run(["apt-get", "update", "-q"], env=quiet)
    process.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=quiet)


def main(look: Callable[[], Sequence[str]], bring: Callable[[Sequence[str]], None]) -> None:
    """Report what ``look`` finds missing, after ``bring`` installed it if the command line says so."""
    lacking = look()
    if lacking and "--install" in sys.argv[1:]:
        bring(lacking)
        lacking = look()
    if lacking:
        raise SystemExit(f"missing: {' '.join(lacking)}")


if __name__ == "__main__":
    main(missing_for_unit if "unit" in sys.argv[1:] else missing, install)
