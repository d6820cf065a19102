"""Types of single values: what the YAML may hold, what Python gets, and what the JSON Schema says of it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, Strict
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from pytest_dibctl.config.yaml.scalars import as_bool, as_text

TEXT_TYPES = ["string", "number", "boolean"]
"""The JSON types that are read as text, as they are spelled in the file."""
UUID = r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
VERSION = r"^\d+(\.\d+){0,2}$"


def broken_rule(message: str) -> PydanticCustomError:
    """Return the error that pydantic reports with exactly ``message`` as its text."""
    return PydanticCustomError("broken_rule", "{message}", {"message": message})


def _without_duplicates(values: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise broken_rule(f"{value!r} is listed twice")
        seen.add(value)
    return values


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator that refuses text unlike ``pattern``; ``expected`` names the right kind of text."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise broken_rule(f"expected {expected}, got {value!r}")
        return value

    return AfterValidator(check)


def _empty_if_none(value: Any) -> Any:
    return {} if value is None else value


EmptyIfNone = BeforeValidator(_empty_if_none)
"""A section whose key stands alone (``glance:``) is the section without keys."""
Unique = AfterValidator(_without_duplicates)
UNIQUE_ITEMS: dict[str, Any] = {"uniqueItems": True}
"""The JSON Schema of a list that is ``Unique``."""

Whole = Annotated[int, Strict()]
Flag = Annotated[bool, BeforeValidator(as_bool), Strict()]
Seconds = Annotated[Whole, Field(ge=0, description="seconds")]
Duration = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False, description="seconds")]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Text = Annotated[str, BeforeValidator(as_text), WithJsonSchema({"type": TEXT_TYPES})]
NonEmpty = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(as_text),
    WithJsonSchema({"type": TEXT_TYPES, "minLength": 1}),
]
Secret = Annotated[
    SecretStr, BeforeValidator(as_text), WithJsonSchema({"type": TEXT_TYPES, "writeOnly": True})
]
Uuid = Annotated[NonEmpty, _matching(UUID, "a uuid"), WithJsonSchema({"type": "string", "pattern": UUID})]
Version = Annotated[
    NonEmpty,
    _matching(VERSION, "a version such as 3.30.0"),
    WithJsonSchema({"type": ["string", "number"], "pattern": VERSION}),
]
VariableName = Annotated[
    NonEmpty, _matching(r"[^=]+", "a variable's name, which has no ="), WithJsonSchema({"type": "string"})
]
Variables = dict[VariableName, Text]
"""Environment variables: each holds the text as the file spells it, ``yes`` and ``010`` included."""
