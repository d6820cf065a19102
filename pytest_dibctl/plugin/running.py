"""The hooks around a test that runs: limits, time charged to its image, and instances that it may change."""

from __future__ import annotations

import contextlib
import time
import types
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from pytest_dibctl.plugin import facts, fixtures
from pytest_dibctl.plugin.budget import EntryBudgets
from pytest_dibctl.plugin.failed_steps import FailedSteps
from pytest_dibctl.plugin.ladder import Ladder
from pytest_dibctl.plugin.modules import target_of
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.system import signals


class Running:
    """Hooks of setup and call of each test, and of fixtures that are set up for it."""

    def __init__(
        self, session: DibSession, budgets: EntryBudgets, ladder: Ladder, failed_steps: FailedSteps
    ) -> None:
        self._session = session
        self._budgets = budgets
        self._ladder = ladder
        self._failed_steps = failed_steps

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Skip a test whose entry or ladder is over; write the test's line again if progress broke it."""
        signals.forget()
        self._ladder.stop(item)
        self._budgets.limit(item)
        with self._session.progress.line_of(item), self._charged(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Charge the test's time to its entry's budget."""
        with self._budgets.spend(item), self._charged(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Note a step that failed, and that a lasting fixture may have done something to an instance."""
        try:
            return (yield)
        except BaseException as error:
            self._failed_steps.note(fixturedef.argname, error)
            raise
        finally:
            if _may_touch_an_instance(fixturedef):
                for target_run in self._session.target_runs.values():
                    target_run.guest.pristine.untouched = False

    @contextlib.contextmanager
    def _charged(self, item: pytest.Item) -> Iterator[None]:
        """Charge the time inside to the image's tests, less what steps took (a boot, a removal)."""
        target = target_of(item)
        if target is None:
            yield
            return
        started, steps = time.monotonic(), self._seconds_of_steps()
        try:
            yield
        finally:
            own = time.monotonic() - started - (self._seconds_of_steps() - steps)
            self._session.target_run(target).charge("tests", own)

    def _seconds_of_steps(self) -> float:
        return sum(sum(target_run.phases.values()) for target_run in self._session.target_runs.values())


def _may_touch_an_instance(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Return whether a fixture could do something to an instance that is not noted with its test.

    Steps of our ladder only look at it, those that a conftest overrides too; a fixture that asks for no
    other can reach no instance.
    """
    name = fixturedef.argname
    short = fixturedef.scope == "function"
    ours = name == "host" or any(_is_step(vars(module).get(name)) for module in (fixtures, facts))
    pytests = getattr(fixturedef.func, "__module__", "").startswith("_pytest.")
    return bool(fixturedef.argnames) and not short and not ours and not pytests


def _is_step(value: object) -> bool:
    """Whether a value of our fixtures' modules is a fixture, and no module or class that they import."""
    return value is not None and not isinstance(value, (types.ModuleType, type))
