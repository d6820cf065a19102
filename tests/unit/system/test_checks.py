"""What this machine must have, looked at one by one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from pytest_dibctl.system import checks


@pytest.mark.parametrize(
    ("program", "fix"),
    [
        ("/home/me/my venv/bin/pytest", "run it as root: sudo '/home/me/my venv/bin/pytest'"),
        (".venv/bin/dibctl", "run it as root: sudo .venv/bin/dibctl"),
        ("/usr/lib/python3/pytest/__main__.py", "run it as root, for example with sudo"),
        ("-c", "run it as root, for example with sudo"),
    ],
)
def test_without_root_the_build_is_refused(monkeypatch: pytest.MonkeyPatch, program: str, fix: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [program])
    check = checks.root()
    assert (check.ok, check.fix) == (False, fix)


def test_root_of_an_unprivileged_container_is_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(checks, "_capable", lambda bit: bit != 21)
    check = checks.root()
    assert not check.ok
    assert "sys_admin" in check.detail


@pytest.mark.parametrize("check", [checks.loop_devices, checks.device_mapper])
def test_a_device_that_a_user_may_not_open_is_not_blamed(
    check: Callable[[], checks.Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(checks, "_lines", lambda _path: [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    unseen = check()
    assert not unseen.ok
    assert unseen.detail.startswith("cannot be looked at without root")
    assert "modprobe" not in unseen.fix
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "modprobe" in check().fix


def test_a_working_kernel_is_not_complained_about() -> None:
    assert checks.filesystem("proc").ok
    assert not checks.filesystem("no-such-filesystem").ok
    assert checks._capable(0) == (os.geteuid() == 0)


def test_missing_packages_are_listed_once_and_sorted(only: Callable[..., None]) -> None:
    only("losetup")
    looked_for = [checks.tool(name) for name in ("sgdisk", "mount", "losetup", "lsattr", "mkfs.ext4")]
    assert checks.missing_packages(looked_for) == ["e2fsprogs", "gdisk", "mount"]
