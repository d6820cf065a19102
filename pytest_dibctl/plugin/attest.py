"""What a run tested is written beside each image: the hooks that find out whether the run was whole."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.image import statements
from pytest_dibctl.image.statements import Statement
from pytest_dibctl.plugin import collection
from pytest_dibctl.plugin.xdist.controller import worker_id
from pytest_dibctl.run.targets import Target

if TYPE_CHECKING:
    from pytest_dibctl.plugin.session import ActiveRun

CHOOSING = (*collection.NOT_ALL_COLLECTED, "keyword", "markexpr", "stepwise", "collectonly")
"""Options with which a run leaves tests out."""


@dataclasses.dataclass(kw_only=True)
class _Heard:
    """What the reports said of one target: node ids to outcomes, and the entries that were tried."""

    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    entries: set[int] = dataclasses.field(default_factory=set)

    def those(self, outcome: str) -> tuple[str, ...]:
        return tuple(sorted(nodeid for nodeid, found in self.outcomes.items() if found == outcome))


class Attestation:
    """Listens to a run and writes its statements at the end; one in each process, the controller's writes."""

    def __init__(self, run: ActiveRun) -> None:
        self._run = run
        self._heard: dict[Target, _Heard] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember, for all processes of the run, that not everything is run."""
        if items:
            self._run.run_state.add("deselected", len(items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the entry that a test belongs to on its report."""
        report = yield
        marker = item.get_closest_marker("dib_entry")
        if marker is not None:
            report.dib_entry = marker.args[1]  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; of a test that is run again the last one counts."""
        target = self._run.target_named(dict(report.user_properties))
        if target is None or worker_id(self._run.config) is not None:
            return
        heard = self._heard.setdefault(target, _Heard())
        if report.when == "setup":
            heard.outcomes.pop(report.nodeid, None)
        if report.failed or (report.outcome == "rerun"):  # type: ignore[comparison-overlap]
            heard.outcomes[report.nodeid] = "failed"
            heard.entries.add(getattr(report, "dib_entry", -1))
        elif report.skipped:
            heard.outcomes[report.nodeid] = "skipped"
        elif report.when == "call":
            heard.outcomes[report.nodeid] = "passed"
            heard.entries.add(getattr(report, "dib_entry", -1))

    # Inside of the terminal's own, which shows the summary, and with it what goes wrong here.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write what was found out, once every account is drawn."""
        result = yield
        if worker_id(self._run.config) is None:
            whole = self._is_whole(session)
            for target, heard in self._heard.items():
                self._write(target, heard, whole=whole)
        return result

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether the run left out nothing of what is listed."""
        ended = session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        stopped = bool(session.shouldstop or session.shouldfail)
        chosen = any(self._run.config.getoption(name, None) for name in CHOOSING)
        partial = self._run.plan.paths_given or bool(self._run.run_state.total("deselected"))
        return ended and not (stopped or chosen or partial)

    def _write(self, target: Target, heard: _Heard, *, whole: bool) -> None:
        run, label = self._run, target.image.label
        target_report = run.target_report(target.id)
        run_options = run.options
        if target_report.digest is None or not run_options.has_file:
            return
        planned = [entry for entry in run.plan.entries if entry.image == label]
        path = builder.target_file(target.image, run_options.input, run.config.invocation_params.dir)
        statement = Statement(
            file=path.name,
            sha512=target_report.digest,
            label=label,
            environment=target.environment.label,
            finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            whole=whole and all(entry.index in heard.entries for entry in planned),
            entries=tuple(statements.entry_name(entry.kind, entry.written) for entry in planned),
            passed=heard.those("passed"),
            skipped=heard.those("skipped"),
            failed=heard.those("failed"),
            **statements.configuration_of(target.image),
        )
        try:
            statements.add(path, statement)
        except OSError as error:
            run.warn(f"{label}: what was tested could not be written beside {path}: {error}")
