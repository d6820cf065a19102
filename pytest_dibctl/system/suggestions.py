"""What a wrong name may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_dibctl.system.text import visible_line

MANY: Final = 12
"""Known names are listed in full up to this number; above it, only near ones are named."""


def near_names(wrong: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that are like a wrong one, the most alike first."""
    import difflib  # lazily: most names are right

    by_lower = {name.lower(): name for name in sorted(set(known), reverse=True)}
    near = difflib.get_close_matches(wrong.lower(), by_lower, n=3, cutoff=0.6)
    return [by_lower[name] for name in near]


def did_you_mean(wrong: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return "did you mean 'x'?", an empty text if no known name is like the wrong one.

    Of names that begin with ``prefix`` only the rest is compared, and others are left out.
    """
    rests = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    near = [f"{prefix}{rest}" for rest in near_names(wrong.removeprefix(prefix), rests)]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def suggestion(wrong: str, known: Iterable[str], *, listed: str) -> str:
    """Return the same, or else the known names after the words ``listed``, if these are few."""
    names = sorted(set(known))
    if near := did_you_mean(wrong, names):
        return near
    # A cloud's names too: none of them may look like a line of ours.
    return f"{listed} {', '.join(map(visible_line, names))}" if 0 < len(names) <= MANY else ""
