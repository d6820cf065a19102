"""What this machine must have: told in a second, before a build or a guest fails for want of it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pytest_dibctl.build import dib
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import CommandError, PreflightError
from pytest_dibctl.system import process

GIB: Final = 1024**3

DISTRIBUTION_SPACE: Final = 4 * GIB
"""Bytes that a build of a whole distribution is assumed to need when its size is not configured."""

MINIMAL_SPACE: Final = 16 * 1024**2
"""Bytes below which no build is worth starting."""

ON_DISK_COPIES: Final = 3
"""How many times its size a build takes on disk without tmpfs: file tree, raw image, converted image."""

TMPFS_MEMORY: Final = 4 * GIB
"""Bytes of memory from which on disk-image-create builds on tmpfs."""

_LOOP_CTL_GET_FREE: Final = 0x4C82

_QEMU: Final = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "qemu-img": "qemu-utils",
        "qemu-storage-daemon": "qemu-system-common",
        "nsenter": "util-linux",
        "blkid": "util-linux",
        "qemu-system-x86_64": _QEMU["x86_64"],
        "qemu-system-aarch64": _QEMU["aarch64"],
        "ssh": "openssh-client",
        "ssh-keygen": "openssh-client",
        "sudo": "sudo",
        "ps": "procps",
        "mount": "mount",
        "losetup": "mount",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "findmnt": "util-linux",
        "fstrim": "util-linux",
        "getopt": "util-linux",
        "mkfs.ext4": "e2fsprogs",
        "lsattr": "e2fsprogs",
        "mkfs.xfs": "xfsprogs",
        "mkfs.vfat": "dosfstools",
        "debootstrap": "debootstrap",
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

GUARD_TOOLS: Final = ("unshare", "setpriv")
BUILD_TOOLS: Final = ("sudo", "ps", "mount", "losetup", "findmnt", "fstrim", "getopt", "lsattr", "qemu-img")
PARTITION_TOOLS: Final = ("kpartx", "dmsetup", "sfdisk")
EFI_TOOLS: Final = ("sgdisk", "mkfs.vfat")
GUEST_TOOLS: Final = ("ssh",)
TREE_TOOLS: Final = ("qemu-storage-daemon", "nsenter", "blkid", "sfdisk")
"""What opens an image's files, besides GUARD_TOOLS and mount."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; what is not ``required`` only limits what can be done.

    ``fix`` says what to do when it is not ``ok``; ``package`` is the Debian package that does it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    package: str | None = None
    required: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return the check for ``--json``."""
        return dataclasses.asdict(self)


def for_build(image: Entry[Image], recipe: dib.Recipe | None, target: Path) -> None:
    """Check what a build of ``image`` to the file ``target`` needs.

    Raises one PreflightError that names everything that is missing.
    """
    failed = [check for check in build_checks(recipe, target) if check.required and not check.ok]
    if not failed:
        return
    listed = "".join(f"\n  {check.name}: {check.detail}" for check in failed)
    raise PreflightError(f"{image.at()}: this machine cannot build the image:{listed}", hint=_fixes(failed))


def for_trees(image: Entry[Image]) -> None:
    """Check what ``image`` entries need to open the image's files.

    Raises one PreflightError that names everything that is missing.
    """
    checks = [*map(_tool, (*GUARD_TOOLS, *TREE_TOOLS, "mount")), _root(), _loop_devices(), _fuse()]
    failed = [check for check in checks if not check.ok]
    if failed:
        listed = "".join(f"\n  {check.name}: {check.detail}" for check in failed)
        raise PreflightError(
            f"{image.at('tests.tests_list')}: this machine cannot open the image's files:{listed}",
            hint=_fixes(failed),
        )


def _fixes(failed: Sequence[Check]) -> str:
    packages = missing_packages(failed)
    apt = [f"apt-get install --no-install-recommends {' '.join(packages)}"] if packages else []
    others = [check.fix for check in failed if check.fix and check.package is None]
    return "; ".join(dict.fromkeys([*apt, *others]))


def build_checks(recipe: dib.Recipe | None, target: Path) -> Iterator[Check]:
    """Yield what is to be checked before a build; without a ``recipe``, only external commands run."""
    directory = target.parent
    yield _writable(directory)
    yield from map(_tool, build_tools(recipe))
    if recipe is None:
        yield _space(directory, MINIMAL_SPACE)
        return
    yield _plain_path(target)
    yield _disk_image_create()
    yield _root()
    yield _loop_devices()
    yield _space(directory, needed_space(recipe))
    names = recipe.element_names
    if _partitions(names):
        yield dataclasses.replace(_device_mapper(), required=True)
    if any(name.startswith("block-device-efi") for name in names):
        yield dataclasses.replace(_filesystem("vfat"), required=True)


def build_tools(recipe: dib.Recipe | None) -> list[str]:
    """Return the programs that a build runs on this machine, as far as its elements are known here."""
    if recipe is None:
        return ["setpriv", "qemu-img"]
    names = recipe.element_names
    tools = [
        *GUARD_TOOLS,
        *BUILD_TOOLS,
        f"mkfs.{recipe.environment.get('FS_TYPE') or os.environ.get('FS_TYPE', 'ext4')}",
    ]
    if "debootstrap" in names and shutil.which("mmdebstrap", path=process.tool_path()) is None:
        tools.append("debootstrap")
    if _partitions(names):
        tools += PARTITION_TOOLS
    if any(name.startswith("block-device-efi") for name in names) or "block-device-gpt" in names:
        tools += EFI_TOOLS
    if "block-device-efi-lvm" in names or "lvm" in names:
        tools.append("pvcreate")
    if "squashfs" in recipe.options.types:
        tools.append("mksquashfs")
    tools += ["git"] if "source-repositories" in names else []
    tools += ["curl"] if "cache-url" in names else []
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


def doctor(directory: Path | None = None) -> list[Check]:
    """Check everything that building and booting can need; ``directory`` is where images would go."""
    here = Path.cwd() if directory is None else directory
    arch = "aarch64" if platform.machine() == "aarch64" else "x86_64"
    system = f"qemu-system-{arch}"
    tools = [*GUARD_TOOLS, *BUILD_TOOLS, "mkfs.ext4", "debootstrap", system, *GUEST_TOOLS, *TREE_TOOLS]
    optional = [tool for tool in (*PARTITION_TOOLS, *EFI_TOOLS, "mksquashfs") if tool not in tools]
    return [
        _disk_image_create(),
        *map(_tool, tools),
        *(dataclasses.replace(_tool(name), required=False) for name in optional),
        _root(),
        _loop_devices(),
        dataclasses.replace(_fuse(), required=False),  # for `image` entries only
        _writable(here),
        _space(here, DISTRIBUTION_SPACE),
        _device_mapper(),
        _filesystem("vfat"),
        _kvm(),
    ]


def missing_packages(checks: Iterable[Check]) -> list[str]:
    """Return the Debian packages that would mend what failed, sorted."""
    return sorted({check.package for check in checks if check.package and not check.ok})


def install(packages: Sequence[str], *, progress: Callable[[str], None]) -> None:
    """Install Debian packages; raises PreflightError without root or apt, and when apt fails."""
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
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if line.startswith(("Setting up ", "Get:", "Err:", "E: ")):
            progress(line)

    try:
        # An apt of unattended-upgrades may be at work on a fresh machine: wait for it instead of failing.
        environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        waiting = [argv[0], "-o", "DPkg::Lock::Timeout=120", *argv[1:]]
        result = process.run(waiting, env=environment, check=False, on_line=hear)
    except CommandError as error:
        raise PreflightError(error.message, hint=error.hint) from None
    if result.returncode != 0:
        errors = [line for line in said if line.startswith(("E:", "Err:"))] or said[-5:]
        raise PreflightError(
            f"{' '.join(argv)} {process.describe_exit(result.returncode)}"
            + "".join(f"\n  {line}" for line in errors),
            hint="see whether this machine's apt sources can be reached",
        )


# -- single checks ---------------------------------------------------------------------------------


def _tool(name: str) -> Check:
    found = shutil.which(name, path=process.tool_path())
    package = PACKAGES.get(name)
    fix = f"apt-get install {package}" if package else f"install {name}"
    return Check(name=name, ok=found is not None, detail=found or "not found", fix=fix, package=package)


def _disk_image_create() -> Check:
    found = shutil.which(dib.TOOL, path=process.tool_path())
    version = dib.installed_version()
    if found is None or version is None:
        fix = f"pip install {dib.DISTRIBUTION}"
        return Check(name=dib.TOOL, ok=False, detail="not found", fix=fix)
    return Check(name=dib.TOOL, ok=True, detail=f"{found}, {version}")


def _root() -> Check:
    if os.geteuid() != 0:
        detail = "builds mount filesystems and need root"
        return Check(name="root", ok=False, detail=detail, fix="run it as root, for example with sudo")
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


def _loop_devices() -> Check:
    try:
        control = os.open("/dev/loop-control", os.O_RDWR)
    except OSError as error:
        detail = f"/dev/loop-control: {error.strerror}"
        fix = "modprobe loop; in a container, run it with --privileged"
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


def _fuse() -> Check:
    """``image`` entries look into images of all formats through a FUSE export."""
    try:
        # Opening the node loads the module where there is one.
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        fix = "modprobe fuse; in a container, run it with --privileged"
        return Check(name="FUSE", ok=False, detail=f"/dev/fuse: {error.strerror}", fix=fix)
    return Check(name="FUSE", ok=True, detail="yes")


def _device_mapper() -> Check:
    name = "device-mapper"
    # Opening the node loads the module where there is one; the node may lack where the module is loaded.
    with_node = Path("/dev/mapper/control")
    try:
        os.close(os.open(with_node, os.O_RDWR))
    except OSError as error:
        if not any(line.split()[-1:] == [name] for line in _lines("/proc/misc")):
            detail = f"the kernel has none ({error.strerror}); the vm and block-device-* elements need it"
            fix = "modprobe dm_mod, or build a filesystem image: without these elements, with baremetal"
            return Check(name=name, ok=False, detail=detail, fix=fix, required=False)
    return Check(name=name, ok=True, detail="yes", required=False)


def _filesystem(kind: str) -> Check:
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


def _writable(directory: Path) -> Check:
    existing = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    name = "output directory"
    if not existing.is_dir():
        return Check(
            name=name, ok=False, detail=f"{existing} is no directory", fix="choose another with --output"
        )
    # root may write everywhere, except on a file system that is read-only; access(2) knows of both.
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = "read-only" if os.statvfs(existing).f_flag & os.ST_RDONLY else "not writable"
        return Check(
            name=name, ok=False, detail=f"{existing} is {reason}", fix="choose another with --output"
        )
    return Check(name=name, ok=True, detail=str(directory))


def _plain_path(target: Path) -> Check:
    """disk-image-create quotes no path, neither that of its output nor that of its temporary files."""
    odd = next((sign for sign in str(target) if sign.isspace() or sign in "*?[]{}()<>|&;'\"\\$`"), None)
    detail = str(target) if odd is None else f"{target}: {dib.TOOL} cannot work with {odd!r} in a path"
    return Check(name="output path", ok=odd is None, detail=detail, fix="choose another with --output")


def _space(directory: Path, needed: int) -> Check:
    existing = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    detail = f"{_amount(free)} free in {existing}"
    if free >= needed:
        return Check(name="free space", ok=True, detail=detail)
    return Check(
        name="free space",
        ok=False,
        detail=f"{detail}, about {_amount(needed)} needed",
        fix="free some space, or choose another directory with --output",
    )


def _amount(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count // 1024**2} MiB"


def _kvm() -> Check:
    # Lazily: this takes qemu and, the first time, a moment.
    from pytest_dibctl.clouds.qemu import accel

    verdict = accel.probe_kvm()
    detail = (
        verdict.reason
        if verdict.usable
        else f"not used: {verdict.reason}; guests are emulated, about ten times slower"
    )
    return Check(name="KVM", ok=verdict.usable, detail=detail, required=False)
