"""Installing Debian packages."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.errors import PreflightError
from pytest_dibctl.system import distribution, package_names, packages, process
from pytest_dibctl.system.distribution import DEBIAN, FAMILIES, FEDORA, RHEL, SUSE, UBUNTU, Family
from pytest_dibctl.system.package_names import PACKAGES

MANY = 20_000
"""Packages of a whole Debian, as apt's lists name them."""


def apt(directory: Path, body: str) -> str:
    script = directory / "apt-get"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{directory}:/usr/bin:/bin"


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_root")
def test_packages_are_installed_after_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/calls; echo "Setting up x"; echo other'
    path = apt(tmp_path, body)
    monkeypatch.setattr(process, "tool_path", lambda: path)
    monkeypatch.setenv("PATH", path)
    told: list[str] = []
    packages.install(["gdisk", "kpartx"], progress=told.append)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "noninteractive -o DPkg::Lock::Timeout=120 update",
        "noninteractive -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends gdisk kpartx",
    ]
    assert told == ["installing gdisk kpartx", "Setting up x", "Setting up x"]


@pytest.mark.usefixtures("as_root")
def test_a_failing_apt_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = apt(tmp_path, "echo reading; echo 'E: Unable to fetch' >&2; exit 100")
    monkeypatch.setattr(process, "tool_path", lambda: path)
    monkeypatch.setenv("PATH", path)
    with pytest.raises(
        PreflightError, match=r"apt-get update exited with 100\n  E: Unable to fetch\nhint"
    ) as caught:
        packages.install(["gdisk"], progress=lambda _line: None)
    assert caught.value.hint


def test_packages_need_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = apt(tmp_path, "exit 1")
    monkeypatch.setattr(process, "tool_path", lambda: path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreflightError, match="needs root") as caught:
        packages.install(["gdisk"], progress=lambda _line: None)
    assert caught.value.hint == "as root: apt-get install --no-install-recommends gdisk"


def test_packages_need_apt(only: Callable[..., None]) -> None:
    only()
    with pytest.raises(PreflightError, match="no apt-get here to install gdisk"):
        packages.install(["gdisk"], progress=lambda _line: None)


@pytest.mark.usefixtures("as_root")
def test_only_packages_of_the_table_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = apt(tmp_path, f"touch {tmp_path}/called")
    monkeypatch.setattr(process, "tool_path", lambda: path)
    for name in ("cowsay", "--reinstall", "gdisk; reboot", "/tmp/evil.deb"):
        with pytest.raises(PreflightError, match="only packages of this tool's own list"):
            packages.install(["gdisk", name], progress=lambda _line: None)
    assert not (tmp_path / "called").exists()


@pytest.mark.usefixtures("as_root")
def test_without_apt_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "family", lambda: SUSE)
    with pytest.raises(PreflightError) as caught:
        packages.install(["gptfdisk", "podman"], progress=lambda _line: None)
    assert caught.value.hint == "as root: zypper install --no-recommends gptfdisk podman"


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("os_release", "family"),
    [
        ({"ID": "debian"}, DEBIAN),
        ({"ID": "raspbian", "ID_LIKE": "debian"}, DEBIAN),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, UBUNTU),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, UBUNTU),
        ({"ID": "fedora"}, FEDORA),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, RHEL),
        ({"ID": "centos", "ID_LIKE": "rhel fedora"}, RHEL),
        ({"ID": "amzn", "ID_LIKE": "fedora"}, FEDORA),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, SUSE),
        ({"ID": "sles", "ID_LIKE": "suse"}, SUSE),
        ({"ID": "arch"}, None),
        ({}, None),
    ],
    ids=lambda value: value.get("ID", "none") if isinstance(value, dict) else "",
)
def test_the_family_is_read_from_os_release(os_release: dict[str, str], family: Family | None) -> None:
    assert distribution.family(os_release) == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_package_names_are_plain_words(family: Family) -> None:
    for program, package in PACKAGES[family].items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package), (program, package)
    assert PACKAGES[family].keys() >= {"qemu-img", "debootstrap", "dnf", "podman", "kpartx"}


def test_a_distribution_that_is_not_known_gets_debians_name_as_a_clue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distribution, "family", lambda: None)
    assert package_names.package_of("sgdisk") is None
    assert package_names.advice("sgdisk") == "install sgdisk (Debian's package is gdisk)"
    assert package_names.advice("sgdisk", SUSE) == "zypper install gptfdisk"
    monkeypatch.setattr(distribution, "_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
    assert package_names.package_of(package_names.UBUNTU_KEYRING, DEBIAN) is None
    monkeypatch.setattr(distribution, "_os_release", lambda: {"ID": "debian"})
    assert package_names.package_of(package_names.UBUNTU_KEYRING, DEBIAN) == "ubuntu-keyring"
    assert package_names.advice("qemu-system-x86_64", RHEL).startswith("this distribution has no QEMU")


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="asks apt")
def test_apt_knows_the_packages_of_this_machine() -> None:
    here = distribution.family()
    if here not in (DEBIAN, UBUNTU):
        pytest.skip("not Debian or Ubuntu")
    names = sorted({name for program in PACKAGES[here] if (name := package_names.package_of(program))})
    known = process.run(["apt-cache", "pkgnames"]).output.split()
    if len(known) < MANY:
        pytest.skip("apt has no lists: apt-get update")
    assert [name for name in names if name not in known] == []
