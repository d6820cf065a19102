"""Failures that images.yaml says are known: their tests run, and pytest's xfail takes what they find.

After a failure's last day its tests count again, and the summary says so. A failed step is never excused.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_dibctl.config.models.images import KnownFailure
from pytest_dibctl.plugin import collection, modules
from pytest_dibctl.plugin.planning import PlannedEntry
from pytest_dibctl.plugin.session import DibSession

KNOWN: pytest.StashKey[KnownFailure] = pytest.StashKey()
"""The known failure that a test is marked with."""
TOLD = "what is to be said of known failures"
"""Under which name a run's processes know it."""


def today() -> dt.date:
    """Return the day by this machine's clock, UTC."""
    return dt.datetime.now(dt.UTC).date()


class KnownFailures:
    """Marks the tests, and notes which known failures have expired and which name no test."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    # Before -k and others leave tests out, and after each test has got its entry.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the tests of known failures that have not expired."""
        day, used = today(), set[int]()
        for item in items:
            target = modules.target_of(item)
            entry = item.stash.get(modules.ENTRY, None)
            for known in target.image.settings.tests.known_failures if target else ():
                if not is_of(known.test, item.nodeid, entry):
                    continue
                used.add(id(known))
                if day <= known.until and KNOWN not in item.stash:
                    item.stash[KNOWN] = known
                    item.add_marker(pytest.mark.xfail(reason=reason_of(known), strict=False))
        self._session.run_state.put(TOLD, list(self._to_tell(day, used)))

    def _to_tell(self, day: dt.date, used: set[int]) -> Iterator[str]:
        """Yield what the summary says of known failures that do not apply."""
        config, plan = self._session.config, self._session.plan
        whole = not plan.paths_given and not any(
            config.getoption(name, None) for name in collection.NOT_ALL_COLLECTED
        )
        for image in plan.images:
            for index, known in enumerate(image.settings.tests.known_failures):
                place = image.at(f"tests.known_failures[{index}]")
                if day > known.until:
                    yield (
                        f"{place}: {known.test} was a known failure until {known.until}, and by this "
                        f"machine's clock it is {day} (UTC): it counts again ({known.url})"
                    )
                elif whole and id(known) not in used:
                    yield f"{place}: no test is called {known.test}"


def is_of(pattern: str, nodeid: str, entry: PlannedEntry | None) -> bool:
    """Whether a known failure's ``test`` means a test: by its entry, entry and name, or node id."""
    bare = nodeid.partition("[")[0]
    names = {nodeid, bare}
    if entry is not None:
        _, _, function = bare.partition("::")
        names |= {entry.written, f"{entry.written}::{function}"}
    # In node ids, brackets are brackets.
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for name in names)


def reason_of(known: KnownFailure) -> str:
    """Return what reports say of a known failure."""
    why = f"{known.reason}: " if known.reason else ""
    return f"{why}{known.url} (known until {known.until})"


def as_data(known: KnownFailure) -> dict[str, Any]:
    """Return a known failure as reports carry it."""
    return {"url": known.url, "until": known.until.isoformat()}
