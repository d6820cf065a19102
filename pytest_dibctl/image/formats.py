"""The format of an image file, by its first bytes, and whether the file is whole by itself.

QEMU is told the format that was found here and never asked to guess: it would open any other file that a
header names. So a header that names another file is refused before QEMU sees it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from pytest_dibctl.errors import ArtifactError

_HEAD: Final = 1024
"""Bytes at the start of a file that tell its format."""

_LONGEST_DESCRIPTOR: Final = 1 << 20
"""Bytes of a VMDK's descriptor that are read; the usual one has a few hundred."""

_SECTOR: Final = 512

ARCHIVES: Final = (
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file"),
    (0, b"\x5d\0\0", "an lzma file"),
    (0, b"LZIP", "an lzip file"),
    (0, b"\x89LZO", "an lzop file"),
    (0, b"\x1f\x9d", "a compress file"),
    (0, b"\x1f\xa0", "a compress file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"07070", "a cpio archive"),
    (0, b"!<arch>\n", "an ar archive"),
    (0, b"\xed\xab\xee\xdb", "an rpm package"),
    (0, b"MSCF", "a cab archive"),
    (0, b"MSWIM\0\0\0", "a wim archive"),
    (0, b"xar!", "a xar archive"),
)
"""Offset and first bytes of archives that an image may be packed in."""

FOREIGN: Final = (
    (0, b"# Disk DescriptorFile", "a VMDK descriptor, whose data is in other files"),
    (0, b"COWD", "a VMDK of an old kind"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image"),
    (0, b"\x7fELF", "a program"),
    (0x202, b"HdrS", "a Linux kernel"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
)
"""Offset and first bytes of files that cannot be booted, tested and published."""

_MAGICS: Final = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"QED\0", "qed"),
)

NAMED: Final = {
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".vhdx": "vhdx",
    ".qed": "qed",
}
"""The format that a name promises; others promise none. A VHD of fixed size looks raw."""

QEMU_NAMES: Final = {"vhd": "vpc"}
"""QEMU's names of formats that Glance calls otherwise."""

AGAIN: Final = "build or fetch it again"


def of(path: Path, *, packed: bool = False) -> str:
    """Return QEMU's name for the format of a file, "raw" where it has none.

    ``packed`` allows archives, which are "raw" then. Raises ArtifactError for a file that is no whole image:
    it refers to another file, is an archive, is marked as damaged, or has another format than its name says.
    Raises OSError when it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        disk_format = next((kind for offset, magic, kind in _MAGICS if _has(head, offset, magic)), "raw")
        promised = NAMED.get(path.suffix.lower(), disk_format)
        if disk_format == "raw":
            _refuse_foreign(path, head, promised, packed=packed)
        if disk_format != promised:
            raise _misnamed(path, promised, disk_format)
        check = _CHECKS.get(disk_format)
        refused = check(file, head) if check is not None else None
    if refused is not None:
        reason, hint = refused
        raise ArtifactError(f"{path}: {reason}", hint=hint)
    return disk_format


def refuse_other(path: Path, disk_format: str, declared: str, *, where: str) -> None:
    """Raise ArtifactError for a file that is declared, at ``where``, to be of another format than it is.

    ``disk_format`` is the result of ``of``. Formats that QEMU does not know, such as iso, are raw to it.
    """
    known = {*NAMED.values(), *QEMU_NAMES}
    expected = QEMU_NAMES.get(declared, declared) if declared in known else "raw"
    # A VHD of fixed size has its mark at its end only.
    if disk_format not in {expected, "raw" if expected == "vpc" else expected}:
        raise ArtifactError(
            f"{path}: is {disk_format}, and {where} says {declared}",
            hint=f"write disk_format: {disk_format} there, or have the image converted",
        )


def _has(head: bytes, offset: int, magic: bytes) -> bool:
    return head[offset : offset + len(magic)] == magic


def _refuse_foreign(path: Path, head: bytes, promised: str, *, packed: bool) -> None:
    archive = next((name for offset, magic, name in ARCHIVES if _has(head, offset, magic)), None)
    if archive is not None and not packed:
        raise ArtifactError(f"{path}: is {archive}, and no image by itself", hint="unpack it first")
    if promised != "raw":
        raise _misnamed(path, promised, "raw")
    foreign = next((name for offset, magic, name in FOREIGN if _has(head, offset, magic)), None)
    if foreign is not None:
        raise ArtifactError(
            f"{path}: is {foreign}, and no image that can be used",
            hint=f"convert it with `qemu-img convert`, or {AGAIN}",
        )


def _misnamed(path: Path, promised: str, found: str) -> ArtifactError:
    if found == "raw":
        return ArtifactError(
            f"{path}: not a {promised} image, although its name says so",
            hint="a file that was cut short or overwritten looks like this; build or fetch it again",
        )
    return ArtifactError(
        f"{path}: is a {found} image, and its name says {promised}", hint=f"name it *.{found}, or convert it"
    )


_Refused = tuple[str, str] | None
_ELSEWHERE: Final = "publish and test an image that is whole: `qemu-img convert` makes one of it"


def _check_qcow2(_file: BinaryIO, head: bytes) -> _Refused:
    if len(head) < 72:  # noqa: PLR2004 -- the header of version 2
        return "not a readable image: qcow2 header too short", AGAIN
    version, backing = struct.unpack_from(">IQ", head, 4)
    (crypt,) = struct.unpack_from(">I", head, 32)
    features = struct.unpack_from(">Q", head.ljust(80, b"\0"), 72)[0] if version > 2 else 0  # noqa: PLR2004
    faults = (
        (version not in (2, 3), f"is qcow of version {version}", "convert it to qcow2"),
        (backing, "is an overlay: its data is in another file, which it names", _ELSEWHERE),
        (crypt, "is encrypted", "decrypt it with `qemu-img convert`"),
        (features & 2, "is marked as damaged: QEMU found it corrupt", AGAIN),
        (features & 4, "keeps its data in another file, which it names", _ELSEWHERE),
    )
    return next(((reason, hint) for wrong, reason, hint in faults if wrong), None)


def _check_qed(_file: BinaryIO, head: bytes) -> _Refused:
    (features,) = struct.unpack_from("<Q", head.ljust(24, b"\0"), 16)
    return (
        ("is an overlay: its data is in another file, which it names", _ELSEWHERE) if features & 1 else None
    )


def _check_vdi(_file: BinaryIO, head: bytes) -> _Refused:
    (kind,) = struct.unpack_from("<I", head.ljust(0x50, b"\0"), 0x4C)
    return None if kind in (1, 2) else ("is a VDI that stands on another image", _ELSEWHERE)


def _check_vpc(_file: BinaryIO, head: bytes) -> _Refused:
    (kind,) = struct.unpack_from(">I", head.ljust(64, b"\0"), 60)
    return None if kind in (2, 3) else ("is a VHD that stands on another image", _ELSEWHERE)


def _check_vmdk(file: BinaryIO, head: bytes) -> _Refused:
    """Look into the descriptor, which may list other files though the header says that the data follows."""
    capacity, _grain, start, size = struct.unpack_from("<QQQQ", head.ljust(64, b"\0"), 12)
    if not capacity or not start:
        return "is a VMDK whose data is in other files", _ELSEWHERE
    file.seek(min(start * _SECTOR, 1 << 62))
    text = file.read(min(size * _SECTOR, _LONGEST_DESCRIPTOR)).split(b"\0")[0].decode("latin-1").lower()
    kind = re.search(r'^\s*createtype\s*=\s*"(\w+)"', text, re.MULTILINE)
    extents = re.findall(r"^\s*(?:rw|rdonly|noaccess)\s+\d+\s+(\w+)", text, re.MULTILINE)
    parent = re.search(r"^\s*parentcid\s*=\s*(\w+)", text, re.MULTILINE)
    if kind is None or kind[1] not in {"monolithicsparse", "streamoptimized"} or extents != ["sparse"]:
        return "is a VMDK whose data is in other files", _ELSEWHERE
    if "parentfilenamehint" in text or (parent is not None and parent[1] != "ffffffff"):
        return "is a VMDK that stands on another image", _ELSEWHERE
    return None


_CHECKS: Final[dict[str, Callable[[BinaryIO, bytes], _Refused]]] = {
    "qcow2": _check_qcow2,
    "qed": _check_qed,
    "vdi": _check_vdi,
    "vpc": _check_vpc,
    "vmdk": _check_vmdk,
}
