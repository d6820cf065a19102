"""Installing Debian packages."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.errors import PreflightError
from pytest_dibctl.system import packages, process


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
    assert caught.value.hint == "as root: apt-get install gdisk"


def test_packages_need_apt(only: Callable[..., None]) -> None:
    only()
    with pytest.raises(PreflightError, match="no apt-get here to install gdisk"):
        packages.install(["gdisk"], progress=lambda _line: None)
