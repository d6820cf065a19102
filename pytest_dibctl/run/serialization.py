"""Images and artifacts as plain data, for the processes of a run that did not make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import CloudImage
from pytest_dibctl.image.artifact import Artifact


def plain(value: Artifact | CloudImage) -> dict[str, Any]:
    """Return a dataclass's value, without the objects it refers to, as data that JSON can hold."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        name: str(found) if isinstance(found, Path) else dict(found) if isinstance(found, Mapping) else found
        for name, found in fields.items()
        if not isinstance(found, Artifact)
    }


def restored(kind: type[Artifact | CloudImage], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a ``kind`` again from the data of ``plain``."""
    paths = {field.name for field in dataclasses.fields(kind) if str(field.type).startswith("Path")}
    return {
        name: Path(found)
        if name in paths and found is not None
        else tuple(found)
        if isinstance(found, list)
        else found
        for name, found in data.items()
    }
