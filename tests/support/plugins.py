"""Plugins that are installed to be tested with: runs inside tests have them only when they ask for them."""

from __future__ import annotations

from collections.abc import Collection

EXTRA = ("randomly", "rerunfailures")
"""The first changes the order of tests; the second has a thread, whose stack pytest-timeout shows."""


def without(wanted: Collection[str] = ()) -> list[str]:
    """Return the arguments that leave out all of them but those that are ``wanted``."""
    return [argument for name in EXTRA if name not in wanted for argument in ("-p", f"no:{name}")]
