"""The requirements of a build on this machine, checked in a second before a build fails without them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pytest_dibctl.build import dib, elevation, host_programs
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guards import namespace
from pytest_dibctl.system import checks, process
from pytest_dibctl.system.checks import GIB, Check

DISTRIBUTION_SPACE: Final = 4 * GIB
"""Bytes that a build of a whole distribution is assumed to need when its size is not configured."""

MINIMAL_SPACE: Final = 16 * 1024**2
"""Bytes below which no build is worth starting."""

ON_DISK_COPIES: Final = 3
"""How many times its size a build takes on disk without tmpfs: file tree, raw image, converted image."""

TMPFS_MEMORY: Final = 4 * GIB
"""Bytes of memory from which on disk-image-create builds on tmpfs."""

BUILD_TOOLS: Final = ("sudo", "ps", "mount", "losetup", "findmnt", "fstrim", "getopt", "lsattr", "qemu-img")
PARTITION_TOOLS: Final = ("kpartx", "dmsetup", "sfdisk")
QUICKER_TOOLS: Final = ("mmdebstrap", "zstd")
"""Used if they are installed: mmdebstrap bootstraps Debian, zstd packs the trees that builds keep."""
EFI_TOOLS: Final = ("sgdisk", "mkfs.vfat")


def for_build(image: Entry[Image], recipe: dib.Recipe | None, target: Path) -> None:
    """Check the requirements of a build of ``image`` to the file ``target``.

    Raises one PreflightError that names everything that is missing.
    """
    checks.require(build_checks(recipe, target), saying=f"{image.at()}: this machine cannot build the image")


def build_checks(recipe: dib.Recipe | None, target: Path) -> Iterator[Check]:
    """Yield the checks before a build; without a ``recipe``, only external commands run."""
    directory = target.parent
    yield checks.writable(directory)
    yield from program_checks(recipe)
    if recipe is None:
        yield checks.space(directory, MINIMAL_SPACE)
        return
    yield _plain_path(target)
    yield disk_image_create()
    yield elevation.check()
    if os.geteuid() == 0:  # others may not open the device; the build itself looks again
        yield checks.loop_devices()
    yield checks.space(directory, needed_space(recipe))
    names = recipe.element_names
    if _partitions(names) or not host_programs.CLOUD_IMAGES.isdisjoint(names):
        yield dataclasses.replace(checks.device_mapper(), required=True)
    if any(name.startswith("block-device-efi") for name in names):
        yield dataclasses.replace(checks.filesystem("vfat"), required=True)


def program_checks(recipe: dib.Recipe | None) -> Iterator[Check]:
    """Yield a check for each program of this machine that a build calls; a guessed one is not required."""
    seen = dict.fromkeys(build_tools(recipe))
    yield from map(checks.tool, seen)
    if recipe is not None:
        yield from (check for check in host_programs.element_checks(recipe) if check.name not in seen)


def lacking(image: Entry[Image], recipe: dib.Recipe | None) -> str | None:
    """Say in one line which programs and files this machine lacks for a build of ``image``; None for none."""
    failed = [check for check in program_checks(recipe) if not check.ok]
    if not failed:
        return None
    names = ", ".join(f"{check.name} ({check.detail})" for check in failed)
    return f"{image.at('dib')}: a build on this machine lacks {names}; {checks.fixes(failed)}"


def guesses(recipe: dib.Recipe | None) -> Iterator[str]:
    """Yield a sentence for each program that is missing and that a script seems to call."""
    for check in program_checks(recipe):
        if not check.ok and not check.required:
            yield f"{check.name}: {check.detail} ({check.fix})"


def build_tools(recipe: dib.Recipe | None) -> list[str]:
    """Return the programs that diskimage-builder itself and this tool run on this machine for a build."""
    if recipe is None:
        return ["setpriv", "qemu-img"]
    names = recipe.element_names
    file_system = host_programs.setting(recipe, "FS_TYPE") or "ext4"
    tools = [*namespace.TOOLS, *BUILD_TOOLS, f"mkfs.{file_system}"]
    if _partitions(names):
        tools += PARTITION_TOOLS
    if any(name.startswith("block-device-efi") for name in names) or "block-device-gpt" in names:
        tools += EFI_TOOLS
    if "block-device-efi-lvm" in names or "lvm" in names:
        tools.append("pvcreate")
    if "squashfs" in recipe.options.types:
        tools.append("mksquashfs")
    if "docker" in recipe.options.types:
        tools.append("docker")
    return tools


def needed_space(recipe: dib.Recipe) -> int:
    """Return the bytes that the output directory must have free; a guess where no size is configured."""
    on_tmpfs = recipe.options.tmpfs and _memory() >= TMPFS_MEMORY
    copies = 1 if on_tmpfs else ON_DISK_COPIES
    if recipe.options.image_size is not None:
        return max(MINIMAL_SPACE, int(recipe.options.image_size * GIB) * copies)
    distribution = recipe.element_names & {"debootstrap", "yum", "zypper", "cache-url"}
    return DISTRIBUTION_SPACE if distribution else MINIMAL_SPACE * copies


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _partitions(names: Iterable[str]) -> bool:
    return any(name == "vm" or name.startswith("block-device-") for name in names)


def disk_image_create() -> Check:
    """Check that disk-image-create is installed, in this Python environment or on PATH."""
    path = shutil.which(dib.TOOL, path=process.tool_path())
    version = dib.installed_version()
    if path is None or version is None:
        fix = f"pip install {dib.DISTRIBUTION}"
        return Check(name=dib.TOOL, ok=False, detail="not found", fix=fix)
    return Check(name=dib.TOOL, ok=True, detail=f"{path}, {version}")


def _plain_path(target: Path) -> Check:
    """disk-image-create quotes no path, neither that of its output nor that of its temporary files."""
    odd = next((sign for sign in str(target) if sign.isspace() or sign in "*?[]{}()<>|&;'\"\\$`"), None)
    detail = str(target) if odd is None else f"{target}: {dib.TOOL} cannot work with {odd!r} in a path"
    return Check(
        name="output path", ok=odd is None, detail=detail, fix="choose another with `dibctl build --output`"
    )
