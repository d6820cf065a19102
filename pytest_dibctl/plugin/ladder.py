"""A ladder: test environments from quick to complete, of which each test gets the first that serves it.

The targets of an image are the rungs. A test is collected for one of them. A rung begins only when the rung
before it is over. Its tests are skipped if a test of an earlier rung failed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from pytest_dibctl.plugin import modules, needs
from pytest_dibctl.plugin.markdown import outcomes
from pytest_dibctl.plugin.reports import PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run.targets import Target


class Ladder:
    """Collects each test for one rung, and ends a ladder on which a test failed."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    # Outside of --lf's, which chooses among what was collected; what is no node of the run is never counted.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Leave each test out for all rungs but its own."""
        report = yield
        if self._session.plan.ladder and collector.getparent(modules.ImageModule) is not None:
            report.result = [node for node in report.result if self._is_on_its_rung(node)]
        return report

    def _is_on_its_rung(self, node: pytest.Item | pytest.Collector) -> bool:
        target = modules.target_of(node) if isinstance(node, pytest.Item) else None
        if target is None or not isinstance(node, pytest.Item):
            return True
        entry = modules.planned_entry(node, self._session.plan)
        return target is self._rung(target, needs.needs_of(node, entry))

    def _rung(self, target: Target, needed: frozenset[str]) -> Target:
        """Return the first rung that has what is needed; the last one if none has."""
        rungs = self._session.plan.rungs(target.image)
        return next((rung for rung in rungs if needs.meets(rung, needed)), rungs[-1])

    def add(self, report: PhaseReport) -> None:
        """Note, for all processes of the run, that a test of a rung failed."""
        if self._session.plan.ladder and report.failed:
            self._session.run_state.add(_tally(report.target), 1)

    def stop(self, item: pytest.Item) -> None:
        """Skip a test after a failure on an earlier rung, before anything is set up for it."""
        target = modules.target_of(item)
        if target is None:
            return
        for earlier in self._session.plan.earlier(target):
            if self._session.run_state.total(_tally(earlier)):
                pytest.skip(f"a test of {target.image.label} failed in {earlier.environment.label} before")


def _tally(target: Target) -> str:
    return f"failed on rung {target.id}"


def summary(session: DibSession) -> Iterator[str]:
    """Yield a line for each image that says what ran on which rung."""
    if not session.plan.ladder:
        return
    for image in session.plan.images:
        parts = []
        for rung in session.plan.rungs(image):
            report = session.target_reports.get(rung.id)
            counts = outcomes(report) if report else ""
            parts.append(f"{rung.environment.label}: {counts or 'no test ran'}")
        yield f"ladder of {image.label}: {'; '.join(parts)}"
