"""YAML scalars that remember how they were written.

YAML turns ``12.10`` into 12.1, ``010`` into 8 and ``no`` into false. Where a number or a flag is wanted
that is right; where text is wanted (environment variables, image properties, passwords) it is not what the
user wrote. These types carry both.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Self

MAX_SHOWN = 40
"""Characters of a wrong value that an error message repeats."""

_DECIMAL = re.compile(r"[-+]?[0-9]+")
_HEX_OR_OCTAL = re.compile(r"[-+]?0(x[0-9a-fA-F]+|o?[0-7]+|b[01]+)")
_BOOLEANS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


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


def scalar(kind: str, text: str) -> Integer | Float | Flag | str | None:
    """Return the value of ``text``, which YAML takes for a ``kind`` ("int", "bool", "null", ...).

    Text that its kind does not fit stays text. So do dates and numbers in base 60 (``22:30``): no key of
    the files wants either.
    """
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in _BOOLEANS:
        return Flag(text, value=_BOOLEANS[text.lower()])
    return _number(kind, text.replace("_", ""), text) if kind in {"int", "float"} else text


def _number(kind: str, digits: str, text: str) -> Integer | Float | str:
    with contextlib.suppress(ValueError):  # also raised for more digits than Python converts
        if kind == "int" and _HEX_OR_OCTAL.fullmatch(digits):
            return Integer(int(_python_octal(digits), 0), text)
        if kind == "int" and _DECIMAL.fullmatch(digits):
            return Integer(int(digits), text)
        if kind == "float" and ":" not in digits:
            return Float(float(digits.lower().replace(".inf", "inf").replace(".nan", "nan")), text)
    return text


def _python_octal(digits: str) -> str:
    """Return Python's ``0o17`` for YAML 1.1's ``017``."""
    return re.sub(r"^([-+]?)0o?(?=[0-7])", r"\g<1>0o", digits)


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
