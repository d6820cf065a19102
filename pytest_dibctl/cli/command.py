"""The type of a command of ``dibctl``, and common parts of several commands: options and exit codes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.tables import Column

Arguments = argparse.Namespace
FORMATS = ("table", "json", "csv", "value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of ``dibctl``.

    ``help`` is one sentence, ``examples`` are command lines that the help shows. ``add_options`` adds the
    command's own arguments to its parser. ``run`` gets the parsed ones, prints the result and returns the
    exit code; a DibctlError that it raises is shown and gives the exit code too.
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], int]
    examples: tuple[str, ...] = ()


def add_boot_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that boot an image."""
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="use this image file instead of `filename`"
    )
    parser.add_argument(
        "--environment",
        "--force-test-env",
        metavar="LABEL",
        help="test environment to use instead of the image's",
    )
    parser.add_argument(
        "--build", choices=("auto", "always", "never"), default="auto", help="when to build (auto)"
    )


def add_json(parser: argparse.ArgumentParser, text: str = "print the result as JSON") -> None:
    """Add ``--json``, which ``output.print_result`` obeys; ``text`` is its help."""
    parser.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        default="table",
        help=text,
    )


def add_format(parser: argparse.ArgumentParser, columns: Iterable[Column], what: str = "the result") -> None:
    """Add the options of a command with a table, which ``output.print_result`` obeys; ``what`` is printed.

    A column that the table does not have is refused here, before the command does anything.
    """
    names = [column.name for column in columns]
    parser.add_argument(
        "-f", "--format", choices=FORMATS, default="table", help=f"how to print {what} (table)"
    )
    parser.add_argument(
        "-c",
        "--column",
        dest="columns",
        action="append",
        type=str.lower,
        choices=names,
        metavar="COLUMN",
        help=f"only this column; repeatable; there are: {', '.join(names)}",
    )
    add_json(parser, "the same as -f json")


def count(text: str) -> int:
    """Return the number that an option gives; raises ArgumentTypeError for anything but digits."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def first_exit_code(errors: Iterable[DibctlError | None]) -> int:
    """Return the exit code of the first error, 0 if there is none."""
    return next((int(error.exit_code) for error in errors if error is not None), int(ExitCode.OK))
