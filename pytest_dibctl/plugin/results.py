"""Reports of tests, each read once for all that need it, and the sums and target reports made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pytest_dibctl.errors import ExitCode
from pytest_dibctl.plugin import reports
from pytest_dibctl.plugin.reports import PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.target_report import Failure, TestResult
from pytest_dibctl.run import content


class ReportListener:
    """Reads pytest's reports of image tests and calls the ``receivers`` with each, in their order."""

    def __init__(self, session: DibSession, receivers: Sequence[Callable[[PhaseReport], None]]) -> None:
        self._session = session
        self._receivers = receivers

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that cannot be imported as a failed test."""
        if report.failed:
            self._session.verdict.collection_failed(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read the report of one phase of a test; under xdist worker and controller both do."""
        phase_report = reports.read(report, self._session.plan)
        if phase_report is not None:
            for receive in self._receivers:
                receive(phase_report)


class Results:
    """Keeps the sums of the run and, where reports come together, target reports and the verdict."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    def add(self, report: PhaseReport) -> None:
        """Enter one phase of a test."""
        session, notes = self._session, report.notes
        if report.rerun:
            session.test_runs_again(report.target, report.nodeid)
        if report.failed and notes.failed_tally:
            session.run_state.add(notes.failed_tally, 1)
        if report.failed and notes.content_failed:
            content.mark_content_failed(session.run_state, report.target.image.label, report.nodeid)
        if not session.is_worker:
            self._add_to_target_report(report)

    def _add_to_target_report(self, report: PhaseReport) -> None:
        target_report = self._session.target_report(report.target.id)
        # Also of a worker that will send no report of its own, since it dies.
        target_report.image = report.target.image.label
        target_report.environment = report.target.environment.label
        target_report.add_facts(report.facts, guest=report.worker or "")
        if report.outcome is not None:
            target_report.outcomes[report.outcome] += 1
            # The time of a failed setup belongs to a step, such as the build.
            seconds = report.seconds if report.when == "call" else 0.0
            result = TestResult(
                nodeid=report.nodeid, outcome=report.outcome, seconds=seconds, reason=report.reason
            )
            target_report.add_test(result, started=report.started)
        if report.skipped and (known := report.notes.known_failure):
            target_report.known_failures.append(
                f"{report.nodeid}: known failure until {known['until']}: {known['url']}"
            )
        if report.notes.follows:
            target_report.dependents[report.notes.follows] += 1
            self._session.dependents.add(report.nodeid)
        if not report.failed:
            return
        exit_code = report.notes.exit_code
        self._session.verdict.test_failed(
            report.nodeid, ExitCode.TESTS_FAILED if exit_code is None else exit_code
        )
        target_report.failures.append(
            Failure(nodeid=report.nodeid, when=report.when, text=report.text, logs=report.logs)
        )
