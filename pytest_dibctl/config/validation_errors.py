"""pydantic's findings in the words of somebody who edits a YAML file."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.yaml.marks import dotted, nearest
from pytest_dibctl.config.yaml.problems import Problem
from pytest_dibctl.config.yaml.scalars import describe
from pytest_dibctl.config.yaml.source import Document

_Found = Mapping[str, Any]
_Say = Callable[[_Found], str]

MANY = 12
"""Known names are listed in full up to this number; above it, only near ones are named."""


def suggestion(wrong: str, known: Iterable[str], *, listed: str) -> str:
    """Return "did you mean 'x'?", or the known names after ``listed``, or nothing."""
    names = sorted(set(known))
    by_lower = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(wrong.lower(), by_lower, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(by_lower[name]) for name in near)}?"
    return f"{listed} {', '.join(names)}" if 0 < len(names) <= MANY else ""


def problems(
    error: ValidationError, model: type[Section], label: str, document: Document
) -> Iterator[Problem]:
    """Yield what ``error``, met in validating the entry ``label``, says, each at its place in the file."""
    for found in error.errors(include_url=False):
        path = [part for part in found["loc"] if part != "[key]"]
        key = dotted([label, *path])
        yield Problem(
            shown=document.shown,
            mark=nearest(document.marks, key),
            key=key,
            message=_message(found, model, path),
        )


def _message(found: _Found, model: type[Section], path: list[str | int]) -> str:
    if found["type"] == "extra_forbidden":
        known = _section(model, path[:-1]).known_keys()
        near = suggestion(str(path[-1]), known, listed="known keys:")
        return f"unknown key; {near}" if near else "unknown key"
    if say := _MESSAGES.get(found["type"]):
        return say(found)
    return str(found.get("ctx", {}).get("message", found["msg"]))


def _section(model: type[Section], path: Iterable[str | int]) -> type[Section]:
    """Return the model of the section that ``path`` leads to."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_sections(field.annotation), model)
    return model


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _expected(what: str, found: _Found) -> str:
    value = found["input"]
    quoted = isinstance(value, str) and (
        ("number" in what and value.strip().lstrip("+-").isdigit())
        or ("true" in what and value.strip().lower() in {"true", "false", "yes", "no", "on", "off"})
    )
    return f"expected {what}, got {describe(value)}{'; remove the quotes' if quoted else ''}"


def _text(found: _Found) -> str:
    if found["input"] is None:
        return 'expected text, got nothing; write "" for an empty text'
    return _expected("text", found)


def _choice(found: _Found) -> str:
    return _expected(str(found["ctx"]["expected"]).replace("'", ""), found)


def _too_few(found: _Found) -> str:
    number = int(found["ctx"]["min_length"])
    return f"needs at least {number} {'entry' if number == 1 else 'entries'}"


def _known(text: str) -> _Say:
    return lambda _found: text


def _kind(what: str) -> _Say:
    return functools.partial(_expected, what)


def _limit(words: str, bound: str) -> _Say:
    def say(found: _Found) -> str:
        limit = str(found["ctx"][bound]).removesuffix(".0")
        return f"must be {words} {limit}, got {describe(found['input'])}"

    return say


_A_MAPPING = _kind("a mapping (indented `key: value` lines)")
_A_LIST = _kind("a list (lines that start with `- `)")
_WHOLE = _kind("a whole number")
_MESSAGES: Mapping[str, _Say] = {
    "missing": _known("is missing"),
    "string_type": _text,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "float_type": _kind("a number"),
    "finite_number": _kind("a finite number"),
    "bool_type": _kind("true or false"),
    "dict_type": _A_MAPPING,
    "model_type": _A_MAPPING,
    "model_attributes_type": _A_MAPPING,
    "mapping_type": _A_MAPPING,
    "tuple_type": _A_LIST,
    "list_type": _A_LIST,
    "literal_error": _choice,
    "too_short": _too_few,
    "string_too_short": _known("must not be empty"),
    "greater_than_equal": _limit("at least", "ge"),
    "less_than_equal": _limit("at most", "le"),
}
