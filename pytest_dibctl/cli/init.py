"""``dibctl init``: a repository of images that works at once."""

from __future__ import annotations

import argparse
import os
import shlex
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import print_result
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.repository import Repository

DISTRIBUTIONS = ("debian", "ubuntu", "rocky", "fedora", "centos", "opensuse")
SERVICES = ("github", "gitlab", "none")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder to write to (the current directory)",
    )
    parser.add_argument(
        "--distribution",
        action="append",
        choices=DISTRIBUTIONS,
        help="the image's distribution (debian); repeatable, for an image of each",
    )
    parser.add_argument(
        "--ci",
        type=_services,
        default=("github", "gitlab"),
        metavar="SERVICES",
        help="write CI for github, gitlab, both (github,gitlab: the default) or none",
    )
    add_json(parser)


def _services(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in SERVICES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(SERVICES)}")
    if "none" in names and len(names) > 1:
        raise argparse.ArgumentTypeError("none excludes the others")
    return () if names == ("none",) else names


def _run(arguments: Arguments) -> int:
    """Write the missing files; the exit code is 0 also when none was missing."""
    from pytest_dibctl.repository import skeleton

    labels = arguments.distribution or [DISTRIBUTIONS[0]]
    directory: Path = arguments.directory
    if directory.exists() and not directory.is_dir():
        raise DibctlError(f"{directory} is not a folder")
    written = skeleton.write(directory, skeleton.new_files(labels, arguments.ci))
    data: Repository = {
        "directory": str(directory),
        "written": list(written.written),
        "kept": dict(written.kept),
    }
    lines = [
        *(f"wrote  {name}" for name in written.written),
        *(f"kept   {name} ({reason})" for name, reason in written.kept.items()),
        "",
        *_next(directory, labels if "images.yaml" in written.written else []),
    ]
    print_result(arguments, data, lines)
    return ExitCode.OK


def _next(directory: Path, labels: list[str]) -> list[str]:
    change_directory = f"cd {shlex.quote(str(directory))} && " if directory != Path() else ""
    if not labels:
        return [
            "Next, check the images that were there before:",
            "",
            f"    {change_directory}dibctl validate",
        ]
    # sudo has a PATH of its own, without this Python's environment.
    pytest = "pytest" if os.geteuid() == 0 else f"sudo {shlex.quote(sysconfig.get_path('scripts'))}/pytest"
    return [
        "Next, build the image, boot it and run its tests (as root; `dibctl doctor` says what is missing):",
        "",
        f"    {change_directory}{pytest} --dib-image={labels[0]}",
    ]


COMMAND = Command(
    name="init",
    help="Write a repository of images with tests and CI that works at once; replace no file.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl init images",
        "dibctl init --distribution ubuntu --ci github images",
    ),
)
