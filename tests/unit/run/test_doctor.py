"""All that building and booting can need is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dibctl.build import preflight
from pytest_dibctl.clouds.nspawn import preflight as containers
from pytest_dibctl.guards import namespace
from pytest_dibctl.run import doctor
from pytest_dibctl.system import packages
from pytest_dibctl.system.checks import Check
from tests.support import building


def test_every_tool_that_is_asked_for_has_a_package() -> None:
    asked = {
        *namespace.TOOLS,
        *preflight.BUILD_TOOLS,
        *preflight.PARTITION_TOOLS,
        *preflight.EFI_TOOLS,
        *doctor.GUEST_TOOLS,
        *containers.TOOLS,
        *preflight.build_tools(
            building.recipe("debootstrap", "block-device-efi-lvm", "source-repositories", "cache-url")
        ),
    }
    assert asked <= packages.PACKAGES.keys()


def test_the_doctor_looks_at_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = Check(name="KVM", ok=False, detail="none", required=False)
    monkeypatch.setattr(doctor, "_kvm", lambda: absent)
    examined = {check.name: check for check in doctor.examine(tmp_path)}
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
    assert examined["ssh"].as_dict()["package"] == "openssh-client"
