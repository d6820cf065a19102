"""``dibctl build``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_json, say
from pytest_dibctl.errors import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write this file instead of `filename`"
    )
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Arguments) -> int:
    """``dibctl build``: exits with disk-image-create's own code when that fails."""
    from pytest_dibctl.build import builder

    image = load(arguments).image(arguments.image)
    outcome = builder.build(
        image,
        policy="always" if arguments.force else "auto",
        output=arguments.output,
        cwd=Path.cwd(),
        progress=lambda line: say(f"{image.label}: {line}"),
    )
    if arguments.json:
        print_json(
            {
                "image": image.label,
                "file": str(outcome.artifact.path),
                "size": outcome.artifact.size,
                "sha512": outcome.artifact.sha512,
                "built": outcome.built,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 1),
                "phases": {name: round(seconds, 1) for name, seconds in outcome.phases.items()},
            },
        )
        return ExitCode.OK
    verb = f"built in {outcome.seconds:.0f} s" if outcome.built else "up to date"
    print(f"{outcome.artifact.path}: {verb} ({outcome.reason})")
    return ExitCode.OK
