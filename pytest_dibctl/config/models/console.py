"""``tests.console``: what may go wrong on a console, and in a journal, without failing the image."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic.json_schema import WithJsonSchema

from pytest_dibctl.config.models.key import Key
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
        Key(
            "A regular expression, searched in a line of the console or journal. A line that "
            "matches is no trouble.",
            example="'WARNING: CPU: \\d+ .* at drivers/gpu'",
        ),
    ]
    reason: Annotated[
        NonEmpty, Key("Why this line is no trouble. Reports show it.", example="the driver of QEMU's screen")
    ]


class ConsoleWatch(Section):
    """Whether warnings of the kernel, crashes and failed units in a boot that succeeds fail the image."""

    strict: Annotated[
        Flag, Key("Fail the image if its console, journal or units show trouble that `allow` does not list.")
    ] = False
    allow: Annotated[
        tuple[AllowedTrouble, ...], Key("Lines that are no trouble, each with its reason.", default="none")
    ] = ()
