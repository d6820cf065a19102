"""What the commands of ``dibctl`` have in common: how they are added, and shared options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Arguments = argparse.Namespace


class AddCommand(Protocol):
    """Adds a subcommand and returns its parser."""

    def __call__(self, name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser: ...


def add_boot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="use this image file instead of `filename`"
    )
    parser.add_argument(
        "--environment",
        "--force-test-env",
        metavar="LABEL",
        help="test environment to use instead of the one the image names",
    )
    parser.add_argument(
        "--build", choices=("auto", "always", "never"), default="auto", help="when to build (auto)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
