"""pytest's reports of image tests: the data that this plugin adds, and the only place that reads it.

A test's own process writes; xdist carries the report to its controller as JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from pytest_dibctl.plugin.planning import Plan
from pytest_dibctl.run.targets import Target

PREFIX = "dib_"
"""How the names of our properties begin."""
LOGS = (f"{PREFIX}console_log", f"{PREFIX}screen", f"{PREFIX}build_log")
"""The properties that name a log file, in the order in which reports list them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notes:
    """The data that the process of a test adds to its report, beside the properties; plain data.

    ``phases`` are the seconds that the process has spent on the target up to now. ``entry`` is the turn of
    the test's entry among those of its image, None for a file named on the command line only.
    ``content_failed`` says that the image's files failed the test. ``failed_tally`` names the sum that
    counts the failures of the entry, and ``exit_code`` is that of the DibctlError that failed the test.
    ``not_applicable`` is why a shipped test skipped itself; None for a test that another skipped.
    ``known_failure`` has the address and the last day of the known failure that a test is marked with.
    ``follows`` is why a test was skipped that needs a step which failed before.
    """

    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    entry: int | None = None
    content_failed: bool = False
    failed_tally: str | None = None
    exit_code: int | None = None
    not_applicable: str | None = None
    follows: str | None = None
    known_failure: Mapping[str, str] | None = None

    def write(self, report: pytest.TestReport) -> None:
        """Put the notes on a report, in place of those that it has."""
        report.dib_notes = dataclasses.asdict(self)  # type: ignore[attr-defined]

    @classmethod
    def read(cls, report: pytest.TestReport) -> Notes:
        """Return the notes of a report, empty ones if it has none."""
        return cls(**getattr(report, "dib_notes", {}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """pytest's report of one phase of an image's test.

    ``when`` is setup, call or teardown; xdist's report of a test that ended its worker has ``???``.
    ``outcome`` is what the phase adds to the outcomes of the target, None for a phase that adds nothing.
    ``rerun`` says that pytest-rerunfailures runs the failed test again. ``facts`` are our properties by
    name, ``text`` is the text of a failure, ``worker`` is xdist's id of the process that ran the test.
    ``reason`` is that of a skip or an expected failure. The phase began at ``started``, seconds since the
    epoch, and took so many ``seconds``; both are 0 where a worker died in it.
    """

    target: Target
    nodeid: str
    when: str
    outcome: str | None
    failed: bool
    skipped: bool
    rerun: bool
    text: str
    facts: Mapping[str, str]
    notes: Notes
    worker: str | None
    reason: str = ""
    started: float = 0.0
    seconds: float = 0.0

    @property
    def logs(self) -> tuple[str, ...]:
        """The log files that the report names."""
        return tuple(self.facts[name] for name in LOGS if name in self.facts)


def read(report: pytest.TestReport, plan: Plan) -> PhaseReport | None:
    """Return a report's data of a target of ``plan``, None for a test of no image."""
    facts = facts_of(report)
    target = plan.target(facts.get(f"{PREFIX}image"), facts.get(f"{PREFIX}environment"))
    if target is None:
        return None
    return PhaseReport(
        target=target,
        nodeid=report.nodeid,
        when=report.when or "",
        outcome=_outcome(report),
        failed=report.failed,
        skipped=report.skipped,
        rerun=_is_rerun(report),
        text=report.longreprtext if report.failed else "",
        facts=facts,
        notes=Notes.read(report),
        worker=getattr(report, "worker_id", None),
        reason=_reason(report),
        started=report.start,
        seconds=report.duration,
    )


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped, or expected to fail."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def facts_of(report: pytest.TestReport) -> dict[str, str]:
    """Return our properties of a report."""
    # Names are strings by pytest's types only: record_property takes any value as one.
    return {name: str(value) for name, value in report.user_properties if str(name).startswith(PREFIX)}


def _is_rerun(report: pytest.TestReport) -> bool:
    return report.outcome == "rerun"  # type: ignore[comparison-overlap]  # pytest-rerunfailures' own


def _outcome(report: pytest.TestReport) -> str | None:
    """Return what a phase adds to the outcomes of its target; most phases that pass add nothing."""
    if _is_rerun(report):
        return "reruns"
    if report.failed:
        return "failed" if report.when == "call" else "errors"
    if report.skipped:
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    if report.when != "call":
        return None
    return "xpassed" if hasattr(report, "wasxfail") else "passed"
