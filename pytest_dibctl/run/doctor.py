"""Everything that this machine can need: to build images, to look into them, to boot them."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Final

from pytest_dibctl.build import preflight
from pytest_dibctl.clouds.nspawn import preflight as containers
from pytest_dibctl.clouds.qemu import accel
from pytest_dibctl.guards import namespace
from pytest_dibctl.image.preflight import TREE_TOOLS
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check

GUEST_TOOLS: Final = ("ssh", "bwrap", "slirp4netns", "ip")
"""What guests are reached with, and kept apart from this machine."""


def examine(directory: Path | None = None) -> list[Check]:
    """Check everything that building and booting can need; ``directory`` is where images would go.

    The first look at KVM on a machine runs a test payload, which may take some seconds.
    """
    here = Path.cwd() if directory is None else directory
    arch = "aarch64" if platform.machine() == "aarch64" else "x86_64"
    system = f"qemu-system-{arch}"
    tools = [
        *namespace.TOOLS,
        *preflight.BUILD_TOOLS,
        "mkfs.ext4",
        "debootstrap",
        system,
        *GUEST_TOOLS,
        *TREE_TOOLS,
    ]
    wanted = (
        *(*preflight.PARTITION_TOOLS, *preflight.EFI_TOOLS, "mksquashfs"),
        *(*preflight.QUICKER_TOOLS, *containers.TOOLS),
    )
    optional = [tool for tool in dict.fromkeys(wanted) if tool not in tools]
    return [
        preflight.disk_image_create(),
        *map(checks.tool, tools),
        *(dataclasses.replace(checks.tool(name), required=False) for name in optional),
        checks.root(),
        checks.loop_devices(),
        dataclasses.replace(checks.fuse(), required=False),  # for `image` entries only
        checks.writable(here),
        checks.space(here, preflight.DISTRIBUTION_SPACE),
        checks.device_mapper(),
        checks.filesystem("vfat"),
        _kvm(),
        containers.summary(),
    ]


def _kvm() -> Check:
    verdict = accel.probe_kvm()
    detail = (
        verdict.reason
        if verdict.usable
        else f"not used: {verdict.reason}; guests are emulated, about ten times slower"
    )
    return Check(name="KVM", ok=verdict.usable, detail=detail, required=False)
