"""The requirements of this machine: each check looks at one of them and says how to meet it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pytest_dibctl.errors import CommandError, PreflightError
from pytest_dibctl.system import distribution, package_names, process

GIB: Final = 1024**3
"""Bytes."""

_LOOP_CTL_GET_FREE: Final = 0x4C82


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check; a check that is not ``required`` only limits the possible work.

    ``fix`` is the hint when it is not ``ok``; ``package`` is this distribution's package that does it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    package: str | None = None
    required: bool = True


def require(checks: Iterable[Check], *, saying: str) -> None:
    """Raise one PreflightError that names every required check that failed; ``saying`` begins its message."""
    failed = [check for check in checks if check.required and not check.ok]
    if failed:
        listed = "".join(f"\n  {check.name}: {check.detail}" for check in failed)
        raise PreflightError(f"{saying}:{listed}", hint=fixes(failed))


def fixes(failed: Sequence[Check]) -> str:
    """Return the hints of failed checks, in one line."""
    packages = missing_packages(failed)
    here = distribution.family() or distribution.DEBIAN
    apt = [distribution.command(packages, here)] if packages else []
    others = [check.fix for check in failed if check.fix and check.package is None]
    return "; ".join(dict.fromkeys([*apt, *others]))


def missing_packages(checks: Iterable[Check]) -> list[str]:
    """Return the packages that would mend the failed checks, sorted."""
    return sorted({check.package for check in checks if check.package and not check.ok})


def tool(name: str) -> Check:
    """Check that a program is found on ``process.tool_path``."""
    return one_of(name)


def one_of(*names: str, why: str = "") -> Check:
    """Check that at least one of some programs is found; of the first the package is told.

    ``why`` names the part that needs it.
    """
    path = process.tool_path()
    found = next((place for name in names if (place := shutil.which(name, path=path))), None)
    return _brought(" or ".join(names), found, names[0], why)


def file(name: str, *places: str, why: str = "") -> Check:
    """Check that a file exists at one of some places, which may be patterns; ``name`` is in the table."""
    found = next((str(match) for place in places for match in Path("/").glob(place.lstrip("/"))), None)
    return _brought(Path(name).name, found, name, why)


def _brought(name: str, found: str | None, known: str, why: str) -> Check:
    package = package_names.package_of(known)
    missing = f"not found; {why}" if why else "not found"
    return Check(
        name=name,
        ok=found is not None,
        detail=found or missing,
        fix=package_names.advice(known),
        package=package,
    )


def as_root() -> str:
    """Return how to run this program as root: sudo has a PATH of its own, without a user's environment."""
    program = sys.argv[0]
    if "/" not in program or program.endswith(".py"):
        return "run it as root, for example with sudo"
    return f"run it as root: sudo {shlex.quote(program)}"


def root(what: str = "builds mount filesystems") -> Check:
    """Check for root with the capabilities that mounts, chroots and device nodes need.

    ``what`` says, in a clause, why root is needed.
    """
    if os.geteuid() != 0:
        detail = f"{what}, which needs root"
        return Check(name="root", ok=False, detail=detail, fix=as_root())
    missing = [
        name for name, bit in (("sys_admin", 21), ("sys_chroot", 18), ("mknod", 27)) if not _capable(bit)
    ]
    if missing:
        detail = f"root without the capabilities {', '.join(missing)}, as in an unprivileged container"
        return Check(name="root", ok=False, detail=detail, fix="run the container with --privileged")
    return Check(name="root", ok=True, detail="yes")


def _capable(bit: int) -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "")
    return not effective or bool(int(effective, 16) >> bit & 1)


def _closed_to_user(error: OSError) -> bool:
    """Whether a device could not be opened for want of root alone, which says nothing of the device."""
    return isinstance(error, PermissionError) and os.geteuid() != 0


AS_ROOT: Final = "run `sudo dibctl doctor` to look"


def loop_devices() -> Check:
    """Check that a loop device is free and has a node."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR)
    except OSError as error:
        if _closed_to_user(error):
            detail = "cannot be looked at without root"
            return Check(name="loop devices", ok=False, detail=detail, fix=AS_ROOT)
        detail = f"/dev/loop-control: {error.strerror}"
        fix = "modprobe loop; in a container, run it with --privileged" if os.geteuid() == 0 else as_root()
        return Check(name="loop devices", ok=False, detail=detail, fix=fix)
    try:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        return Check(
            name="loop devices", ok=False, detail=f"none is free: {error.strerror}", fix="see losetup --list"
        )
    finally:
        os.close(control)
    device = Path(f"/dev/loop{number}")
    if not device.exists():
        fix = f"mknod {device} b 7 {number}"
        return Check(name="loop devices", ok=False, detail=f"{device} does not exist", fix=fix)
    return Check(name="loop devices", ok=True, detail=f"{device} is free")


def fuse() -> Check:
    """Check for FUSE, through which ``image`` entries look into images of all formats."""
    try:
        # Opening the node loads the module where there is one.
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        fix = "modprobe fuse; in a container, run it with --privileged"
        return Check(name="FUSE", ok=False, detail=f"/dev/fuse: {error.strerror}", fix=fix)
    return Check(name="FUSE", ok=True, detail="yes")


def device_mapper() -> Check:
    """Check whether the kernel has device-mapper; builds without partitions do without it."""
    name = "device-mapper"
    # Opening the node loads the module where there is one; the node may lack where the module is loaded.
    with_node = Path("/dev/mapper/control")
    try:
        os.close(os.open(with_node, os.O_RDWR))
    except OSError as error:
        if not any(line.split()[-1:] == [name] for line in _lines("/proc/misc")):
            if _closed_to_user(error):
                detail = "cannot be looked at without root; the vm and block-device-* elements need it"
                return Check(name=name, ok=False, detail=detail, fix=AS_ROOT, required=False)
            detail = f"the kernel has none ({error.strerror}); the vm and block-device-* elements need it"
            fix = "modprobe dm_mod, or build a filesystem image: without these elements, with baremetal"
            return Check(name=name, ok=False, detail=detail, fix=fix, required=False)
    return Check(name=name, ok=True, detail="yes", required=False)


def filesystem(kind: str) -> Check:
    """Check whether the kernel can mount a kind of filesystem, or has a module for it."""
    name = f"{kind} filesystem"
    known = any(line.split()[-1:] == [kind] for line in _lines("/proc/filesystems"))
    if known or _loadable(kind):
        return Check(name=name, ok=True, detail="yes", required=False)
    detail = f"the kernel cannot mount {kind}; block-device-efi needs it"
    return Check(name=name, ok=False, detail=detail, fix=f"modprobe {kind}", required=False)


def _loadable(module: str) -> bool:
    try:
        return (
            process.run(["modprobe", "--dry-run", "--quiet", module], check=False, timeout=10).returncode == 0
        )
    except CommandError:
        return False


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def writable(directory: Path) -> Check:
    """Check that files can be written in a directory, or in the nearest one above it that exists."""
    existing = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    name = "output directory"
    if not existing.is_dir():
        return Check(
            name=name,
            ok=False,
            detail=f"{existing} is no directory",
            fix="choose another with `dibctl build --output`",
        )
    # root may write everywhere, except on a file system that is read-only; access(2) knows of both.
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = "read-only" if os.statvfs(existing).f_flag & os.ST_RDONLY else "not writable"
        return Check(
            name=name,
            ok=False,
            detail=f"{existing} is {reason}",
            fix="choose another with `dibctl build --output`",
        )
    return Check(name=name, ok=True, detail=str(directory))


def space(directory: Path, needed: int) -> Check:
    """Check that a directory has ``needed`` bytes free."""
    existing = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    detail = f"{_amount(free)} free in {existing}"
    if free >= needed:
        return Check(name="free space", ok=True, detail=detail)
    return Check(
        name="free space",
        ok=False,
        detail=f"{detail}, about {_amount(needed)} needed",
        fix="free some space, or choose another directory with `dibctl build --output`",
    )


def _amount(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count // 1024**2} MiB"
