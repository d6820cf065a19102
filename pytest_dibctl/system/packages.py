"""Installing packages with apt, and hints for other package managers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from pytest_dibctl.errors import CommandError, PreflightError
from pytest_dibctl.system import distribution, process
from pytest_dibctl.system.distribution import DEBIAN
from pytest_dibctl.system.package_names import PACKAGES


def install(packages: Sequence[str], *, progress: Callable[[str], None]) -> None:
    """Install packages of this package's table; ``progress`` gets the lines of apt that tell how far it is.

    Raises PreflightError without root or apt, when apt fails, and for a package that is not in the table.
    """
    if not packages:
        return
    here = distribution.family() or DEBIAN
    if strange := sorted(set(packages) - set(PACKAGES[here].values())):
        raise PreflightError(f"only packages of this tool's own list are installed, not {strange[0]!r}")
    line = distribution.command(packages, here)
    if here.install[0] != "apt-get" or shutil.which("apt-get", path=process.tool_path()) is None:
        raise PreflightError(
            f"there is no apt-get here to install {' '.join(packages)}",
            hint=f"as root: {line}"
            if here.install[0] != "apt-get"
            else "install the programs of these Debian packages with this system's package manager",
        )
    if os.geteuid() != 0:
        raise PreflightError("installing packages needs root", hint=f"as root: {line}")
    progress(f"installing {' '.join(packages)}")
    options = ["--yes", "--no-install-recommends"]
    for argv in (["apt-get", "update"], ["apt-get", "install", *options, *packages]):
        _apt(argv, progress)


def _apt(argv: Sequence[str], progress: Callable[[str], None]) -> None:
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if line.startswith(("Setting up ", "Get:", "Err:", "E: ")):
            progress(line)

    try:
        # An apt of unattended-upgrades may be at work on a fresh machine: wait for it instead of failing.
        environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        waiting = [argv[0], "-o", "DPkg::Lock::Timeout=120", *argv[1:]]
        result = process.run(waiting, env=environment, check=False, on_line=keep)
    except CommandError as error:
        raise PreflightError(error.message, hint=error.hint) from None
    if result.returncode != 0:
        errors = [line for line in lines if line.startswith(("E:", "Err:"))] or lines[-5:]
        raise PreflightError(
            f"{' '.join(argv)} {process.describe_exit(result.returncode)}"
            + "".join(f"\n  {line}" for line in errors),
            hint="see whether this machine's apt sources can be reached",
        )
