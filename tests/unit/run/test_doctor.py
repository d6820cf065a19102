"""All that building and booting can need is looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_dibctl.build import host_programs, preflight
from pytest_dibctl.clouds.nspawn import preflight as containers
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.guards import namespace
from pytest_dibctl.run import doctor
from pytest_dibctl.system.checks import Check
from pytest_dibctl.system.distribution import FAMILIES, Family
from pytest_dibctl.system.package_names import ELSEWHERE, PACKAGES
from tests.support import building


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_tool_that_is_asked_for_has_a_package_or_a_way_out(family: Family) -> None:
    asked = {
        *namespace.TOOLS,
        *preflight.BUILD_TOOLS,
        *preflight.PARTITION_TOOLS,
        *preflight.EFI_TOOLS,
        *doctor.GUEST_TOOLS,
        *containers.TOOLS,
        *preflight.build_tools(building.recipe("block-device-efi-lvm", types=("squashfs", "docker"))),
        *(program for programs in host_programs.CALLED.values() for program in programs),
        doctor._qemu(),
    }
    lacking = asked - PACKAGES[family].keys() - ELSEWHERE.keys()
    assert lacking == ({"docker", "zypper"} if family.name == "RHEL" else set())


def test_the_doctor_looks_at_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = Check(name="KVM", ok=False, detail="none", required=False)
    monkeypatch.setattr(doctor, "_kvm", lambda: absent)
    checks = doctor.examine(tmp_path)
    examined = {check.name: check for check in checks}
    programs = [check.name for check in checks if check.name in PACKAGES[FAMILIES[0]]]
    assert len(programs) == len(set(programs))
    assert {
        "disk-image-create",
        "debootstrap",
        "ssh",
        "kpartx",
        "free space",
        "device-mapper",
        "KVM",
        "systemd-nspawn",
        "containers",
    } <= examined.keys()
    assert not examined["kpartx"].required
    assert not examined["systemd-nspawn"].required
    assert not examined["containers"].required
    assert examined["debootstrap"].required
    assert examined["ssh"].package == "openssh-client"


def test_one_image_is_asked_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of the image's own elements and of its own engine, and no others."""
    monkeypatch.setattr(doctor, "_kvm", lambda: Check(name="KVM", ok=True, detail="", required=False))
    image = building.entry(tmp_path, dib={"elements": ["opensuse-minimal"]}, tests={})
    local = Entry(label="local", settings=TestEnvironment.model_validate({"qemu": {}}), path=tmp_path)
    names = {check.name for check in doctor.examine_image(image, local, tmp_path)}
    assert {"zypper", "mkfs.ext4", "ssh", "KVM"} <= names
    assert not {"debootstrap", "podman", "systemd-nspawn", "qemu-storage-daemon"} & names
    with_files = building.entry(tmp_path, tests={"tests_list": [{"image": "x.py"}]})
    names = {check.name for check in doctor.examine_image(with_files, local, tmp_path)}
    assert "qemu-storage-daemon" in names
    assert "disk-image-create" not in names


def test_what_works_without_root_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not doctor.without_root()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    works, does_not = doctor.without_root()
    assert "--dib-input" in works.detail
    assert (does_not.ok, does_not.required) == (False, False)
    assert "containers" in does_not.detail
