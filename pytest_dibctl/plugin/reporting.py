"""The additions to a test's report by the process that ran it: the image's facts, and the failure's cause."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.errors import DibctlError, TroubleError
from pytest_dibctl.guest import causes
from pytest_dibctl.guest.console import LAST_LINES
from pytest_dibctl.image import statements
from pytest_dibctl.plugin import known_failures
from pytest_dibctl.plugin.budget import EntryBudgets, failed_tally
from pytest_dibctl.plugin.failed_steps import FailedSteps, hide_internals
from pytest_dibctl.plugin.modules import ENTRY, kind_of, target_of, view_of
from pytest_dibctl.plugin.planning import TREE
from pytest_dibctl.plugin.reports import PREFIX, Notes
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.target_report import RARE, STEPS
from pytest_dibctl.plugin.visible_reports import make_visible, watch_logging
from pytest_dibctl.run import building, logs
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system.text import visible_line

CONSOLE_LINES = 20
"""Lines of the console's end that a report shows."""


class Reporting:
    """Completes the report of each image's test when it is made."""

    def __init__(self, session: DibSession, budgets: EntryBudgets, failed_steps: FailedSteps) -> None:
        self._session = session
        self._budgets = budgets
        self._failed_steps = failed_steps

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Guard what pytest logs at once; by now it has its handlers."""
        watch_logging(session.config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
        item: pytest.Item,
        call: pytest.CallInfo[None],
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the image's facts on the report, and errors of ours in the words they were written in."""
        target = target_of(item)
        if target is None:
            return (yield)
        target_run = self._session.target_run(target)
        _put_facts(item, target_run)
        if call.excinfo:
            hide_internals(item, call.excinfo)
        report = yield
        entry = item.stash.get(ENTRY, None)
        notes = Notes(phases=dict(target_run.phases), entry=entry.index if entry else None)
        if report.skipped and call.excinfo:
            notes = dataclasses.replace(notes, not_applicable=_own_reason(call.excinfo))
        error = call.excinfo.value if call.excinfo else None
        words = self._failed_steps.words(error, target_run)
        if call.excinfo and words is not None:
            follows = self._failed_steps.settle(item, report, call.excinfo, words, target_run)
            notes = dataclasses.replace(notes, follows=follows)
            if follows:
                _tell_no_failure(call, follows)
        if isinstance(error, TroubleError):
            # A mark like xfail excuses its test's failure, not the look after the target's last test.
            vars(report).pop("wasxfail", None)
            report.outcome, report.longrepr = "failed", str(error)
        if hasattr(report, "wasxfail") and (known := item.stash.get(known_failures.KNOWN, None)):
            notes = dataclasses.replace(notes, known_failure=known_failures.as_data(known))
        if report.failed:
            notes = _judged(notes, item, error, step_failed=words is not None)
            self._explain(item, report, error, target_run)
        if report.failed or notes.follows:
            self._session.test_failed(target, item.nodeid)
        notes.write(report)
        make_visible(report)
        return report

    def _explain(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        error: BaseException | None,
        target_run: TargetRun,
    ) -> None:
        """Add the facts to a failed report that the traceback does not tell."""
        entry = item.stash.get(ENTRY, None)
        if entry is not None and report.when == "call" and self._budgets.seconds_left(item) <= 0:
            text = f"the tests of {entry.written} share {entry.timeout:g} s, which are spent now"
            report.sections.append(("dibctl", text))
        if isinstance(error, DibctlError) and report.when != "call":
            report.longrepr = str(error)
        has_console = isinstance(error, DibctlError) and LAST_LINES in error.message
        if target_run.guest.instance is not None and not target_run.failed and not has_console:
            self._show_console(report, error, target_run.guest.instance, target_run.label)

    def _show_console(
        self, report: pytest.TestReport, error: BaseException | None, instance: Instance, label: str
    ) -> None:
        """Add the end of the console where it helps: a guest that broke, or a test that came to no answer.

        A failed assertion got its answer from the guest, and its difference says more than a login prompt.
        """
        answered = isinstance(error, (AssertionError, pytest.fail.Exception, DibctlError))
        text = logs.console_of(instance)
        if answered and causes.fatal(text) is None:
            return
        tail = "\n".join(text.splitlines()[-CONSOLE_LINES:])
        report.sections.append((f"Last lines of the console of {label}", tail or "(empty)"))


def _tell_no_failure(call: pytest.CallInfo[None], reason: str) -> None:
    """Have the call of a test that is skipped for a failed step end like a skip: --pdb asks the call."""
    assert call.excinfo is not None
    skip = pytest.skip.Exception(reason).with_traceback(call.excinfo.tb)
    call.excinfo = pytest.ExceptionInfo.from_exception(skip)


def _own_reason(skip: pytest.ExceptionInfo[BaseException]) -> str | None:
    """Return why a shipped test, or a fixture shipped with it, skipped it; None for a skip by anything else.

    A mark, which a conftest file may add, is not the test's own word.
    """
    if not isinstance(skip.value, pytest.skip.Exception):
        return None
    *_, last = [entry for entry in skip.traceback if Path(entry.path).name != "outcomes.py"]
    return str(skip.value) if statements.is_shipped(Path(last.path)) else None


def _judged(notes: Notes, item: pytest.Item, error: BaseException | None, *, step_failed: bool) -> Notes:
    """Return the notes on a failed test: whether the image's content failed it, and what counts it.

    Where a step failed, like the build, the image's content is not the cause.
    """
    return dataclasses.replace(
        notes,
        content_failed=view_of(item) == TREE and not step_failed,
        failed_tally=failed_tally(item),
        exit_code=int(error.exit_code) if isinstance(error, DibctlError) else None,
    )


def _put_facts(item: pytest.Item, target_run: TargetRun) -> None:
    """Put the image's known facts on the item, as properties that pytest copies to the report."""
    seconds = {**target_run.seconds_elsewhere, **target_run.phases}
    facts = {
        "image": target_run.label,
        "kind": kind_of(item),
        "environment": target_run.environment.label,
        **building.build_facts(target_run.run_state, target_run.label),
        "instance": target_run.guest.id,
        **target_run.guest.facts,
        "cause": target_run.guest.cause,
        "console_line": target_run.guest.console_line,
        **{f"seconds_{name}": f"{seconds[name]:.1f}" for name in (*STEPS, *RARE) if name in seconds},
        "screen": _shown(target_run.guest.screen, target_run.cwd),
        "build_log": _shown(target_run.built.log, target_run.cwd),
        "console_log": _shown(target_run.guest.console_log, target_run.cwd),
    }
    ours = {PREFIX + name: visible_line(str(value)) for name, value in facts.items() if value}
    # Of a test that is run again some no longer hold.
    known = {PREFIX + name for name in facts}
    others = [(name, value) for name, value in item.user_properties if name not in known]
    item.user_properties = [*others, *ours.items()]


def _shown(path: Path | None, cwd: Path) -> str | None:
    """Return a path as reports name it: below the working directory, which CI jobs take attachments from."""
    if path is None:
        return None
    path = Path(os.path.normpath(cwd / path))
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
