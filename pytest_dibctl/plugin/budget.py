"""The seconds that the tests of one entry share, and entries that are over because an earlier one failed.

Sums are kept for the whole run, by target and entry: its processes share them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_timeout

from pytest_dibctl.plugin.modules import ENTRY, LIMIT, target_of
from pytest_dibctl.plugin.planning import PlannedEntry
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run.targets import Target


class EntryBudgets:
    """Limits tests to what is left of their entries' timeouts, and stops a target after a failed entry."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    def seconds_left(self, item: pytest.Item) -> float:
        """Return the seconds that an item's entry has left in the item's target; infinity without a limit."""
        entry, target = item.stash.get(ENTRY, None), target_of(item)
        if entry is None or target is None or not entry.timeout:
            return float("inf")
        return entry.timeout - self._session.run_state.total(_tally("spent", target, entry))

    @contextlib.contextmanager
    def spend(self, item: pytest.Item) -> Iterator[None]:
        """Charge the time inside to the item's entry."""
        started = time.monotonic()
        try:
            yield
        finally:
            entry, target = item.stash.get(ENTRY, None), target_of(item)
            if entry is not None and target is not None:
                spent = time.monotonic() - started
                self._session.run_state.add(_tally("spent", target, entry), spent)

    def limit(self, item: pytest.Item) -> None:
        """Limit an item that runs a script to the remaining time; skip an item whose entry has none left."""
        entry, target = item.stash.get(ENTRY, None), target_of(item)
        if entry is None or target is None:
            return
        left = self.seconds_left(item)
        limit = item.stash.get(LIMIT, None)
        item.stash[LIMIT] = None if limit is None else min(limit, left)
        if left <= 0:
            pytest.skip(f"the {entry.timeout:g} s that the tests of {entry.written} share are spent")
        if self._session.config.getoption("dib_stop_on_fail"):
            self._skip_after_failure(target, entry)

    def _skip_after_failure(self, target: Target, entry: PlannedEntry) -> None:
        for earlier in self._session.plan.entries:
            if (
                earlier.image == entry.image
                and earlier.index < entry.index
                and self._session.run_state.total(_tally("failed", target, earlier))
            ):
                pytest.skip(f"{earlier.written} failed before, and --dib-stop-on-fail is on")

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> object:
        """Run pytest-timeout's timer for the rest of the entry's budget if that is less."""
        left = self.seconds_left(item)
        if left >= settings.timeout:
            return None
        return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=left))


def failed_tally(item: pytest.Item) -> str | None:
    """Return the name of the sum that counts failures of the item's entry, None without an entry."""
    entry, target = item.stash.get(ENTRY, None), target_of(item)
    return _tally("failed", target, entry) if entry is not None and target is not None else None


def _tally(what: str, target: Target, entry: PlannedEntry) -> str:
    return f"{what} {target.id} {entry.index}"
