"""There is something to boot: a kernel with its initial ramdisk, and a boot loader where one is needed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import Artifact, ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

KERNELS = (
    *("/boot/vmlinuz*", "/boot/vmlinux*", "/boot/kernel*", "/boot/Image*"),
    *("/boot/*/*/linux", "/boot/efi/*/*/linux", "/efi/*/*/linux"),
)

UNIFIED = ("/boot/efi/EFI/Linux/*.efi", "/boot/EFI/Linux/*.efi", "/efi/EFI/Linux/*.efi")
"""Kernels that carry their initial ramdisk."""

LOADERS = (
    *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/menu.lst", "/boot/efi/EFI/*/grub.cfg"),
    *("/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"),
    *("/boot/extlinux.conf", "/boot/syslinux.cfg"),
    *("/boot/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf", "/efi/loader/entries/*.conf"),
)

SECTOR = 512
BOOT_SIGNATURE = b"\x55\xaa"
BOOT_CODE = 440
"""Bytes of boot code before the partition table in the first sector."""


def kernel_version(file: Path) -> str | None:
    """Return what an x86 kernel says of itself, as "6.1.0-56-cloud-amd64"; None for other files."""
    with file.open("rb") as kernel:
        head = kernel.read(0x210)
        if head[0x202:0x206] != b"HdrS":
            return None
        (offset,) = struct.unpack_from("<H", head, 0x20E)
        kernel.seek(offset + 0x200)
        said = kernel.read(128).split(b"\0")[0].decode(errors="replace").split()
    return said[0] if said else None


def found(tree: ImageTree, *patterns: str) -> list[str]:
    """Return what can be read: a link may outlive its kernel, and a full disk leaves empty files."""
    names = [name for pattern in patterns for name in tree.glob(pattern)]
    return [name for name in names if (path := tree.path(name)).is_file() and path.stat().st_size]


def cannot_tell(tree: ImageTree) -> None:
    """Skip the test where a partition could not be looked into."""
    if tree.notes:
        pytest.skip(f"it may be where this test cannot look: {'; '.join(tree.notes)}")


def test_kernel_is_there(image_tree: ImageTree, artifact: Artifact) -> None:
    """A whole disk has a kernel of its own; a filesystem image has kernel and initial ramdisk beside it.

    If this fails: add a kernel package to a whole disk; for a filesystem image use DIB's ``baremetal``
    element, which writes NAME.vmlinuz and NAME.initrd beside the image.
    """
    if artifact.layout == "disk":
        if not found(image_tree, *KERNELS, *UNIFIED):
            cannot_tell(image_tree)
            pytest.fail(f"no kernel is in {artifact.path}; its /boot has {image_tree.glob('/boot/*')}")
        return
    beside = {"kernel": artifact.kernel, "initrd": artifact.initrd}
    missing = [name for name, file in beside.items() if file is None]
    assert not missing, (
        f"{artifact.path} is a bare filesystem and has no {' and no '.join(missing)} beside it"
    )


def test_boot_loader_is_there(image_tree: ImageTree, artifact: Artifact) -> None:
    """A whole disk has a boot loader: its configuration, or a unified kernel that the firmware starts itself.

    If this fails, add the element ``vm`` or ``bootloader``; look whether installing it failed in the log.
    """
    if artifact.layout != "disk":
        pytest.skip("a bare filesystem is booted with the kernel beside it, without a boot loader")
    if not found(image_tree, *LOADERS, *UNIFIED):
        cannot_tell(image_tree)
        pytest.fail(f"no boot loader is configured in {artifact.path}")


def test_disk_can_be_started(image_tree: ImageTree, artifact: Artifact) -> None:
    """The firmware finds something to start: boot code in the first sector, or an EFI system partition.

    If this fails, the boot loader was configured and not installed: see its output in the build's log.
    """
    if artifact.layout != "disk":
        pytest.skip("a bare filesystem is booted with the kernel beside it, without a boot loader")
    with image_tree.disk.open("rb") as disk:
        head = disk.read(SECTOR)
    boot_code = head.endswith(BOOT_SIGNATURE) and any(head[:BOOT_CODE])
    assert boot_code or image_tree.has_efi, f"{artifact.path} has neither boot code nor an EFI partition"


def test_kernel_has_its_modules(image_tree: ImageTree, artifact: Artifact) -> None:
    """The kernel that is booted finds modules of its own version in the image.

    If this fails, two kernels are installed and the other one was copied, or the modules' package is missing.
    """
    installed = {name.rpartition("/")[2] for name in image_tree.glob("/lib/modules/*")}
    if not installed:
        pytest.skip("the image has no modules; its kernel may need none")
    files = [image_tree.path(name) for name in found(image_tree, *KERNELS)]
    if artifact.kernel is not None:
        files = [artifact.kernel]
    versions = {version for file in files if file.is_file() and (version := kernel_version(file))}
    if not versions:
        pytest.skip("the kernel does not tell its version")
    missing = versions - installed
    assert not missing, f"the kernel is {', '.join(missing)}; there are modules for {', '.join(installed)}"
