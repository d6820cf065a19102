"""The process that holds an image's file tree open; when it ends, however it ends, nothing is left.

It is the first process of a pid namespace and lives in a mount namespace of its own. In there, the image is
exported read-only as a raw file by qemu-storage-daemon (FUSE). In a second mount namespace, without the
daemon, its root filesystem is mounted on a loop device that goes with the mount. There ``image_views`` makes
a view of it for commands of the image, and another for scripts. No process outside sees these mounts. The
guard ends when the pipe on its stdin closes, and the kernel kills it with the tool. With the guard, the
kernel removes every process in its namespace, the mounts, the loop devices and the export. No other cleaning
up is needed.

``namespace`` starts it, and says what it may import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_dibctl.errors import ArtifactError, CommandError, DibctlError
from pytest_dibctl.guards import image_views, namespace
from pytest_dibctl.guards.mounts import OPTIONS, inside, mount
from pytest_dibctl.system import process

DISK, ROOT = "disk", "root"
"""Entries of the guard's directory besides views of the tree: the raw disk, and the tree."""

FILESYSTEMS = {
    "ext2": "errors=continue",
    **dict.fromkeys(("ext3", "ext4"), "noload,errors=continue"),
    "xfs": "norecovery,nouuid",
    "btrfs": "rescue=nologreplay",
    **dict.fromkeys(("vfat", "iso9660", "squashfs", "erofs"), ""),
}
"""The filesystems that are mounted, with options of their own. A read-only mount alone would replay the
journal, and an ext filesystem may say of itself that an error on it is to halt this machine. Drivers of other
filesystems are not made for content that means harm."""

LONGEST_FSTAB = 1 << 20
"""Bytes."""

MOST_PARTS = 128
"""Partitions that are looked at; a usual GPT has room for as many."""

BACKING = {"LVM2_member": "LVM", "crypto_LUKS": "LUKS", "linux_raid_member": "RAID"}
"""Contents of a partition that may hide a root filesystem from us."""

SUBVOLUMES = ("root", "@", "@rootfs", "@root")
"""Where distributions put their root in a btrfs."""

_ROOT_TYPES = ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE")
"""GPT types of a root partition, on x86-64 and on 64-bit ARM; most images just say "Linux"."""


_EFI_TYPES = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")
"""Types of an EFI system partition, in a GPT and in a DOS table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the disk, in bytes; ``number`` is the partition's, 0 for the whole disk."""

    number: int
    start: int
    size: int
    facts: dict[str, str]
    type: str = ""

    @property
    def filesystem(self) -> str:
        """blkid's name for its contents; empty when blkid knows none."""
        return self.facts.get("TYPE", "")

    @property
    def is_efi(self) -> bool:
        """Whether it is meant for EFI firmware."""
        return self.type.upper() in _EFI_TYPES

    def __str__(self) -> str:
        where = f"partition {self.number}" if self.number else "the disk"
        return f"{where} ({self.filesystem or 'unknown contents'}, {self.size // 1024**2} MiB)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """An image whose root filesystem, ``part`` of its disk, is mounted at ``root``; see ``ImageTree``."""

    root: Path
    part: Part
    has_efi: bool
    notes: list[str]


def command(image: Path, disk_format: str, directory: Path) -> list[str]:
    """Return the argv of a guard that opens ``image`` in ``directory``, which must exist and be empty."""
    options = [f"--image={image}", f"--format={disk_format}", directory_option(directory)]
    private = ["--mount", "--pid", "--fork", "--kill-child=KILL"]
    return process.die_with_parent(namespace.command(__name__, options, namespaces=private))


def directory_option(directory: Path) -> str:
    """Return the argument of a guard that tells it from others."""
    return f"--directory={directory}"


def main() -> NoReturn:
    """Open the image, say so as one line of JSON, and hold it until stdin closes."""
    parser = namespace.parser(required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    options = parser.parse_args()
    try:
        if namespace.is_missing(options):
            raise ArtifactError("the guard has no mount namespace of its own; nothing was mounted")
        answer = _open(options.image, options.format, options.directory)
    except DibctlError as error:
        answer = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if "error" not in answer:
        _hold()
    sys.exit(0)


def _hold() -> None:
    # Orphans of commands become children of this process: with SIG_IGN the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass


def _open(image: Path, disk_format: str, directory: Path) -> dict[str, Any]:
    # This /proc is still that of the namespace outside, and tells this process's id there.
    pid = int(Path("/proc/self").readlink().name)
    opened = mount_image(image, disk_format, directory)
    image_views.for_scripts(directory, opened.root)
    image_views.for_commands(directory, opened.root)
    return {
        "pid": pid,
        "filesystem": opened.part.filesystem,
        "device": _device(opened.root),
        "partition": opened.part.number,
        "has_efi": opened.has_efi,
        "notes": opened.notes,
    }


def mount_image(image: Path, disk_format: str, directory: Path) -> Opened:
    """Mount the image's filesystems read-only below ``directory``, where a small tmpfs is mounted first.

    This process goes on in a new mount namespace, with a /proc of its own. Raises DibctlError.
    """
    mount("proc", Path("/proc"), kind="proc", options=("nosuid", "nodev", "noexec"))
    mount("tmpfs", directory, kind="tmpfs", options=("mode=700", "size=1m"))
    disk, root = directory / DISK, directory / ROOT
    _export(image, disk_format, disk)
    _leave_to_the_daemon()
    root.mkdir()
    parts = _parts(image, disk)
    part = _mount_root(image, parts, disk, root)
    notes = [] if part.number == 0 else _mount_rest(part, parts, disk, root)
    return Opened(root=root, part=part, has_efi=any(part.is_efi for part in parts), notes=notes)


def _leave_to_the_daemon() -> None:
    """Go on in a mount namespace of our own; the old one is the daemon's alone.

    The last task of a mount namespace unmounts, on its way out, what is mounted there. If that were the
    daemon, it would wait for ever for blocks of the filesystem that only itself could still deliver.
    """
    try:
        namespace.unshare(namespace.NEW_MOUNTS)
    except OSError as error:
        raise ArtifactError(f"no second mount namespace: {error.strerror}") from None


def _export(image: Path, disk_format: str, disk: Path) -> None:
    """Show ``image``, of any format, as the raw file ``disk``, which cannot be written."""
    disk.touch(mode=0o400)
    nodes = (
        {"driver": "file", "node-name": "file", "filename": str(image), "read-only": True},
        # Were a header to name another file after all, QEMU would not open it.
        {"driver": disk_format, "node-name": "image", "file": "file", "read-only": True}
        | ({"backing": None} if disk_format in ("qcow2", "qed", "vmdk") else {}),
    )
    blockdevs = [f"--blockdev={json.dumps(node)}" for node in nodes]
    export = {
        "type": "fuse",
        "id": "export",
        "node-name": "image",
        "mountpoint": str(disk),
        "writable": False,
    }
    argv = ["qemu-storage-daemon", "--daemonize", *blockdevs, f"--export={json.dumps(export)}"]
    result = process.run(argv, check=False, join_stderr=True)
    if result.returncode != 0:
        last_line = result.output.strip().splitlines()[-1:] or [process.describe_exit(result.returncode)]
        raise ArtifactError(f"{image}: cannot be read: {last_line[0].removeprefix('qemu-storage-daemon: ')}")


def _parts(image: Path, disk: Path) -> list[Part]:
    """Return the whole disk if it is a filesystem, else its partitions."""
    size = disk.stat().st_size
    whole = Part(number=0, start=0, size=size, facts=_facts(disk, 0, size))
    if whole.filesystem and "PTTYPE" not in whole.facts:
        return [whole]
    listed = process.run(["sfdisk", "--json", str(disk)], check=False)
    if listed.returncode != 0:
        raise ArtifactError(
            f"{image}: neither a filesystem nor a partition table is on it",
            hint="`image` tests need an image with a Linux root filesystem; is this one whole?",
        )
    table = json.loads(listed.output)["partitiontable"]
    entries = table.get("partitions", ())
    if len(entries) > MOST_PARTS:
        raise ArtifactError(f"{image}: {len(entries)} partitions are on it; {MOST_PARTS} are allowed")
    return [_partition(disk, table, entry) for entry in entries]


def _partition(disk: Path, table: dict[str, Any], entry: dict[str, Any]) -> Part:
    unit = int(table.get("sectorsize", 512))
    number = int(entry["node"].removeprefix(table["device"]).lstrip("p"))
    start, size = entry["start"] * unit, entry["size"] * unit
    # In a DOS table, a partition is called by the number of the disk and its own.
    uuid = entry.get("uuid") or f"{table.get('id', '').removeprefix('0x')}-{number:02x}"
    facts = {**_facts(disk, start, size), "PARTUUID": uuid, "PARTLABEL": entry.get("name", "")}
    return Part(number=number, start=start, size=size, facts=facts, type=entry.get("type", ""))


def _facts(disk: Path, start: int, size: int) -> dict[str, str]:
    argv = ["blkid", "--probe", "--output=export", f"--offset={start}", f"--size={size}", str(disk)]
    output = process.run(argv, check=False).output
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def _mount_root(image: Path, parts: Sequence[Part], disk: Path, root: Path) -> Part:
    """Mount what holds the root filesystem, and return it."""
    refused = []
    for part in sorted(parts, key=lambda part: (part.type.upper() not in _ROOT_TYPES, -part.size)):
        if not part.filesystem or part.filesystem == "swap" or part.filesystem in BACKING:
            continue
        try:
            _mount_part(part, disk, root)
        except CommandError as error:
            refused.append(f"{part} cannot be mounted: {error.message.splitlines()[-1].strip()}")
            continue
        if _is_root(root) or _take_subvolume(part, root):
            return part
        process.run(["umount", str(root)])
    hidden = sorted({BACKING[part.filesystem] for part in parts if part.filesystem in BACKING})
    raise ArtifactError(
        "\n  ".join(
            [f"{image}: no root filesystem was found on it", *(str(part) for part in parts), *refused]
        ),
        hint=f"a root filesystem on {' or '.join(hidden)} cannot be opened" if hidden else None,
    )


def _mount_part(part: Part, disk: Path, where: Path) -> None:
    options = [*OPTIONS, *filter(None, [_own_options(part)])]
    loop = ["loop", f"offset={part.start}", f"sizelimit={part.size}"]
    mount(str(disk), where, kind=part.filesystem, options=(*loop, *options))


def _own_options(part: Part) -> str:
    try:
        return FILESYSTEMS[part.filesystem]
    except KeyError:
        raise CommandError(
            f"filesystems of an image may be {', '.join(FILESYSTEMS)}; this is {part.filesystem}"
        ) from None


def _is_root(directory: Path) -> bool:
    return (directory / "etc").is_dir() and any(_exists(directory / name) for name in ("usr", "bin"))


def _exists(path: Path) -> bool:
    """Tell whether ``path`` exists; a link exists though its target may be missing on this machine."""
    return os.path.lexists(path)


def _take_subvolume(part: Part, root: Path) -> bool:
    """Show the subvolume of a btrfs that is the root, if there is one, in place of the whole."""
    if part.filesystem != "btrfs":
        return False
    for name in SUBVOLUMES:
        subvolume = root / name
        if subvolume.is_dir() and not subvolume.is_symlink() and _is_root(subvolume):
            mount(str(subvolume), root, options=("bind",))
            return True
    return False


def _mount_rest(root_part: Part, parts: Sequence[Part], disk: Path, root: Path) -> list[str]:
    """Mount the other partitions that the image's fstab names; return which are not shown, and why."""
    notes = []
    unnamed = {part.number: part for part in parts if part.filesystem not in ("", "swap")}
    unnamed.pop(root_part.number, None)
    for point, source in sorted(_fstab(root)):
        part = next((part for part in parts if part.number and _is_named(part, source)), None)
        if part is None or part.number == root_part.number:
            continue
        unnamed.pop(part.number, None)
        where = inside(root, point)
        try:
            if where is None:
                notes.append(f"{part} is not shown: the image has no plain directory {point}")
            else:
                _mount_part(part, disk, where)
        except CommandError as error:
            notes.append(f"{part} is not shown as {point}: {error.message.splitlines()[-1].strip()}")
    notes += [f"{part} is not shown: the image's fstab does not name it" for part in unnamed.values()]
    return notes


def _fstab(root: Path) -> Iterator[tuple[str, str]]:
    """Yield mount point and source of each filesystem of the image's fstab, but for the root."""
    etc = inside(root, "/etc")
    try:
        if etc is None:
            return
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(etc / "fstab", flags), errors="replace") as file:
            # A pipe of that name would be read for ever.
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            lines = file.read(LONGEST_FSTAB).splitlines() if plain else []
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and not line.lstrip().startswith("#") and re.fullmatch(r"/.+", fields[1]):
            yield os.path.normpath(fields[1]), fields[0]


def _is_named(part: Part, source: str) -> bool:
    key, separator, value = source.partition("=")
    if not separator:
        return bool(re.fullmatch(rf"/dev/(?:[a-z]+|\w+\dp){part.number}", source))
    return part.facts.get(key, "").lower() == value.strip("\"'").lower() != ""


def _device(root: Path) -> str:
    """Return the block device of the root filesystem."""
    return process.run(
        ["findmnt", "--noheadings", "--nofsroot", "--first-only", "--output=SOURCE", str(root)]
    ).output.strip()
