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
    """The settings under one label of a file.

    ``path`` is that file, ``display_name`` its name in messages; ``marks`` maps the file's dotted keys to
    their places.
    """

    label: str
    settings: T_co
    path: Path
    display_name: str = ""
    marks: Mapping[str, Mark] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        """Short: reports show entries as parameters of tests, and the settings have 3 kB."""
        return f"<{self.label} of {self.name}>"

    def at(self, dotted_key: str = "") -> str:
        """Return "path:line:column (label.dotted.key)"; the place is that of the nearest key in the file."""
        key = f"{self.label}.{dotted_key}" if dotted_key else self.label
        mark = nearest(self.marks, key)
        place = f"{self.name}:{mark.line}:{mark.column}" if mark else self.name
        return f"{place} ({key})"

    def mark(self, dotted_key: str = "") -> Mark | None:
        """Return the place of the nearest key in the file; None if the entry comes from no file."""
        return nearest(self.marks, f"{self.label}.{dotted_key}" if dotted_key else self.label)

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return self.display_name or str(self.path)
