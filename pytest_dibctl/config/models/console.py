"""``tests.console``: what may go wrong on a console, and in a journal, without failing the image."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.json_schema import WithJsonSchema

from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.values import Flag, NonEmpty, broken_rule


def _compilable(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise broken_rule(f"{value!r} is no regular expression: {error}") from None
    return value


class AllowedTrouble(Section):
    """A line that is no trouble, and why."""

    pattern: Annotated[
        NonEmpty,
        AfterValidator(_compilable),
        WithJsonSchema({"type": "string", "minLength": 1, "format": "regex"}),
        Field(description="regular expression, searched in the line"),
    ]
    reason: Annotated[NonEmpty, Field(description="why this line is no trouble; reports show it")]


class ConsoleWatch(Section):
    """What becomes of a kernel's warnings, crashes and failed units in a boot that succeeds."""

    strict: Annotated[Flag, Field(description="fail the image for what is found and not allowed")] = False
    allow: tuple[AllowedTrouble, ...] = ()
