"""The end of a session: its reports are completed, the rest is removed, summary and result are written."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_dibctl.cleanup.workers import WorkerCleanup
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin import html_report, known_failures, markdown
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.target_report import TargetReport, report_of, verdict
from pytest_dibctl.plugin.xdist.controller import Controller
from pytest_dibctl.system import signals


class SessionEnd:
    """The steps after the last finalizer; ``controller`` is set in an xdist controller only.

    ``begun`` says that the end has come, so that nothing calls it a second time.
    """

    def __init__(self, session: DibSession, cleanup: WorkerCleanup, controller: Controller | None) -> None:
        self._session = session
        self._cleanup = cleanup
        self._controller = controller
        self._rest_removed = False
        self.begun = False

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Complete the target reports; by now every finalizer has run."""
        self.begun = True
        for target, target_run in self._session.target_runs.items():
            self._session.target_report(target.id).add(report_of(target_run))
        if self._session.is_worker:
            session.config.workeroutput["dibctl"] = {  # type: ignore[attr-defined]  # xdist's own
                label: target_report.as_data()
                for label, target_report in self._session.target_reports.items()
            }
            return
        self._remove_the_rest()
        if self._session.leftovers() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._session.verdict.removal_failed()
        if self._session.dependents:
            self._remember_dependents(session)
        self._sort_reports()
        self._write_summary(session)
        self._write_report(session)
        if result_file := session.config.getoption("dib_result_file"):
            verdict = self._session.verdict
            write_result(Path(result_file), verdict.exit_code, verdict.reason)

    def _remember_dependents(self, session: pytest.Session) -> None:
        """Keep tests that a failed step had skipped from passing for good ones.

        The run fails, also where the first test that met the failure was not reported. And pytest's --lf,
        which takes skipped tests for settled ones, runs them again.
        """
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        cache = getattr(session.config, "cache", None)
        if cache is not None:
            last_failed = cache.get("cache/lastfailed", {})
            cache.set("cache/lastfailed", last_failed | dict.fromkeys(self._session.dependents, True))

    def _remove_the_rest(self) -> None:
        """Remove the leftovers if the run ended before its fixtures could."""
        if self._controller is not None:
            self._controller.finish()
        elif self._session.ledger.records():
            for removal in self._cleanup.finish(self._session.leftovers()):
                self._session.add_removal(removal)
        self._rest_removed = True

    def _sort_reports(self) -> None:
        """Bring the target reports, which arrive as workers end, into the order of the command line."""
        target_reports = self._session.target_reports
        order = [target.id for target in self._session.plan.targets if target.id in target_reports]
        others = [label for label in target_reports if label not in order]
        self._session.target_reports = {label: target_reports[label] for label in (*order, *others)}

    def _write_summary(self, session: pytest.Session) -> None:
        """Write --dib-summary's file; GitHub's is shared by all steps of a job."""
        file = session.config.getoption("dib_summary")
        if not file:
            return
        path = self._session.cwd / file
        github = os.environ.get("GITHUB_STEP_SUMMARY")
        with self._written(session):
            told = known_failures.told(self._session)
            text = markdown.markdown(self._session.target_reports, note=self._note(session), told=told)
            markdown.write(path, text, append=github in {file, str(path)})

    def _write_report(self, session: pytest.Session) -> None:
        """Write --dib-report's file."""
        file = session.config.getoption("dib_report")
        if not file:
            return
        targets = self._session.plan.targets
        known = self._session.target_reports
        nothing = {
            target.id: TargetReport(image=target.image.label, environment=target.environment.label)
            for target in targets
        }
        reports = {**{label: known.get(label, empty) for label, empty in nothing.items()}, **known}
        with self._written(session):
            header = report_header(
                reports,
                status=int(session.exitstatus),
                note=self._note(session),
                told=known_failures.told(self._session),
            )
            cwd = self._session.cwd
            html_report.write(cwd / file, html_report.report(reports, header, cwd=cwd))

    @contextlib.contextmanager
    def _written(self, session: pytest.Session) -> Iterator[None]:
        """Warn of a file of the run that cannot be written inside; the run fails."""
        try:
            yield
        except DibctlError as error:
            self._session.warnings.append(str(error))
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _note(self, session: pytest.Session) -> str:
        """Return the notes that the summary's table cannot show."""
        reason, target_reports = self._session.verdict.reason, self._session.target_reports
        if reason and not any(target_report.failed for target_report in target_reports.values()):
            return reason
        interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED
        return "The run was interrupted, or stopped early." if interrupted else ""

    def pytest_unconfigure(self) -> None:
        """Mark the run as finished, unless its guardian has something to remove.

        These are removals that were given up, and leftovers that no summary names.
        """
        if not self._rest_removed or signals.abandoned():
            return
        named = {removal.resource for removal in self._session.leftovers()}
        if all(record.resource in named for record in self._session.resources.not_removed()):
            self._session.ledger.finish()


def report_header(
    reports: Mapping[str, TargetReport], *, status: int, note: str, told: Sequence[str] = ()
) -> html_report.Header:
    """Return the HTML report's words for the whole run, which ended with an exit status.

    A report of no image, as of what the run itself left, is not counted.
    """
    targets = [report for report in reports.values() if report.image]
    counts = collections.Counter(map(verdict, targets))
    words = ", ".join(f"{counts[word]} {word}" for word in ("failed", "not run", "passed") if counts[word])
    images = len({target.image for target in targets})
    environments = len({target.environment for target in targets if target.environment})
    where = f" in {environments} environments" if environments > 1 else ""
    when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return html_report.Header(
        title=f"{images} image{'' if images == 1 else 's'}{where}: {words}",
        lines=[f"{when} on {platform.node()}, pytest {pytest.__version__}, exit status {status}"],
        note=note,
        told=told,
    )


def worker_cleanup(session: DibSession) -> WorkerCleanup:
    """Return the object that removes the resources of a session's processes."""
    return WorkerCleanup(
        ledger=session.ledger,
        catalog=session.catalog,
        cwd=session.cwd,
        options=session.options,
        targets=session.plan.targets,
        failed=session.has_failed,
    )


def write_result(path: Path, exit_code: int, reason: str) -> None:
    """Write --dib-result-file, if it can be written."""
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"exit_code": int(exit_code), "reason": reason}))
