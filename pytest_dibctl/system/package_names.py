"""The package of each program, by the family of the distribution; nothing else is ever installed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_dibctl.system import distribution
from pytest_dibctl.system.distribution import DEBIAN, FEDORA, RHEL, SUSE, UBUNTU, Family

UBUNTU_KEYRING: Final = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
DEBIAN_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
DNF_DOWNLOAD: Final = "dnf download"
"""The part of dnf that fetches packages without installing them: a package of its own with dnf 4."""

_NO: Final = None
_SAME: Final[Mapping[str, str]] = {
    **{name: name for name in ("slirp4netns", "sudo", "zstd", "curl", "git", "podman", "dnf", "rpm")},
    **{name: name for name in ("debootstrap", "kpartx", "jq", "rsync")},
    **dict.fromkeys(("mkfs.ext4", "lsattr"), "e2fsprogs"),
    **dict.fromkeys(("unshare", "setpriv", "prlimit", "findmnt", "fstrim", "getopt"), "util-linux"),
    **dict.fromkeys(("nsenter", "blkid"), "util-linux"),
    "bwrap": "bubblewrap",
    "mkfs.vfat": "dosfstools",
    "mkdosfs": "dosfstools",
    "mkfs.xfs": "xfsprogs",
    "pvcreate": "lvm2",
    "systemd-nspawn": "systemd-container",
}
"""Programs whose package has the same name everywhere."""

_TABLE: Final[Mapping[str, tuple[str | None, str | None, str | None]]] = {
    **{name: (package, package, package) for name, package in _SAME.items()},
    "qemu-img": ("qemu-utils", "qemu-img", "qemu-img"),
    "qemu-storage-daemon": ("qemu-system-common", "qemu-img", "qemu-img"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-system-x86-core", "qemu-x86"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-system-aarch64-core", "qemu-arm"),
    "ip": ("iproute2", "iproute", "iproute2"),
    "ssh": ("openssh-client", "openssh-clients", "openssh-clients"),
    "ssh-keygen": ("openssh-client", "openssh", "openssh-common"),
    "ps": ("procps", "procps-ng", "procps"),
    **dict.fromkeys(("mount", "losetup"), ("mount", "util-linux", "util-linux")),
    "sfdisk": ("fdisk", "util-linux", "util-linux"),
    "sgdisk": ("gdisk", "gdisk", "gptfdisk"),
    "dmsetup": ("dmsetup", "device-mapper", "device-mapper"),
    "mkfs.btrfs": ("btrfs-progs", "btrfs-progs", "btrfsprogs"),
    "mksquashfs": ("squashfs-tools", "squashfs-tools", "squashfs"),
    "mmdebstrap": ("mmdebstrap", _NO, _NO),
    "docker": ("docker.io", "moby-engine", "docker"),
    "yum": (_NO, "dnf", "dnf"),
    "yumdownloader": (_NO, "dnf-utils", _NO),
    DNF_DOWNLOAD: ("dnf-plugins-core", "dnf-plugins-core", "dnf-plugins-core"),
    "zypper": ("zypper", "zypper", "zypper"),
    "gpg": ("gpg", "gnupg2", "gpg2"),
    "gpgv": ("gpgv", "gnupg2", "gpg2"),
    "unxz": ("xz-utils", "xz", "xz"),
    "mkimage": ("u-boot-tools", "uboot-tools", "u-boot-tools"),
    "mkisofs": ("genisoimage", "genisoimage", "mkisofs"),
    "skopeo": ("skopeo", "skopeo", "skopeo"),
    "buildah": ("buildah", "buildah", "buildah"),
    "wget": ("wget", "wget", "wget"),
    "unzip": ("unzip", "unzip", "unzip"),
    "parted": ("parted", "parted", "parted"),
    "cpio": ("cpio", "cpio", "cpio"),
    "rpm2cpio": ("rpm2cpio", "rpm", "rpm"),
    UBUNTU_KEYRING: ("ubuntu-keyring", "ubu-keyring", _NO),
    DEBIAN_KEYRING: ("debian-archive-keyring", "debian-keyring", _NO),
}
"""The packages on Debian, Fedora and openSUSE, by program or file."""

_OTHER: Final[Mapping[tuple[str, Family], str | None]] = {
    # RHEL has no QEMU but libexec/qemu-kvm, and takes the rest of these from EPEL at best.
    ("qemu-system-x86_64", RHEL): _NO,
    ("qemu-system-aarch64", RHEL): _NO,
    ("docker", RHEL): _NO,
    ("zypper", RHEL): _NO,
    ("yumdownloader", RHEL): "yum-utils",
    ("mkfs.btrfs", RHEL): _NO,
    ("mkisofs", RHEL): "xorriso",
    (UBUNTU_KEYRING, RHEL): _NO,
    (DEBIAN_KEYRING, RHEL): _NO,
}
"""Where Ubuntu differs from Debian, and RHEL and those built from it from Fedora."""

_SINCE: Final[Mapping[tuple[str, Family], int]] = {(UBUNTU_KEYRING, DEBIAN): 13}
"""The first version of a family that has a package, where older ones are still in use."""

_COLUMNS: Final = ((DEBIAN, 0), (UBUNTU, 0), (FEDORA, 1), (RHEL, 1), (SUSE, 2))

PACKAGES: Mapping[Family, Mapping[str, str]] = MappingProxyType(
    {
        family: MappingProxyType(
            {
                program: package
                for program, row in _TABLE.items()
                if (package := _OTHER.get((program, family), row[column])) is not None
            }
        )
        for family, column in _COLUMNS
    }
)
"""The package of each program, or of a file or part of one; missing where the family has none."""

PROGRAMS: Final = frozenset(name for name in _TABLE if "/" not in name and " " not in name)
"""The programs that this table knows."""

ELSEWHERE: Final[Mapping[str, str]] = {
    UBUNTU_KEYRING: "take it from the package ubuntu-keyring of Ubuntu's archive, and name the file in "
    "DIB_APT_KEYRING",
    DEBIAN_KEYRING: "take it from the package debian-archive-keyring of Debian's archive, and name the file "
    "in DIB_APT_KEYRING",
    **dict.fromkeys(
        ("qemu-system-x86_64", "qemu-system-aarch64"),
        "this distribution has no QEMU for whole machines; boot images as containers, or in OpenStack",
    ),
}
"""Hints where a family has no package."""


def package_of(name: str, family: Family | None = None) -> str | None:
    """Return the package that brings a program or a file here, or to ``family``; None if none is known."""
    here = family or distribution.family()
    if here is None or distribution.is_older(_SINCE.get((name, here), 0)):
        return None
    return PACKAGES[here].get(name)


def advice(name: str, family: Family | None = None) -> str:
    """Return the hint for a missing program or file."""
    here = family or distribution.family()
    package = package_of(name, here)
    if here is not None and package is not None:
        return " ".join([*here.install[:2], package])
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    known = PACKAGES[DEBIAN].get(name)
    return f"install {name}" + (f" (Debian's package is {known})" if known and here is None else "")
