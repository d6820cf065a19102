"""What summaries show of a target: seconds of its phases, outcomes, and resources kept or left."""

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
WAIT = "wait"
"""Seconds spent waiting for other workers; shown only where there were any."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A test that failed: its node id, the phase that failed (setup, call, teardown), text and log files."""

    nodeid: str
    when: str
    text: str
    logs: tuple[str, ...] = ()


@dataclasses.dataclass(kw_only=True)
class TargetReport:
    """What the summaries show of one target; under xdist the sum of what its workers report.

    ``phases`` are seconds by step. ``reused`` is why the image was not built, None if it was. ``digest``
    is its file's SHA-512 in hex. ``outcomes`` and ``failures`` are counted where reports come together: in
    the controller.
    """

    image: str = ""
    environment: str = ""
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    reused: str | None = None
    digest: str | None = None
    instances: list[str] = dataclasses.field(default_factory=list)
    logs: list[str] = dataclasses.field(default_factory=list)
    removals: list[Removal] = dataclasses.field(default_factory=list)
    """What was kept, and what could not be removed; one for each resource."""
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[Failure] = dataclasses.field(default_factory=list)

    @property
    def kept(self) -> list[Removal]:
        """What was left on purpose."""
        return [removal for removal in self.removals if removal.state is State.KEPT]

    @property
    def leftovers(self) -> list[Removal]:
        """What could not be removed."""
        return [removal for removal in self.removals if removal.failed]

    @property
    def failed(self) -> bool:
        """Whether the target did not pass."""
        return bool(self.failures or self.leftovers)

    def as_data(self) -> dict[str, Any]:
        """Return what a worker sends to its controller, plain data; ``from_data`` reads it."""
        data = dataclasses.asdict(self)
        del data["outcomes"], data["failures"]
        data["removals"] = [removal.as_data() for removal in self.removals]
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TargetReport:
        """Return the report that ``as_data`` of a worker wrote."""
        return cls(**{**data, "removals": [Removal.from_data(removal) for removal in data["removals"]]})

    def add(self, other: TargetReport) -> None:
        """Add the report of another process on the same target."""
        for name, seconds in other.phases.items():
            self.phases[name] = self.phases.get(name, 0.0) + seconds
        self.image = self.image or other.image
        self.environment = self.environment or other.environment
        self.reused = self.reused or other.reused
        self.digest = self.digest or other.digest
        for mine, more in ((self.instances, other.instances), (self.logs, other.logs)):
            mine += [name for name in more if name not in mine]
        self.removals += other.removals

    def add_removal(self, removal: Removal) -> None:
        """Add what the controller removed, kept or could not remove; a leftover only once."""
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
    """Return what this process reports of a target run."""
    return TargetReport(
        image=target_run.label,
        environment=target_run.environment.label,
        phases=dict(target_run.phases),
        reused=target_run.built.reused,
        digest=target_run.digest,
        instances=[target_run.guest.id] if target_run.guest.id else [],
        logs=[str(path) for path in (target_run.built.log, target_run.guest.console_log) if path is not None],
        removals=list(target_run.removals),
    )


def columns(target_reports: Mapping[str, TargetReport]) -> tuple[str, ...]:
    """Return the phases that a table of these reports has columns for."""
    waited = any(target_report.phases.get(WAIT, 0.0) >= 1 for target_report in target_reports.values())
    rare = [
        name
        for name in RARE
        if any(name in target_report.phases for target_report in target_reports.values())
    ]
    return (*STEPS, *rare, *PHASES[len(STEPS) :], *([WAIT] if waited else []))


def phase_table(target_reports: Mapping[str, TargetReport]) -> list[str]:
    """Return the terminal's table: a line per target, seconds per phase."""
    width = max(len("image"), *(len(label) for label in target_reports))
    names = columns(target_reports)
    lines = [f"{'image':<{width}}  " + "  ".join(f"{name:>8}" for name in names)]
    for label, target_report in target_reports.items():
        cells = [
            f"{target_report.phases[name]:>7.1f}s" if name in target_report.phases else f"{'-':>8}"
            for name in names
        ]
        note = f"  ({target_report.reused})" if target_report.reused else ""
        lines.append(f"{label:<{width}}  " + "  ".join(cells) + note)
    return lines
