"""The meaning of a key of the files, said once for editors, error messages and the reference."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import yaml
from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

LARGER: Final = "the larger counts"
OF_IMAGE: Final = "the image's counts"
OF_ENVIRONMENT: Final = "the environment's counts"
JOINED: Final = "both count"


@dataclasses.dataclass(frozen=True)
class Key:
    """The description of a key, as the last item of its field's ``Annotated``.

    ``meaning`` is one sentence or more. ``default`` says what counts where the key is left out, if the
    model's own default does not say it. ``merge`` says what counts if an image and its environment both
    have the key. ``example`` is a value in YAML.
    """

    meaning: str
    _: dataclasses.KW_ONLY
    unit: str | None = None
    default: str | None = None
    merge: str | None = None
    example: str | None = None

    @property
    def text(self) -> str:
        """The whole description, as an editor shows it."""
        parts = (
            self.meaning,
            self.unit and f"Unit: {self.unit}.",
            self.default and f"Default: {self.default}.",
            self.merge and f"If the image and the environment both set it, {self.merge}.",
        )
        return " ".join(part for part in parts if part)

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add the description, and the example, to what pydantic says of the value."""
        schema: dict[str, Any] = {**handler(core_schema), "description": self.text}
        if self.example is not None:
            schema["examples"] = [yaml.safe_load(self.example)]
        return schema


def key_of(field: FieldInfo) -> Key | None:
    """Return the description of a model's field; None if it has none."""
    return next((item for item in field.metadata if isinstance(item, Key)), None)
