"""``dibctl build``: an image file from its elements."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_result, say
from pytest_dibctl.errors import ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.build.builder import BuildOutcome
    from pytest_dibctl.cli.results import machine


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write this file instead of `filename`"
    )
    parser.add_argument("--force", action="store_true", help="build from nothing, even if nothing changed")
    add_json(parser)


def _run(arguments: Arguments) -> int:
    """Build an image; the exit code is disk-image-create's own when that fails."""
    from pytest_dibctl.build import builder

    image = load(arguments).image(arguments.image)
    outcome = builder.build(
        image,
        policy="always" if arguments.force else "auto",
        output=arguments.output,
        cwd=Path.cwd(),
        progress=lambda line: say(f"{image.label}: {line}"),
    )
    print_result(arguments, _data(image.label, outcome), _lines(outcome))
    return ExitCode.OK


def _data(label: str, outcome: BuildOutcome) -> machine.Build:
    return {
        "image": label,
        "file": str(outcome.artifact.path),
        "size": outcome.artifact.size,
        "sha512": outcome.artifact.sha512,
        "built": outcome.built,
        "reason": outcome.reason,
        "started_after": outcome.started_after,
        "seconds": round(outcome.seconds, 1),
        "phases": {name: round(seconds, 1) for name, seconds in outcome.phases.items()},
    }


def _lines(outcome: BuildOutcome) -> Iterator[str]:
    verb = f"built in {outcome.seconds:.0f} s" if outcome.built else "up to date"
    yield f"{outcome.artifact.path}: {verb} ({outcome.reason})"


COMMAND = Command(
    name="build",
    help="Build an image with diskimage-builder, unless it is up to date.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl build debian",
        "dibctl build debian --force -o out/debian.qcow2",
    ),
)
