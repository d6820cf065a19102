"""The two base classes of every section of a file.

Sections are frozen and go to the rest of the library as they are: no dict is passed on. A key that both an
image and an environment may set has the default None ("not set here"); ``config.merge`` alone decides what
counts then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pytest_dibctl.config.models.values import broken_rule

Rule = tuple[str, str]
"""The key at which a broken rule is reported (empty: the section itself), and the message."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, nothing changes after loading."""

    # A run needs two or three of the models: the validators of each are built when it is first used.
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True, defer_build=True
    )

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return every key that this section may hold."""
        return tuple(cls.model_fields)


class Ruled(Section):
    """A section whose keys depend on one another.

    The rules are checked on the data as the file holds it, and also when a value is invalid, so that one
    error message can list all errors of a file.
    """

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:  # noqa: ARG003 -- for subclasses
        """Yield the rules that ``data``, not validated yet and under the file's keys, breaks."""
        yield from ()

    @classmethod
    def rename_keys(cls, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return ``data`` under the names of the fields, and for each field the key that the file uses."""
        return data, {}

    def remember_keys(self, key_of_field: Mapping[str, str]) -> None:
        """Keep the key that the file uses for each field."""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        errors = [
            InitErrorDetails(type=broken_rule(message), loc=(key,) if key else (), input=None)
            for key, message in cls.broken_rules(data)
        ]
        fields, key_of_field = cls.rename_keys(data)
        try:
            section = handler(fields)
        except ValidationError as error:
            errors = [*_at_keys_of_file(error, key_of_field), *errors]
        else:
            section.remember_keys(key_of_field)
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)
        return section


def _at_keys_of_file(error: ValidationError, key_of_field: Mapping[str, str]) -> Iterator[InitErrorDetails]:
    """Yield the details of ``error``, ready to be raised again, at the keys that the file uses."""
    for details in error.errors(include_url=False):
        location = details["loc"]
        if location:
            location = (key_of_field.get(str(location[0]), location[0]), *location[1:])
        context = {name: str(value) for name, value in details.get("ctx", {}).items()}
        restated = PydanticCustomError(details["type"], "{message}", {**context, "message": details["msg"]})
        yield InitErrorDetails(type=restated, loc=location, input=details["input"])


def given(data: Mapping[str, Any], *keys: str) -> list[str]:
    """Return those of ``keys`` that have a value in ``data``; a key without a value counts as absent."""
    return [key for key in keys if data.get(key) is not None]
