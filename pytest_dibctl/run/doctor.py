"""Everything that this machine can need: to build images, to look into them, to boot them."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Final

from pytest_dibctl.build import elevation, plan, preflight
from pytest_dibctl.clouds.nspawn import preflight as containers
from pytest_dibctl.clouds.qemu import accel
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.guards import namespace
from pytest_dibctl.image.preflight import TREE_TOOLS, tree_checks
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check

GUEST_TOOLS: Final = ("ssh", "bwrap", "slirp4netns", "ip")
"""Programs that reach guests and keep them apart from this machine."""


def examine_image(image: Entry[Image], environment: Entry[TestEnvironment], cwd: Path) -> list[Check]:
    """Check the requirements of an image's build, and of its tests in an environment.

    Raises ConfigError and BuildError for errors in the image's recipe.
    """
    found: list[Check] = []
    if plan.is_built_here(image.settings):
        target = plan.target_file(image, None, cwd)
        recipe = plan.checked_recipe(image, target, cwd)
        found += preflight.build_checks(recipe, target)
    if any(entry.kind == "image" for entry in image.settings.tests.tests_list):
        found += tree_checks()
    engine = environment.settings.engine
    if engine == "qemu":
        found += [*map(checks.tool, (_qemu(), *GUEST_TOOLS)), _kvm()]
    elif engine == "nspawn":
        found += containers.examine()
    return list({(check.name, check.detail): check for check in found}.values())


def without_root() -> list[Check]:
    """Say which parts of this tool work for a user who is not root; nothing for root."""
    if os.geteuid() == 0:
        return []
    trees = "opening image files, and containers: not without root"
    guests = "booting image files in QEMU, and OpenStack: without root"
    return [
        Check(name="not root", ok=True, detail=f"{guests}; {elevation.WITHOUT_ROOT}", required=False),
        Check(name="not root", ok=False, detail=trees, fix=checks.as_root(), required=False),
    ]


def _qemu() -> str:
    return f"qemu-system-{'aarch64' if platform.machine() == 'aarch64' else 'x86_64'}"


def examine(directory: Path | None = None) -> list[Check]:
    """Check everything that building and booting can need; ``directory`` is where images would go.

    The first look at KVM on a machine runs a test payload, which may take some seconds.
    """
    here = Path.cwd() if directory is None else directory
    tools = [
        *namespace.TOOLS,
        *preflight.BUILD_TOOLS,
        "mkfs.ext4",
        "debootstrap",
        _qemu(),
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
        *map(checks.tool, dict.fromkeys(tools)),
        *(dataclasses.replace(checks.tool(name), required=False) for name in optional),
        elevation.check(),
        *without_root(),
        dataclasses.replace(checks.loop_devices(), required=os.geteuid() == 0),
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
