"""Tests of listed files that are never collected: a setting, a conftest file or a plugin leaves them out.

Statements must not call such a run whole. Test files may leave themselves out, as with ``__test__ = False``;
their digests are in the statement.
"""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_dibctl.plugin.modules import ImageModule
from pytest_dibctl.plugin.session import DibSession

USUAL_FILES = ("test_*.py", "*_test.py")
"""The patterns of test files in pytest, unless a setting says otherwise."""
NOT_OURS = ("__pycache__", ".*")
"""Folders in which no tests are."""


class Omissions:
    """Notes the collected tests, and counts those that look like tests and are not collected."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note a test, before any hook may take it out of the list."""
        self._session.collected.add(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_ignore_collect(self, collection_path: Path) -> Generator[None, bool | None, bool | None]:
        """Count a listed file, or a folder with tests, that is ignored."""
        ignored = yield
        if ignored and self._is_listed(collection_path) and _has_tests(collection_path):
            self._count()
        return ignored

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, list[object], list[object]]:
        """Count a listed file that no plugin takes for a file of tests."""
        collectors = yield
        if not collectors and self._is_listed(file_path) and _is_usual(file_path.name):
            self._count()
        return collectors

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Collector, name: str, obj: object
    ) -> Generator[None, object, object]:
        """Count a function or class with the name of a test of which none is made."""
        made = yield
        if not made and collector.getparent(ImageModule) is not None and _looks_like_a_test(name, obj):
            self._count()
        return made

    def _is_listed(self, path: Path) -> bool:
        return any(entry.covers(path) for entry in self._session.plan.entries)

    def _count(self) -> None:
        self._session.run_state.add("deselected", 1)


def _is_usual(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in USUAL_FILES)


def _has_tests(path: Path) -> bool:
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in NOT_OURS):
        return False
    if not path.is_dir():
        return _is_usual(path.name)
    return any(_is_usual(name) for _, _, names in os.walk(path) for name in names)


def _looks_like_a_test(name: str, obj: object) -> bool:
    if inspect.isclass(obj):
        return name.startswith("Test") and bool(getattr(obj, "__test__", True))
    return name.startswith("test") and inspect.isroutine(obj) and bool(getattr(obj, "__test__", True))
