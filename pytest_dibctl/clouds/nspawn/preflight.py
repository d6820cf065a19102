"""The requirements of containers on this machine."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds.nspawn import limits
from pytest_dibctl.guards import namespace
from pytest_dibctl.image.preflight import TREE_TOOLS
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check

TOOLS: Final = ("systemd-nspawn", "slirp4netns", "ip", "nsenter", "mkfs.ext4", "mount", *namespace.TOOLS)
"""The programs that a container needs besides those that open its image."""
OLDEST: Final = (5, 19)
"""The first Linux that lays an overlay over a mount with mapped owners."""
_TUN: Final = Path("/dev/net/tun")


def examine() -> list[Check]:
    """Check for everything that the container engine needs on this machine."""
    tools = dict.fromkeys((*TOOLS, *(tool for tool in TREE_TOOLS if tool != "bwrap")))
    always = [*map(checks.tool, tools), checks.root("containers mount their image")]
    if os.geteuid() != 0:  # others may not look at the rest
        return always
    return [
        *always,
        checks.loop_devices(),
        checks.fuse(),
        _overlay(),
        _tun(),
        _users(),
        control_groups(),
    ]


def require(where: str) -> None:
    """Raise one PreflightError, about the section at ``where``, that names everything that is missing."""
    checks.require(examine(), saying=f"{where}: this machine cannot boot containers")


def summary() -> Check:
    """Return one check, for `dibctl doctor`, of whether containers can be booted; never a required one."""
    failed = [check for check in examine() if check.required and not check.ok]
    if not failed:
        limited = limits.enforced() >= {"memory", "processes"}
        detail = "yes" if limited else "yes, but limited by process only: no writable control groups"
        return Check(name="containers", ok=True, detail=detail, required=False)
    first = failed[0]
    return Check(
        name="containers",
        ok=False,
        detail="; ".join(f"{check.name}: {check.detail}" for check in failed),
        fix=first.fix,
        package=first.package,
        required=False,
    )


def control_groups() -> Check:
    """Check whether memory and processes of a container can be limited; it is booted all the same."""
    missing = sorted({"memory", "processes"} - limits.enforced())
    detail = f"no writable one for {' and '.join(missing)}; each process is limited instead"
    return Check(
        name="control groups",
        ok=not missing,
        detail=detail if missing else "yes",
        fix="in a container: --privileged --cgroupns=host",
        required=False,
    )


def _overlay() -> Check:
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    if release < OLDEST:
        detail = f"Linux {platform.release()} has none over mapped owners"
        return Check(name="overlayfs", ok=False, detail=detail, fix="boot Linux 5.19 or newer")
    known = dataclasses.replace(checks.filesystem("overlay"), name="overlayfs", required=True)
    return known if known.ok else dataclasses.replace(known, detail="the kernel has none")


def _tun() -> Check:
    try:
        os.close(os.open(_TUN, os.O_RDWR))
    except OSError as error:
        fix = "modprobe tun; in a container, run it with --privileged"
        return Check(name="TUN device", ok=False, detail=f"{_TUN}: {error.strerror}", fix=fix)
    return Check(name="TUN device", ok=True, detail="yes")


def _users() -> Check:
    try:
        os.close(namespace.users())
    except OSError as error:
        detail = f"none can be made: {error.strerror}"
        return Check(
            name="user namespaces", ok=False, detail=detail, fix="sysctl user.max_user_namespaces=65536"
        )
    return Check(name="user namespaces", ok=True, detail="yes")
