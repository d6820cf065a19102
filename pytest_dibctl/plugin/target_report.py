"""The data of a target for summaries: seconds of its phases, outcomes, and resources kept or left."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from pytest_dibctl.run.removal import Removal, Resource, State
from pytest_dibctl.run.target_run import TargetRun

STEPS = ("build", "upload", "boot", "ready")
RARE = ("tree", "warm", "pristine")
"""Steps that few runs have; the summary shows them where one took place."""
PHASES = (*STEPS, "tests", "cleanup")
SHORTEST_SHOWN = 0.05
"""Seconds below which a phase is not shown."""
LONG = 100.0
"""Seconds from which on the table shows minutes."""
TABLE_WIDTH, CELL, SHORTEST_LABEL = 80, 7, 12
OF_FAILURES = ("dib_cause", "dib_console_line", "dib_screen")
"""Facts of a guest that did not work, which another guest of the target does not have."""
HERE_ONLY = ("outcomes", "failures", "dependents", "known_failures", "facts", "failed_guests", "tests")
"""Fields that are filled where reports come together."""
WAIT = "wait"
"""Seconds spent waiting for other workers; shown only where there were any."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A test that failed: its node id, the phase that failed (setup, call, teardown), text and log files."""

    nodeid: str
    when: str
    text: str
    logs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """The time of a step or test of a target; start and end are seconds since the epoch."""

    name: str
    start: float
    end: float
    failed: bool = False
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestResult:
    """The outcome of one test, or of its setup or teardown if that failed.

    ``seconds`` are those of the test itself: the time of its setup and teardown is that of steps.
    ``reason`` is why it was skipped or expected to fail.
    """

    __test__ = False

    nodeid: str
    outcome: str
    seconds: float
    reason: str = ""


@dataclasses.dataclass(kw_only=True)
class TargetReport:
    """The data of one target for summaries; under xdist the sum of its workers' reports.

    ``phases`` are seconds by step. ``reused`` is why the image was not built, None if it was. ``digest``
    is its file's SHA-512 in hex. ``outcomes``, ``failures``, ``known_failures`` and ``dependents`` are
    counted where reports come together: in the controller.
    """

    image: str = ""
    environment: str = ""
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    reused: str | None = None
    digest: str | None = None
    file: str | None = None
    """The image's file."""
    build_phases: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of the phases of a build that was made in this run."""
    boot_stages: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of the stages of a boot: of kernel, initrd and userspace."""
    spans: list[Span] = dataclasses.field(default_factory=list)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    """The newest properties of the target's tests, by their names; those of a failed guest go first."""
    failed_guests: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Those facts that a guest has which does not work, by the worker whose guest it is."""
    tests: list[TestResult] = dataclasses.field(default_factory=list)
    instances: list[str] = dataclasses.field(default_factory=list)
    logs: list[str] = dataclasses.field(default_factory=list)
    seen: list[str] = dataclasses.field(default_factory=list)
    """Trouble in guests, and the times of their boots: lines for the summary."""
    removals: list[Removal] = dataclasses.field(default_factory=list)
    """Resources that were kept or could not be removed; one entry for each."""
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    known_failures: list[str] = dataclasses.field(default_factory=list)
    """Lines on tests that are known to fail."""
    dependents: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How many tests were skipped since a step that they need had failed, by the reason."""

    def add_facts(self, facts: Mapping[str, str], *, guest: str) -> None:
        """Enter the properties of a test that ran on worker ``guest``, which has a guest of its own."""
        self.failed_guests[guest] = {name: facts[name] for name in OF_FAILURES if name in facts}
        rest = {name: fact for name, fact in self.facts.items() if name not in OF_FAILURES}
        of_failed = next((known for known in self.failed_guests.values() if known), {})
        self.facts = {**rest, **facts, **of_failed}

    @property
    def kept(self) -> list[Removal]:
        """Resources that were kept on purpose."""
        return [removal for removal in self.removals if removal.state is State.KEPT]

    @property
    def leftovers(self) -> list[Removal]:
        """Resources that could not be removed."""
        return [removal for removal in self.removals if removal.failed]

    @property
    def failed(self) -> bool:
        """Whether the target did not pass."""
        return bool(self.failures or self.leftovers or self.dependents)

    @property
    def outcomes_by_test(self) -> dict[str, set[str]]:
        """The outcomes of each test by its node id; a test that passes may have a teardown that fails."""
        outcomes: dict[str, set[str]] = {}
        for test in self.tests:
            outcomes.setdefault(test.nodeid, set()).add(test.outcome)
        return outcomes

    def as_data(self) -> dict[str, Any]:
        """Return a worker's data for its controller, plain data; ``from_data`` reads it."""
        data = dataclasses.asdict(self)
        for here_only in HERE_ONLY:
            del data[here_only]
        data["removals"] = [removal.as_data() for removal in self.removals]
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TargetReport:
        """Return the report that ``as_data`` of a worker wrote."""
        removals = [Removal.from_data(removal) for removal in data["removals"]]
        return cls(**{**data, "removals": removals, "spans": [Span(**span) for span in data["spans"]]})

    def add(self, other: TargetReport) -> None:
        """Add the report of another process on the same target."""
        for name, seconds in other.phases.items():
            self.phases[name] = self.phases.get(name, 0.0) + seconds
        self.image = self.image or other.image
        self.environment = self.environment or other.environment
        self.reused = self.reused or other.reused
        self.digest = self.digest or other.digest
        self.file = self.file or other.file
        self.build_phases = self.build_phases or other.build_phases
        self.boot_stages = self.boot_stages or other.boot_stages
        self.spans += other.spans
        for mine, more in (
            (self.instances, other.instances),
            (self.logs, other.logs),
            (self.seen, other.seen),
        ):
            mine += [name for name in more if name not in mine]
        self.removals += other.removals

    def add_test(self, result: TestResult, *, started: float) -> None:
        """Add the outcome of a test, which began at a time; 0 where that is not known."""
        self.tests.append(result)
        if result.outcome != "skipped" and started > 0 and result.seconds > 0:
            failed = result.outcome in {"failed", "errors"}
            end = started + result.seconds
            self.spans.append(Span(name="tests", start=started, end=end, failed=failed, title=result.nodeid))

    def add_removal(self, removal: Removal) -> None:
        """Add a removal of the controller: removed, kept or left; a leftover only once."""
        if removal.seconds:
            self.phases["cleanup"] = self.phases.get("cleanup", 0.0) + removal.seconds
        known = removal.failed and any(removal.resource == left.resource for left in self.leftovers)
        if removal.state in {State.KEPT, State.LEFT} and not known:
            self.removals.append(removal)

    def forget_removed(self, still_there: Collection[Resource]) -> None:
        """Drop leftovers that a later attempt removed."""
        self.removals = [
            removal for removal in self.removals if not removal.failed or removal.resource in still_there
        ]


def report_of(target_run: TargetRun) -> TargetReport:
    """Return this process's report of a target run."""
    return TargetReport(
        image=target_run.label,
        environment=target_run.environment.label,
        phases=dict(target_run.phases),
        reused=target_run.built.reused,
        digest=target_run.digest,
        file=str(target_run.built.file) if target_run.built.file else None,
        build_phases=dict(target_run.built.phases),
        boot_stages=dict(target_run.guest.boot_stages),
        spans=[Span(name=name, start=start, end=end) for name, start, end in target_run.spans],
        instances=[target_run.guest.id] if target_run.guest.id else [],
        logs=[str(path) for path in (target_run.built.log, target_run.guest.console_log) if path is not None],
        seen=[*target_run.guest.troubles, *([target_run.guest.boot] if target_run.guest.boot else [])],
        removals=list(target_run.removals),
    )


def columns(target_reports: Mapping[str, TargetReport]) -> tuple[str, ...]:
    """Return the phases that a table of these reports has columns for: those that took time anywhere."""
    reports = target_reports.values()
    order = (*STEPS, *RARE, *PHASES[len(STEPS) :])
    shown = [
        name for name in order if any(report.phases.get(name, 0.0) >= SHORTEST_SHOWN for report in reports)
    ]
    waited = any(report.phases.get(WAIT, 0.0) >= 1 for report in reports)
    return (*shown, *([WAIT] if waited else []))


def verdict(target_report: TargetReport) -> str:
    """Return the outcome of a target in one word: "passed", "failed" or "not run"."""
    if target_report.failures or target_report.leftovers:
        return "failed"
    ran = sum(target_report.outcomes[name] for name in ("passed", "xpassed", "xfailed"))
    return "passed" if ran and not target_report.dependents else "not run"


def outcome_words(target_report: TargetReport) -> str:
    """Return a target's outcome as the terminal's table shows it, counted in tests."""
    tests = target_report.outcomes_by_test.values()
    total = len(tests)
    word = verdict(target_report)
    if word == "failed":
        failed = sum(bool(outcomes & {"failed", "errors"}) for outcomes in tests)
        return f"failed {failed} of {total}"
    if word == "passed":
        passed = sum(outcomes != {"skipped"} for outcomes in tests)
        return f"passed {passed}" + (f" of {total}" if passed < total else "")
    return f"not run {total}"


def phase_table(target_reports: Mapping[str, TargetReport]) -> list[str]:
    """Return the terminal's table: a line per target with its outcome and the seconds of its phases."""
    outcomes = [outcome_words(target_report) for target_report in target_reports.values()]
    names = columns(target_reports)
    second = max(len("outcome"), *map(len, outcomes))
    room = TABLE_WIDTH - second - 2 - sum(2 + CELL for _ in names)
    first = max(len("image"), min(max(map(len, target_reports)), max(room, SHORTEST_LABEL)))
    lines = [f"{'image':<{first}}  {'outcome':<{second}}" + "".join(f"  {name:>{CELL}}" for name in names)]
    for (label, target_report), outcome in zip(target_reports.items(), outcomes, strict=True):
        cells = "".join(f"  {_cell(target_report, name):>{CELL}}" for name in names)
        shown = label if len(label) <= first else f"{label[: first - 3]}..."
        lines.append(f"{shown:<{first}}  {outcome:<{second}}{cells}".rstrip())
    return lines


def _cell(target_report: TargetReport, name: str) -> str:
    seconds = target_report.phases.get(name)
    if name == "build" and target_report.reused and (seconds or 0.0) < SHORTEST_SHOWN:
        return "reused"
    if seconds is None or seconds < SHORTEST_SHOWN:
        return "-"
    return f"{seconds:.1f}s" if seconds < LONG else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
