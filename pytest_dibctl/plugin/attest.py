"""What a run tested is written beside each image, and whether the run left out nothing that is listed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.image import statements
from pytest_dibctl.image.statements import Statement
from pytest_dibctl.plugin import collection, modules, planning
from pytest_dibctl.plugin.reports import PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run import uploading
from pytest_dibctl.run.targets import Target

CHOOSING = (*collection.NOT_ALL_COLLECTED, "keyword", "markexpr", "stepwise", "collectonly")
"""Options with which a run leaves tests out."""


COLLECTED = "what statements say was collected"
"""Under which name a run's processes know the tests of each target, and the digests of their files."""


@dataclasses.dataclass(kw_only=True)
class _TargetOutcomes:
    """Outcomes of one target's tests, by node id, and the reasons of those that do not apply.

    ``rerunning`` are tests that failed and are run again; their failure is forgotten when they begin.
    """

    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    not_applicable: dict[str, str] = dataclasses.field(default_factory=dict)
    rerunning: set[str] = dataclasses.field(default_factory=set)

    def tests(self, outcome: str) -> tuple[str, ...]:
        """Return the node ids of the tests with an outcome, sorted."""
        return tuple(sorted(nodeid for nodeid, given in self.outcomes.items() if given == outcome))

    def is_settled(self, nodeid: str) -> bool:
        """Whether a test passed, failed, or said of itself that it does not apply."""
        return self.outcomes.get(nodeid) in {"passed", "failed"} or nodeid in self.not_applicable


class Attestation:
    """Collects outcomes and writes a run's statements at its end; of an xdist run the controller does.

    On a worker it only tells the controller which tests there are, and counts those that were left out.
    """

    def __init__(self, session: DibSession) -> None:
        self._session = session
        self._targets: dict[Target, _TargetOutcomes] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember, for all processes of the run, that not everything is run."""
        self._left_out(len(items))

    def _left_out(self, number: int = 1) -> None:
        if number:
            self._session.run_state.add("deselected", number)

    # Before xdist's workers report, and before a test can change its own file.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Put down which tests there are, with their files; what was collected and is gone was left out."""
        left = {item.nodeid for item in session.items}
        self._left_out(len(self._session.collected - left))
        collected: dict[str, dict[str, Any]] = {}
        for item in session.items:
            target = modules.target_of(item)
            if target is not None:
                known = collected.setdefault(target.id, {"tests": {}, "files": {}})
                entry = item.stash.get(modules.ENTRY, None)
                known["tests"][item.nodeid] = entry.index if entry else None
                known["files"] |= self._digests(item)
        self._session.run_state.put(COLLECTED, collected)

    def _digests(self, item: pytest.Item) -> dict[str, str]:
        """Return the digests of a test's file and of the conftest files around it, by their names."""
        entry = item.stash.get(modules.ENTRY, None)
        if entry is not None and entry.kind == planning.EXTERNAL:
            return {}  # its command is the entry itself, and its file the configuration
        root = self._session.config.rootpath
        folders = [
            folder for folder in item.path.parents if folder.is_relative_to(root)
        ] or item.path.parents[:1]
        conftests = [folder / "conftest.py" for folder in folders]
        return {
            statements.named(path, self._session.cwd): _digest(path)
            for path in (item.path, *(conftest for conftest in conftests if conftest.is_file()))
        }

    def add(self, report: PhaseReport) -> None:
        """Note an outcome; a failure stays, unless the test is run again: then the last one counts."""
        target = self._targets.setdefault(report.target, _TargetOutcomes())
        nodeid = report.nodeid
        if report.when == "setup" and nodeid in target.rerunning:
            target.rerunning.discard(nodeid)
            target.outcomes.pop(nodeid, None)
        if report.rerun:
            target.rerunning.add(nodeid)
        if report.failed or report.rerun:
            target.outcomes[nodeid] = "failed"
        elif target.outcomes.get(nodeid) == "failed":
            return
        elif report.skipped:
            target.outcomes[nodeid] = "skipped"
            if report.notes.not_applicable is not None:
                target.not_applicable[nodeid] = report.notes.not_applicable
        elif report.when == "call":
            target.outcomes.setdefault(nodeid, "passed")

    # Inside of the terminal's own, which shows the summary, and with it the statements that failed.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the statements once every target report is complete."""
        result = yield
        if not self._session.is_worker:
            whole = self._is_whole(session)
            passed = session.exitstatus == pytest.ExitCode.OK
            collected = self._session.run_state.get(COLLECTED) or {}
            for target, outcomes in self._targets.items():
                # A run that failed vouches for nothing; of what failed in it the statement says so.
                counts = whole and (passed or bool(outcomes.tests("failed")))
                self._write(target, outcomes, collected.get(target.id, {}), whole=counts)
        return result

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether the run left out nothing of what is listed."""
        ended = session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        stopped = bool(session.shouldstop or session.shouldfail)
        chosen = any(self._session.config.getoption(name, None) for name in CHOOSING)
        partial = self._session.plan.paths_given or bool(self._session.run_state.total("deselected"))
        return ended and not (stopped or chosen or partial)

    def _write(
        self, target: Target, outcomes: _TargetOutcomes, collected: Mapping[str, Any], *, whole: bool
    ) -> None:
        label, options = target.image.label, self._session.options
        digest = self._session.target_report(target.id).digest
        if digest is None or not options.has_file:
            return
        planned = [entry for entry in self._session.plan.entries if entry.image == label]
        tests: Mapping[str, int | None] = collected.get("tests", {})
        unproven = uploading.unproven_file(label, target.environment.label)
        path = builder.target_file(target.image, options.input, self._session.cwd)
        statement = Statement(
            file=path.name,
            sha512=digest,
            label=label,
            environment=target.environment.label,
            finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            whole=whole
            and not self._session.run_state.get(unproven)
            and all(map(outcomes.is_settled, tests))
            and {entry.index for entry in planned} <= set(tests.values()),
            entries=tuple(statements.entry_name(entry.kind, entry.written) for entry in planned),
            passed=outcomes.tests("passed"),
            skipped=outcomes.tests("skipped"),
            failed=outcomes.tests("failed"),
            not_applicable=outcomes.not_applicable,
            test_files=collected.get("files", {}),
            **statements.configuration_of(target.image),
        )
        try:
            statements.add(path, statement)
        except OSError as error:
            self._session.warnings.append(
                f"{label}: what was tested could not be written beside {path}: {error}"
            )


def _digest(path: Path) -> str:
    try:
        return statements.digest_of(path)
    except OSError:
        return ""  # no file has it: the statement vouches for nothing
