"""JSON Schema of the three files, for editors; generated from the models, so that it cannot lag behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_dibctl.config.kinds import KINDS, NOUNS, Kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SHIPPED = Path(__file__).with_name("schemas")
"""The folder of the files that are shipped, for editors; a test compares them with the models."""


def schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of ``images.yaml``, ``test.yaml`` or ``upload.yaml``."""
    entry = KINDS[kind].model_json_schema(ref_template="#/$defs/{model}")
    definitions = entry.pop("$defs", {})
    definitions[KINDS[kind].__name__] = entry
    return {
        "$schema": DIALECT,
        "title": f"{kind}.yaml of dibctl",
        "description": f"Labels, each with one {NOUNS[kind]} below it.",
        "type": ["object", "null"],
        "additionalProperties": {"$ref": f"#/$defs/{KINDS[kind].__name__}"},
        "$defs": dict(sorted(definitions.items())),
    }


def render(kind: Kind) -> str:
    """Return the schema as the text of the shipped file."""
    return json.dumps(schema(kind), indent=2) + "\n"


def path(kind: Kind) -> Path:
    """Return where the shipped file is."""
    return SHIPPED / f"{kind}.json"
