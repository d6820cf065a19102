"""Statements beside each image: the tests of the run, and whether the run left out a listed test."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.image import statements
from pytest_dibctl.image.statements import Statement
from pytest_dibctl.plugin import collection, modules, planning
from pytest_dibctl.plugin.reports import PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run import uploading, warming
from pytest_dibctl.run.targets import Target

CHOOSING = (*collection.NOT_ALL_COLLECTED, "keyword", "markexpr", "stepwise", "collectonly")
"""Options with which a run leaves tests out."""


COLLECTED = "what statements say was collected"
"""Under which name a run's processes know the tests of each target, and the digests of their files."""


@dataclasses.dataclass(kw_only=True)
class _TargetOutcomes:
    """Outcomes of one target's tests, by node id, and the reasons of those that do not apply.

    ``rerunning`` are tests that failed and are run again; their failure is forgotten when they begin.
    ``dependents`` are tests that were skipped since a step that they need had failed; ``known`` are known
    failures that have failed.
    """

    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    not_applicable: dict[str, str] = dataclasses.field(default_factory=dict)
    rerunning: set[str] = dataclasses.field(default_factory=set)
    dependents: set[str] = dataclasses.field(default_factory=set)
    known: dict[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def have_run(self) -> bool:
        """Whether a test was run to an end of its own, and not skipped."""
        return bool({"passed", "failed"} & set(self.outcomes.values())) or bool(self.known)

    def tests(self, outcome: str) -> tuple[str, ...]:
        """Return the node ids of the tests with an outcome, sorted."""
        return tuple(sorted(nodeid for nodeid, result in self.outcomes.items() if result == outcome))

    def is_settled(self, nodeid: str) -> bool:
        """Whether a test passed, failed, failed with its step, or said of itself that it does not apply."""
        if nodeid in self.dependents:
            return bool(self.tests("failed"))
        settled = nodeid in self.not_applicable or nodeid in self.known
        return settled or self.outcomes.get(nodeid) in {"passed", "failed"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Matter:
    """The subject of one statement: a target, or the rungs of one image, in order.

    ``targets`` are these with their outcomes, ``collected`` what is known of the tests of each.
    """

    targets: Sequence[tuple[Target, _TargetOutcomes]]
    collected: Sequence[Mapping[str, Any]]

    @property
    def image(self) -> Entry[Image]:
        """The image."""
        return self.targets[0][0].image

    @functools.cached_property
    def outcomes(self) -> _TargetOutcomes:
        """The outcomes of all targets; no two have a test in common."""
        whole = _TargetOutcomes()
        for _, outcomes in self.targets:
            whole.outcomes |= outcomes.outcomes
            whole.not_applicable |= outcomes.not_applicable
            whole.known |= outcomes.known
        return whole

    @property
    def tests(self) -> dict[str, int | None]:
        """The tests that were collected, with the turns of their entries."""
        return {test: entry for known in self.collected for test, entry in known.get("tests", {}).items()}

    @property
    def files(self) -> dict[str, str]:
        """The files of the tests, with their digests."""
        return {file: digest for known in self.collected for file, digest in known.get("files", {}).items()}

    @property
    def is_settled(self) -> bool:
        """Whether each test came to an end, but for those skipped after a failed rung."""
        for (_, outcomes), known in zip(self.targets, self.collected, strict=True):
            if not all(map(outcomes.is_settled, known.get("tests", {}))):
                return False
            if outcomes.tests("failed"):
                break
        return True

    @property
    def _ran(self) -> list[Target]:
        return [target for target, outcomes in self.targets if outcomes.have_run]

    @property
    def ladder(self) -> tuple[str, ...]:
        """The environments in which tests ran, if these are several."""
        return tuple(target.environment.label for target in self._ran) if len(self._ran) > 1 else ()

    @property
    def last(self) -> Entry[TestEnvironment]:
        """The environment that has the word: the last in which a test ran.

        A failure withdraws the earlier statement about the environment that it was on the way to.
        """
        every = [target for target, _ in self.targets]
        return ((not self.outcomes.tests("failed") and self._ran) or every)[-1].environment


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
        """Record the tests, with their files; a test that was collected and is gone was left out."""
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
            if report.notes.known_failure:
                target.known[nodeid] = report.notes.known_failure
            if report.notes.follows:
                target.dependents.add(nodeid)
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
            for matter in self._matters(collected):
                # A run that failed vouches for nothing; of what failed in it the statement says so.
                counts = whole and (passed or bool(matter.outcomes.tests("failed")))
                self._write(matter, whole=counts)
        return result

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether the run left out nothing of what is listed."""
        ended = session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        stopped = bool(session.shouldstop or session.shouldfail)
        chosen = any(self._session.config.getoption(name, None) for name in CHOOSING)
        partial = self._session.plan.paths_given or bool(self._session.run_state.total("deselected"))
        return ended and not (stopped or chosen or partial)

    def _matters(self, collected: Mapping[str, Mapping[str, Any]]) -> list[_Matter]:
        """Return what statements are about: each target, or the rungs of an image that have a test."""
        plan = self._session.plan
        groups: list[list[Target]] = [[target] for target in self._targets]
        if plan.ladder:
            ladders = [plan.rungs(image) for image in plan.images]
            groups = [[rung for rung in rungs if rung.id in collected] for rungs in ladders]
        return [
            _Matter(
                targets=[(target, self._targets.get(target, _TargetOutcomes())) for target in targets],
                collected=[collected.get(target.id, {}) for target in targets],
            )
            for targets in groups
            if targets
        ]

    def _write(self, matter: _Matter, *, whole: bool) -> None:
        image, options = matter.image, self._session.options
        digests = [self._session.target_report(target.id).digest for target, _ in matter.targets]
        digest = next(filter(None, digests), None)
        if digest is None or not options.has_file:
            return
        planned = [entry for entry in self._session.plan.entries if entry.image == image.label]
        unproven = [
            uploading.unproven_file(image.label, target.environment.label) for target, _ in matter.targets
        ]
        path = builder.target_file(image, options.input, self._session.cwd)
        last, outcomes = matter.last, matter.outcomes
        statement = Statement(
            file=path.name,
            sha512=digest,
            label=image.label,
            environment=last.label,
            environment_vouches=last.settings.is_vouching,
            ladder=matter.ladder,
            resumed=any(
                warming.only_resumed(self._session.run_state, image.label, target.environment.label)
                for target, outcomes in matter.targets
                if outcomes.have_run
            ),
            finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            whole=whole
            and matter.is_settled
            and not any(map(self._session.run_state.get, unproven))
            and {entry.index for entry in planned} <= set(matter.tests.values()),
            entries=tuple(statements.entry_name(entry.kind, entry.written) for entry in planned),
            passed=outcomes.tests("passed"),
            skipped=outcomes.tests("skipped"),
            failed=outcomes.tests("failed"),
            not_applicable=outcomes.not_applicable,
            known_failures=outcomes.known,
            test_files=matter.files,
            **statements.configuration_of(image),
        )
        try:
            statements.add(path, statement)
        except OSError as error:
            self._session.warnings.append(
                f"{image.label}: the test statement could not be written beside {path}: {error}"
            )
        if statement.passed_all and not statement.vouches:
            self._session.notes.append(_why_not_vouching(statement))


def _why_not_vouching(statement: Statement) -> str:
    if statement.resumed:
        return (
            f"{statement.label}: passed on resumed instances only, which does not vouch for it: uploads "
            "with `require_tested` need a run without --dib-warm, or with a test that needs a first boot"
        )
    return (
        f"{statement.label}: passed in {statement.environment}, which does not vouch for it: uploads with "
        "`require_tested` need a test run in an environment that does"
    )


def _digest(path: Path) -> str:
    try:
        return statements.digest_of(path)
    except OSError:
        return ""  # no file has it: the statement vouches for nothing
