"""The JSON Schemas of what commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from pytest_dibctl.cli.results import images, machine, repository
from pytest_dibctl.config.schema import DIALECT
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system.suggestions import did_you_mean

DOCUMENTS: Final[Mapping[str, Any]] = {
    "init": repository.Repository,
    "build": machine.Build,
    "status": list[images.Status],
    "validate": machine.Validation,
    "doctor": list[machine.Check],
    "upload": list[images.Upload],
    "mark-obsolete": list[images.MarkedImage],
    "rotate": list[images.RotatedImage],
    "rotate-single": list[images.RotatedImage],
    "list": list[images.Listing],
    "transfer": images.Transfer,
    "diff": images.Comparison,
    "matrix": list[repository.Job],
    "merge": repository.Merge,
    "cleanup": list[machine.RemovedResource],
    "cache": list[machine.KeptTree | machine.ReadyState],
}
"""The whole document of each command that prints one, in the order of ``dibctl --help``."""


def schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of a command's output; raises DibctlError for a command without JSON output."""
    if command not in DOCUMENTS:
        there = f"there is of {', '.join(DOCUMENTS)}"
        hint = did_you_mean(command, DOCUMENTS) or there
        raise DibctlError(f"there is no JSON of `dibctl {command}`", hint=hint)
    made = TypeAdapter(DOCUMENTS[command]).json_schema(schema_generator=_Generator)
    return {"$schema": DIALECT, "title": f"dibctl {command} --json", **made}


class _Generator(GenerateJsonSchema):
    """Leaves out the titles of keys, which say what the keys say."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 -- pydantic's signature
        return False
