"""``dibctl doctor``: checks the requirements of builds and boots on this machine, of all images or one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_result, say
from pytest_dibctl.errors import ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results import machine
    from pytest_dibctl.system.checks import Check


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", nargs="?", metavar="IMAGE", help="label in images.yaml: check only the needs of this image"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="install the missing packages with apt (needs root); on other distributions, print the command",
    )
    add_json(parser, "print the checks as JSON")


def _run(arguments: Arguments) -> int:
    """Check the machine; the exit code is 1 while something required is missing."""
    from pytest_dibctl.system import packages
    from pytest_dibctl.system.checks import missing_packages

    examine = _of_image(arguments) if arguments.image else _of_all
    checks = examine()
    if arguments.install:
        missing = missing_packages(checks)
        if missing:
            packages.install(missing, progress=say)
            checks = examine()
    print_result(arguments, [_data(check) for check in checks], _lines(checks))
    return ExitCode.OK if all(check.ok or not check.required for check in checks) else ExitCode.UNSPECIFIED


def _of_all() -> list[Check]:
    from pytest_dibctl.run import doctor

    return doctor.examine()


def _of_image(arguments: Arguments) -> Callable[[], list[Check]]:
    from pytest_dibctl.run import doctor

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    environment = catalog.environment_for(image)
    return lambda: doctor.examine_image(image, environment, Path.cwd())


def _data(check: Check) -> machine.Check:
    return {
        "name": check.name,
        "ok": check.ok,
        "detail": check.detail,
        "fix": check.fix,
        "package": check.package,
        "required": check.required,
    }


def _lines(checks: Sequence[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "no"
        yield f"{mark:<8} {check.name:<{width}}  {check.detail}"
        if check.fix and not check.ok:
            yield f"{'':<8} {'':<{width}}  -> {check.fix}"
    yield _verdict(checks)


def _verdict(checks: Sequence[Check]) -> str:
    """Say what the marks come to: a "no" alone looks like a failure."""
    missing = sum(check.required and not check.ok for check in checks)
    if missing:
        return f"{missing} required {'is' if missing == 1 else 'are'} MISSING; do what the lines with -> say"
    if all(check.ok for check in checks):
        return "nothing is missing"
    return (
        "nothing required is missing; what is marked `no` is needed by some images only, or makes runs faster"
    )


COMMAND = Command(
    name="doctor",
    help="Check whether this machine can build and boot images, or one image.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl doctor",
        "dibctl doctor --install",
    ),
)
