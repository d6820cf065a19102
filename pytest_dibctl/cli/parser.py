"""The parser of a command line, which says what a wrong word may have meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_dibctl.system.suggestions import did_you_mean


class Parser(argparse.ArgumentParser):
    """Names the commands and values near an unknown one; other errors are argparse's own."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Before Python 3.14 no public place is for this, and its `suggest_on_error` lists all choices too.
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            if not near:
                raise
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {near}") from None


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line as ``parse_args`` does, and name the options near an unknown one.

    The namespace's ``parser`` is the command's own.
    """
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        known = [*options(arguments.parser)]
        near = dict.fromkeys(text for name in names if (text := did_you_mean(name, known, prefix="--")))
        arguments.parser.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *near]))
    return arguments


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the names of a parser's options."""
    for action in parser._actions:  # noqa: SLF001 -- argparse has no other way to them
        yield from action.option_strings
