"""Places in a file, and the dotted keys that they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A place in a file; both numbers start at 1, as editors count."""

    line: int
    column: int


def dotted(path: Iterable[str | int]) -> str:
    """Return ``tests.tests_list[0].shell`` for ("tests", "tests_list", 0, "shell")."""
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def nearest(marks: Mapping[str, Mark], key: str) -> Mark | None:
    """Return the place of ``key``, or else of the closest section around it that ``marks`` has."""
    while key and key not in marks:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return marks.get(key)
