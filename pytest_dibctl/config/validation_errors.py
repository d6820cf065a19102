"""pydantic's errors in the words of a YAML file: keys, lists, text and numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from pytest_dibctl.config.models.key import key_of
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.yaml.marks import dotted, nearest
from pytest_dibctl.config.yaml.problems import Problem
from pytest_dibctl.config.yaml.scalars import describe
from pytest_dibctl.config.yaml.source import Document
from pytest_dibctl.system.suggestions import near_names, suggestion

_Details = Mapping[str, Any]
"""One error as pydantic gives it: ``type``, ``loc``, ``msg``, ``input`` and, for most types, ``ctx``."""
_Phrase = Callable[[_Details], str]
"""Says what is wrong, for one type of error."""


def problems(
    error: ValidationError, model: type[Section], label: str, document: Document
) -> Iterator[Problem]:
    """Yield one problem for each detail of ``error``, at its place in the file.

    ``error`` comes from the validation, by ``model``, of the entry that ``document`` has under ``label``.
    """
    for details in error.errors(include_url=False):
        path = [part for part in details["loc"] if part != "[key]"]
        key = dotted([label, *path])
        yield Problem(
            display_name=document.display_name,
            mark=nearest(document.marks, key),
            key=key,
            message=_message(details, model, path),
            about=_about(details, model, path),
        )


def _about(details: _Details, model: type[Section], path: list[str | int]) -> str:
    """Return what the key means that is missing, has a wrong value or was likely meant; else nothing."""
    if details["type"] == "broken_rule" or not path:
        return ""
    section = _section(model, path[:-1])
    name = str(path[-1])
    if details["type"] == "extra_forbidden":
        name = next(iter(near_names(name, section.known_keys())), "")
    field = section.model_fields.get(name)
    key = key_of(field) if field is not None else None
    return f"{name}: {key.text}" if key is not None else ""


def _message(details: _Details, model: type[Section], path: list[str | int]) -> str:
    if details["type"] == "extra_forbidden":
        known = _section(model, path[:-1]).known_keys()
        near = suggestion(str(path[-1]), known, listed="known keys:")
        return f"unknown key; {near}" if near else "unknown key"
    if phrase := _MESSAGES.get(details["type"]):
        return phrase(details)
    return str(details.get("ctx", {}).get("message", details["msg"]))


def _section(model: type[Section], path: Iterable[str | int]) -> type[Section]:
    """Return the model of the section that ``path``, which begins in ``model``, leads to."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_sections(field.annotation), model)
    return model


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Yield the models that a field's annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _expected(expected: str, details: _Details) -> str:
    value = details["input"]
    looks_quoted = isinstance(value, str) and (
        ("number" in expected and value.strip().lstrip("+-").isdigit())
        or ("true" in expected and value.strip().lower() in {"true", "false", "yes", "no", "on", "off"})
    )
    return f"expected {expected}, got {describe(value)}{'; remove the quotes' if looks_quoted else ''}"


def _text(details: _Details) -> str:
    if details["input"] is None:
        return 'expected text, got nothing; write "" for an empty text'
    return _expected("text", details)


def _choice(details: _Details) -> str:
    return _expected(str(details["ctx"]["expected"]).replace("'", ""), details)


def _too_few(details: _Details) -> str:
    number = int(details["ctx"]["min_length"])
    return f"needs at least {number} {'entry' if number == 1 else 'entries'}"


def _always(text: str) -> _Phrase:
    return lambda _details: text


def _expecting(expected: str) -> _Phrase:
    return functools.partial(_expected, expected)


def _limit(words: str, bound: str) -> _Phrase:
    def phrase(details: _Details) -> str:
        limit = str(details["ctx"][bound]).removesuffix(".0")
        return f"must be {words} {limit}, got {describe(details['input'])}"

    return phrase


_A_MAPPING = _expecting("a mapping (indented `key: value` lines)")
_A_LIST = _expecting("a list (lines that start with `- `)")
_WHOLE = _expecting("a whole number")
_MESSAGES: Mapping[str, _Phrase] = {
    "missing": _always("is missing"),
    "string_type": _text,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "float_type": _expecting("a number"),
    "finite_number": _expecting("a finite number"),
    "bool_type": _expecting("true or false"),
    "dict_type": _A_MAPPING,
    "model_type": _A_MAPPING,
    "model_attributes_type": _A_MAPPING,
    "mapping_type": _A_MAPPING,
    "tuple_type": _A_LIST,
    "list_type": _A_LIST,
    "literal_error": _choice,
    "too_short": _too_few,
    "string_too_short": _always("must not be empty"),
    "greater_than_equal": _limit("at least", "ge"),
    "less_than_equal": _limit("at most", "le"),
}
