"""``dibctl doctor``: what this machine has and lacks for building and booting images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import print_result, say
from pytest_dibctl.errors import ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.system.checks import Check


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--install", action="store_true", help="install the missing Debian packages (needs root)"
    )
    add_json(parser, "the checks")


def _run(arguments: Arguments) -> int:
    """Check the machine; the exit code is 1 while a required tool is missing."""
    from pytest_dibctl.run import doctor
    from pytest_dibctl.system import packages
    from pytest_dibctl.system.checks import missing_packages

    checks = doctor.examine()
    if arguments.install:
        missing = missing_packages(checks)
        if missing:
            packages.install(missing, progress=say)
            checks = doctor.examine()
    print_result(arguments, [check.as_dict() for check in checks], _lines(checks))
    return ExitCode.OK if all(check.ok or not check.required for check in checks) else ExitCode.UNSPECIFIED


def _lines(checks: Sequence[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "no"
        yield f"{mark:<8} {check.name:<{width}}  {check.detail}"
        if check.fix and not check.ok:
            yield f"{'':<8} {'':<{width}}  -> {check.fix}"


COMMAND = Command(
    name="doctor",
    help="Check whether this machine can build and boot images.",
    add_options=_add_options,
    run=_run,
)
