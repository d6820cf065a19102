"""Known failures of images.yaml: their tests run, and their failures become pytest's xfail.

After a failure's last day its tests count again, and the summary says so. A failed step is never excused.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
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
MARKED = "the tests of known failures"
"""Under which name a run's processes know which tests each known failure means."""


def today() -> dt.date:
    """Return the day by this machine's clock, UTC."""
    return dt.datetime.now(dt.UTC).date()


class KnownFailures:
    """Marks the tests, and notes which known failures have expired and which name no test."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    # Before -k and others leave tests out, and after each test has got its entry.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Mark the tests of known failures that have not expired."""
        day, tests = today(), dict[int, list[str]]()
        for item in items:
            target = modules.target_of(item)
            entry = item.stash.get(modules.ENTRY, None)
            for known in target.image.settings.tests.known_failures if target else ():
                if not is_of(known.test, item.nodeid, entry):
                    continue
                tests.setdefault(id(known), []).append(item.nodeid)
                if day <= known.until and KNOWN not in item.stash:
                    item.stash[KNOWN] = known
                    item.add_marker(pytest.mark.xfail(reason=reason_of(known), strict=False))
        # The tests of a module that cannot be imported are unknown.
        whole = self._collects_all and not session.testsfailed
        self._session.run_state.put(TOLD, list(self._to_tell(day, tests, whole=whole)))
        self._session.run_state.put(MARKED, list(self._marked(day, tests)) if whole else [])

    @property
    def _collects_all(self) -> bool:
        """Whether the tests of all entries are collected."""
        config = self._session.config
        return not self._session.plan.paths_given and not any(
            config.getoption(name, None) for name in collection.NOT_ALL_COLLECTED
        )

    def _to_tell(self, day: dt.date, tests: Mapping[int, list[str]], *, whole: bool) -> Iterator[str]:
        """Yield the summary's notes on known failures that do not apply."""
        for place, known in self._all_known():
            if day > known.until:
                yield (
                    f"{place}: {known.test} was a known failure until {known.until}, and by this "
                    f"machine's clock it is {day} (UTC): it counts again ({known.url})"
                )
            elif whole and id(known) not in tests:
                yield f"{place}: no test is called {known.test}"

    def _marked(self, day: dt.date, tests: Mapping[int, list[str]]) -> Iterator[dict[str, Any]]:
        """Yield what the end of the run has to know of each known failure that has not expired."""
        for place, known in self._all_known():
            if day <= known.until and id(known) in tests:
                line = f"{place}: {known.test} passes now, and the line in images.yaml can go: {known.url}"
                yield {"line": line, "tests": tests[id(known)]}

    def _all_known(self) -> Iterator[tuple[str, KnownFailure]]:
        for image in self._session.plan.images:
            for index, known in enumerate(image.settings.tests.known_failures):
                yield image.at(f"tests.known_failures[{index}]"), known


def told(session: DibSession) -> list[str]:
    """Return the notes at the end of a run on known failures that do not apply, or whose tests all pass."""
    state = session.run_state
    return [
        *(state.get(TOLD) or ()),
        *(known["line"] for known in state.get(MARKED) or () if _has_passed(known["tests"], session)),
    ]


def _has_passed(tests: Sequence[str], session: DibSession) -> bool:
    """Whether tests of a known failure passed and none failed, was left out or was skipped with its step.

    One pattern may mean many tests, in several environments; while one of them fails it is needed.
    """
    known = {
        nodeid: outcomes
        for report in session.target_reports.values()
        for nodeid, outcomes in report.outcomes_by_test.items()
    }
    outcomes = [known.get(nodeid, set()) for nodeid in tests]
    is_settled = all(of and of <= {"xpassed", "skipped"} for of in outcomes)
    return (
        is_settled and any("xpassed" in of for of in outcomes) and not session.dependents.intersection(tests)
    )


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
    """Return the words of reports for a known failure."""
    why = f"{known.reason}: " if known.reason else ""
    return f"{why}{known.url} (known until {known.until})"


def as_data(known: KnownFailure) -> dict[str, Any]:
    """Return a known failure as reports carry it."""
    return {"url": known.url, "until": known.until.isoformat()}
