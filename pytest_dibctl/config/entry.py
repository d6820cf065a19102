"""One entry of a file: its label, its settings, and the place of every key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.yaml.marks import Mark, nearest

T_co = TypeVar("T_co", bound=Section, covariant=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry(Generic[T_co]):
    """What a file says under one label. ``path`` is that file, ``shown`` how messages name it."""

    label: str
    settings: T_co
    path: Path
    shown: str = ""
    marks: Mapping[str, Mark] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def at(self, dotted_key: str = "") -> str:
        """Return "path:line:column (label.dotted.key)", the place being that of the nearest known key."""
        key = f"{self.label}.{dotted_key}" if dotted_key else self.label
        mark = nearest(self.marks, key)
        place = f"{self.name}:{mark.line}:{mark.column}" if mark else self.name
        return f"{place} ({key})"

    def mark(self, dotted_key: str = "") -> Mark | None:
        """Return the place of the nearest known key."""
        return nearest(self.marks, f"{self.label}.{dotted_key}" if dotted_key else self.label)

    @property
    def name(self) -> str:
        """How messages name the file."""
        return self.shown or str(self.path)
