"""``dibctl doctor``: what this machine has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.output import print_json, say
from pytest_dibctl.errors import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--install", action="store_true", help="install the missing Debian packages (needs root)"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(arguments: Arguments) -> int:
    """``dibctl doctor``: exits 1 while something needed is missing."""
    from pytest_dibctl.build import preflight

    checks = preflight.doctor()
    if arguments.install:
        missing = preflight.missing_packages(checks)
        if missing:
            preflight.install(missing, progress=say)
            checks = preflight.doctor()
    if arguments.json:
        print_json([check.as_dict() for check in checks])
    else:
        _print_checks(checks)
    return ExitCode.OK if all(check.ok or not check.required for check in checks) else ExitCode.UNSPECIFIED


def _print_checks(checks: Sequence[Any]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "no"
        print(f"{mark:<8} {check.name:<{width}}  {check.detail}")
        if check.fix and not check.ok:
            print(f"{'':<8} {'':<{width}}  -> {check.fix}")
