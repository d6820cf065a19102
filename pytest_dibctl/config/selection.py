"""Entries by label and by pattern."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic

from pytest_dibctl.config.entry import Entry, T_co
from pytest_dibctl.config.kinds import NOUNS, Kind
from pytest_dibctl.errors import NotInConfigError
from pytest_dibctl.system.suggestions import suggestion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels(Generic[T_co]):
    """The labels of one kind. ``files`` are the names of the files that were read, for hints.

    Those in ``by_name`` are meant by their whole name only, and by no pattern.
    """

    kind: Kind
    entries: Mapping[str, Entry[T_co]]
    files: tuple[str, ...]
    by_name: frozenset[str] = frozenset()

    def entry(self, label: str) -> Entry[T_co]:
        """Return the entry of ``label``; raises NotInConfigError, with near labels."""
        if label not in self.entries:
            raise self.missing(label)
        return self.entries[label]

    def select(self, patterns: Sequence[str]) -> tuple[Entry[T_co], ...]:
        """Return the entries that ``patterns`` name: labels, globs or ``all``, each possibly a comma list.

        The order is that of the patterns, within one pattern that of the files; no entry comes twice.
        Raises NotInConfigError for a pattern that matches nothing.
        """
        selected: dict[str, Entry[T_co]] = {}
        for pattern in self._single_patterns(patterns):
            for label in self._matching(pattern):
                selected.setdefault(label, self.entries[label])
        return tuple(selected.values())

    def missing(self, label: str) -> NotInConfigError:
        """Return the error that says there is no ``label``, with near labels."""
        noun = NOUNS[self.kind]
        near = suggestion(label, self.entries, listed=f"{noun}s:")
        return NotInConfigError(f"there is no {noun} {label!r}", hint=near or self._hint())

    def _single_patterns(self, patterns: Sequence[str]) -> Iterator[str]:
        """Yield ``patterns`` with comma lists split; a label that contains a comma stays whole."""
        for pattern in patterns:
            if pattern in self.entries:
                yield pattern
                continue
            parts = [part.strip() for part in pattern.split(",") if part.strip()]
            if not parts:
                noun = NOUNS[self.kind]
                article = "an" if noun[0] in "aeiou" else "a"
                raise NotInConfigError(f"{article} {noun} label is empty", hint=self._hint())
            yield from parts

    def _matching(self, pattern: str) -> list[str]:
        if pattern in self.entries:
            return [pattern]
        meant = [label for label in self.entries if label not in self.by_name]
        labels = meant if pattern == "all" else fnmatch.filter(meant, pattern)
        if not labels and pattern == "all":  # often a default, which the user did not type
            raise NotInConfigError(f"there is no {NOUNS[self.kind]}", hint=self._hint())
        if not labels:
            raise self.missing(pattern)
        return labels

    def _hint(self) -> str:
        noun = NOUNS[self.kind]
        if self.entries:
            number = len(self.entries)
            return (
                f"`dibctl validate` lists the {noun} there is"
                if number == 1
                else (f"`dibctl validate` lists the {number} {noun}s there are")
            )
        if self.files:
            return f"no {noun} is defined in {', '.join(self.files)}"
        return f"no {self.kind}.yaml was found; `dibctl init` writes one to fill in"
