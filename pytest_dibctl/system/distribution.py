"""Which family of distributions this machine's belongs to, and how packages are installed there."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Final


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Distributions with the same package names; ``install`` begins the command that installs some."""

    name: str
    install: tuple[str, ...]


_APT: Final = ("apt-get", "install", "--no-install-recommends")
DEBIAN: Final = Family(name="Debian", install=_APT)
UBUNTU: Final = Family(name="Ubuntu", install=_APT)
FEDORA: Final = Family(name="Fedora", install=("dnf", "install"))
RHEL: Final = Family(name="RHEL", install=("dnf", "install"))
SUSE: Final = Family(name="openSUSE", install=("zypper", "install", "--no-recommends"))
FAMILIES: Final = (DEBIAN, UBUNTU, FEDORA, RHEL, SUSE)

_IDS: Final[Mapping[str, Family]] = {
    "debian": DEBIAN,
    "ubuntu": UBUNTU,
    "fedora": FEDORA,
    "rhel": RHEL,
    "centos": RHEL,
    "opensuse": SUSE,
    "suse": SUSE,
    "sles": SUSE,
}
"""Families by the words of ID and ID_LIKE in os-release."""


def family(os_release: Mapping[str, str] | None = None) -> Family | None:
    """Return this machine's family, by os-release(5); None for an unknown distribution.

    ``os_release`` holds the values of that file. The first known word counts: of Rocky's "rhel centos
    fedora" that is the nearest.
    """
    os_release = _os_release() if os_release is None else os_release
    words = [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]
    return next((_IDS[word] for word in words if word in _IDS), None)


def is_older(than: int) -> bool:
    """Whether this machine's distribution has a version, and that one is older; a rolling one never is."""
    number = _os_release().get("VERSION_ID", "").partition(".")[0]
    return number.isdecimal() and int(number) < than


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def command(packages: Sequence[str], of: Family) -> str:
    """Return the line that installs packages; their names are of this package's own table."""
    return " ".join([*of.install, *packages])
