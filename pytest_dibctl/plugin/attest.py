"""What a run tested is written beside each image, and whether the run left out nothing that is listed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Generator, Sequence

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.image import statements
from pytest_dibctl.image.statements import Statement
from pytest_dibctl.plugin import collection
from pytest_dibctl.plugin.reports import PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run.targets import Target

CHOOSING = (*collection.NOT_ALL_COLLECTED, "keyword", "markexpr", "stepwise", "collectonly")
"""Options with which a run leaves tests out."""


@dataclasses.dataclass(kw_only=True)
class _TargetOutcomes:
    """Outcomes of one target's tests, by node id, and the entries of which a test was run."""

    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    entries: set[int | None] = dataclasses.field(default_factory=set)

    def tests(self, outcome: str) -> tuple[str, ...]:
        """Return the node ids of the tests with an outcome, sorted."""
        return tuple(sorted(nodeid for nodeid, given in self.outcomes.items() if given == outcome))


class Attestation:
    """Collects outcomes and writes a run's statements at its end; of an xdist run the controller does.

    On a worker it only counts, for the controller, the tests that were left out.
    """

    def __init__(self, session: DibSession) -> None:
        self._session = session
        self._targets: dict[Target, _TargetOutcomes] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember, for all processes of the run, that not everything is run."""
        if items:
            self._session.run_state.add("deselected", len(items))

    def add(self, report: PhaseReport) -> None:
        """Note an outcome; of a test that is run again the last one counts."""
        target = self._targets.setdefault(report.target, _TargetOutcomes())
        if report.when == "setup":
            target.outcomes.pop(report.nodeid, None)
        if report.failed or report.rerun:
            target.outcomes[report.nodeid] = "failed"
            target.entries.add(report.notes.entry)
        elif report.skipped:
            target.outcomes[report.nodeid] = "skipped"
        elif report.when == "call":
            target.outcomes[report.nodeid] = "passed"
            target.entries.add(report.notes.entry)

    # Inside of the terminal's own, which shows the summary, and with it the statements that failed.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the statements once every target report is complete."""
        result = yield
        if not self._session.is_worker:
            whole = self._is_whole(session)
            for target, outcomes in self._targets.items():
                self._write(target, outcomes, whole=whole)
        return result

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether the run left out nothing of what is listed."""
        ended = session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        stopped = bool(session.shouldstop or session.shouldfail)
        chosen = any(self._session.config.getoption(name, None) for name in CHOOSING)
        partial = self._session.plan.paths_given or bool(self._session.run_state.total("deselected"))
        return ended and not (stopped or chosen or partial)

    def _write(self, target: Target, outcomes: _TargetOutcomes, *, whole: bool) -> None:
        label, options = target.image.label, self._session.options
        digest = self._session.target_report(target.id).digest
        if digest is None or not options.has_file:
            return
        planned = [entry for entry in self._session.plan.entries if entry.image == label]
        path = builder.target_file(target.image, options.input, self._session.cwd)
        statement = Statement(
            file=path.name,
            sha512=digest,
            label=label,
            environment=target.environment.label,
            finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            whole=whole and all(entry.index in outcomes.entries for entry in planned),
            entries=tuple(statements.entry_name(entry.kind, entry.written) for entry in planned),
            passed=outcomes.tests("passed"),
            skipped=outcomes.tests("skipped"),
            failed=outcomes.tests("failed"),
            **statements.configuration_of(target.image),
        )
        try:
            statements.add(path, statement)
        except OSError as error:
            self._session.warnings.append(
                f"{label}: what was tested could not be written beside {path}: {error}"
            )
