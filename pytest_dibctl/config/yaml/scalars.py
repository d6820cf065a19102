"""YAML scalars that remember how they were written.

YAML turns ``12.10`` into 12.1, ``010`` into 8 and ``no`` into false. Where a number or a flag is wanted
that is right; where text is wanted (environment variables, image properties, passwords) it is not what the
user wrote. These types carry both.
"""

from __future__ import annotations

from typing import Any, Self

MAX_SHOWN = 40
"""Characters of a wrong value that an error message repeats."""


class Integer(int):
    """A whole number and its spelling."""

    text: str

    def __new__(cls, value: int, text: str) -> Self:
        self = super().__new__(cls, value)
        self.text = text
        return self


class Float(float):
    """A number and its spelling."""

    text: str

    def __new__(cls, value: float, text: str) -> Self:
        self = super().__new__(cls, value)
        self.text = text
        return self


class Flag:
    """A boolean and its spelling; not a number, so that no port can be ``yes``."""

    __slots__ = ("text", "value")

    def __init__(self, text: str, *, value: bool) -> None:
        self.text = text
        self.value = value

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if isinstance(other, Flag) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.value)


def as_text(value: Any) -> Any:
    """Return a scalar as it was written; anything else unchanged."""
    if isinstance(value, Integer | Float | Flag):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return value


def as_bool(value: Any) -> Any:
    """Return the boolean of a Flag; anything else unchanged."""
    return value.value if isinstance(value, Flag) else value


def describe(value: Any) -> str:
    """Return what a wrong value is, in words: "the number 22", "a list", "nothing"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | Flag):
        return f"`{as_text(value)}`"
    if isinstance(value, int | float):
        return f"the number {_short(as_text(value))}"
    if isinstance(value, str):
        return f"the text {_short(value)!r}"
    return "a mapping" if isinstance(value, dict) else "a list"


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
