"""Problems of a file: a problem has a place, and reading goes on; an UnreadableError ends the reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NoReturn

from pytest_dibctl.config.yaml.marks import Mark
from pytest_dibctl.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, at one place.

    ``display_name`` is the file's name in messages; ``key`` is dotted, and empty where no key is concerned.
    ``about`` is the description of the key that should stand there, empty where that is not known.
    """

    display_name: str
    mark: Mark | None
    key: str
    message: str
    about: str = ""

    def __str__(self) -> str:
        place = f"{self.display_name}:{self.mark.line}:{self.mark.column}" if self.mark else self.display_name
        return ": ".join(part for part in (place, self.key, self.message) if part)


FEW = 3
"""As many descriptions of keys are read as a hint; more would hide the errors."""


class UnreadableError(Exception):
    """The rest of the file cannot be read. ``problem`` says why; it never leaves this package."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def refuse(display_name: str, message: str, mark: Mark | None = None) -> NoReturn:
    """Raise UnreadableError; ``display_name`` names the file in messages."""
    raise UnreadableError(Problem(display_name=display_name, mark=mark, key="", message=message)) from None


def in_file_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return ``problems`` by line and column; those without a place come first."""

    def place(problem: Problem) -> tuple[int, int]:
        return (problem.mark.line, problem.mark.column) if problem.mark else (0, 0)

    return tuple(sorted(problems, key=place))


def config_error(problems: Sequence[Problem], *, hint: str | None = None) -> ConfigError:
    """Return one error that lists all ``problems``, of which there is at least one.

    Without a ``hint`` it is what the keys mean, if they are few enough to be read.
    """
    descriptions = dict.fromkeys(problem.about for problem in problems if problem.about)
    if hint is None and 0 < len(descriptions) <= FEW:
        hint = "\n".join(descriptions)
    if len(problems) == 1:
        return ConfigError(str(problems[0]), hint=hint)
    lines = "\n".join(str(problem) for problem in problems)
    return ConfigError(f"the configuration has {len(problems)} errors:\n{lines}", hint=hint)
