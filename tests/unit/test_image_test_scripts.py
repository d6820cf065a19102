"""The shell code that the generic tests run in guests, run here: by several shells, on files made up."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from testinfra.backend.base import CommandResult
from testinfra.backend.local import LocalBackend
from testinfra.host import Host

FOLDER = Path(__file__).parents[2] / "image_tests"
GUESTS = ("dash", "bash", "busybox", "tcsh", "fish")
"""Login shells; the second shell is busybox's in a guest with that, and else the one of this machine."""
APPLETS = ("sh", "cat", "grep", "id", "ip", "readlink", "test")
"""What a guest with busybox has of it."""


def load(name: str) -> ModuleType:
    """Return a file of the generic tests as a module."""
    spec = importlib.util.spec_from_file_location(f"generic_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CLOCK = load("test_clock")


class Guest(LocalBackend):  # type: ignore[misc]  # testinfra is not typed here
    """This machine as a guest with a certain login shell, and programs of its own before others."""

    def __init__(self, login: str, programs: Path) -> None:
        super().__init__("local")
        self.login, self.programs = login, programs
        if login == "busybox":
            for applet in APPLETS:
                (programs / applet).symlink_to(str(shutil.which("busybox")))

    def program(self, name: str, script: str) -> None:
        """Put a program into the guest; skip the test where the shell has one of that name in it."""
        if self.login == "busybox" and name in APPLETS:
            pytest.skip(f"busybox's shell has {name} in it")
        file = self.programs / name
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def run(self, command: str, *args: str, **_options: Any) -> CommandResult:
        """Run a command as testinfra would over ssh."""
        line = self.get_command(command, *args)
        done = self.login_shell(line)
        return self.result(done.returncode, self.encode(line), done.stdout, done.stderr)

    def login_shell(self, line: str) -> subprocess.CompletedProcess[bytes]:
        """Run a line as sshd would."""
        shell = self.programs / "sh" if self.login == "busybox" else self.login
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(
            [shell, "-c", line], capture_output=True, check=False, env={**os.environ, "PATH": path}
        )


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    programs = tmp_path / "programs"
    programs.mkdir()
    return Guest(request.param, programs)


IS_ENABLED = """
for unit in "$@"; do
    case $unit in
        is-enabled) ;;
        chronyd*) echo enabled ;;
        chrony*) echo alias; exit 1 ;;
        *) echo "Failed to get unit file state" >&2; exit 1 ;;
    esac
done"""
"""As systemd does before version 254: it ends at the first unit that is missing."""


def test_a_time_service_counts_though_others_are_missing(guest: Guest) -> None:
    guest.program("systemctl", IS_ENABLED)
    CLOCK.test_time_service_starts_at_boot(Host(guest))
    guest.program("systemctl", "echo masked; exit 1")
    with pytest.raises(AssertionError, match="systemd-timesyncd masked"):
        CLOCK.test_time_service_starts_at_boot(Host(guest))
