"""The hooks of xdist's controller: which worker tests what, and what is left of workers and test images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dibctl.cleanup.workers import WorkerCleanup
from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.plugin.xdist.scheduler import ImageScheduling
from pytest_dibctl.run import building
from pytest_dibctl.run.targets import Target

if TYPE_CHECKING:
    from pytest_dibctl.plugin.session import ActiveRun

PREFIX = "dib_"
INTERRUPTED = "keyboard-interrupt"
"""What xdist calls the end of a worker that was interrupted."""


def is_controller(config: pytest.Config) -> bool:
    """Whether this process hands tests out to workers."""
    return bool(config.getoption("tx", None)) and config.getoption("dist", "no") != "no"


def worker_id(config: pytest.Config) -> str | None:
    """Return which of xdist's workers this process is, None if it is none."""
    found = getattr(config, "workerinput", {}).get("workerid")
    return str(found) if found else None


def items_of(worker: str) -> str:
    """Return under which name a worker says what it has collected."""
    return f"items of {worker}"


class Distribution:
    """What only the controller of an xdist run does."""

    def __init__(self, run: ActiveRun, worker_cleanup: WorkerCleanup) -> None:
        self._run = run
        self._worker_cleanup = worker_cleanup
        self._scheduling: ImageScheduling | None = None
        self._facts: dict[tuple[str, str], dict[str, str]] = {}
        """What the last report of a worker said of a target, by the worker's and the target's id."""
        self._phases: dict[tuple[str, str], dict[str, float]] = {}
        """The seconds that the worker itself had spent on the target by then."""
        self._crashing: Any = None
        """The worker that just died in a test whose report, the one that says so, is still to come."""
        self._after_crash: list[Callable[[], None]] = []
        self._nodes: list[Any] = []

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker which run it belongs to."""
        node.workerinput["dibctl_run"] = self._worker_cleanup.ledger.run_id
        self._nodes.append(node)

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> ImageScheduling:
        """Keep each target's tests together, whatever --dist says."""
        from xdist.workermanage import parse_tx_spec_config  # execnet comes with it

        self._scheduling = ImageScheduling(
            config=config,
            numnodes=len(parse_tx_spec_config(config)),
            groups_of=self._groups_of,
            first_of=self._first_of,
            instances=config.getoption("dib_instances"),
            on_done=self._done,
            on_difference=self._refuse_difference,
        )
        return self._scheduling

    def _groups_of(self, node: Any) -> Sequence[Hashable]:
        said = self._said(node)
        assert said is not None  # written before the worker tells xdist what it has collected
        groups: list[str] = said["groups"]
        return groups

    def _first_of(self, node: Any) -> Sequence[bool]:
        """Tell which tests come before any boot: none may begin while these could still forbid it."""
        said = self._said(node)
        assert said is not None
        return [kind == "image" for kind in said["kinds"]]

    def _said(self, node: Any) -> dict[str, Any] | None:
        said: dict[str, Any] | None = self._run.run_state.get(items_of(node.gateway.id))
        return said

    def _done(self, group: Hashable) -> None:
        target = self._target(group)
        if target is not None:
            self._once_told(lambda: self._remove_image(target))

    def _remove_image(self, target: Target) -> None:
        # Meanwhile somebody may have asked for the test again that a worker died of.
        assert self._scheduling is not None
        if self._scheduling.is_done(target.id):
            self._worker_cleanup.target_done(target)

    def _once_told(self, removal: Callable[[], None]) -> None:
        """Begin a removal, but not before a crash is told: what to keep depends on who failed."""
        if self._crashing is None:
            removal()
        else:
            self._after_crash.append(removal)

    def _crash_is_told(self) -> None:
        self._crashing = None
        removals, self._after_crash = self._after_crash, []
        for removal in removals:
            removal()

    def _target(self, group: Hashable) -> Target | None:
        return next((target for target in self._run.plan.targets if target.id == group), None)

    def _refuse_difference(self, one: Any, other: Any) -> None:
        from xdist.report import report_collection_diff

        said = [self._collected(node) for node in (one, other)]
        text = report_collection_diff(*said, one.gateway.id, other.gateway.id)
        report = pytest.CollectReport(
            nodeid=other.gateway.id, outcome="failed", longrepr=text or "the order differs", result=[]
        )
        self._run.config.hook.pytest_collectreport(report=report)

    def _collected(self, node: Any) -> list[str]:
        return list((self._said(node) or {}).get("ids", ()))

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what a worker has to say, or remove what one that died can not."""
        for label, data in getattr(node, "workeroutput", {}).get("dibctl", {}).items():
            self._run.target_report(label).add(TargetReport.from_data(data))
        if error and error != INTERRUPTED and (said := self._said(node)) is not None:
            self._account_for_dead(node.gateway.id)
            if self._scheduling is not None and self._scheduling.is_busy(node):
                self._crashing = node
            self._once_told(lambda: self._worker_cleanup.worker_died(said["pid"]))

    def _account_for_dead(self, worker: str) -> None:
        """Enter what is known of the time that a worker spent which cannot tell any more."""
        for (whose, label), phases in self._phases.items():
            if whose == worker:
                self._run.target_report(label).add(TargetReport(phases=phases))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Remember the facts of the report, for the test that its worker may die of."""
        self._remember(report)
        result = yield
        if self._crashing is not None and getattr(report, "node", None) is self._crashing:
            self._crash_is_told()
        return result

    def _remember(self, report: pytest.TestReport) -> None:
        facts = {name: str(value) for name, value in report.user_properties if name.startswith(PREFIX)}
        target = self._run.target_named(facts)
        if target is not None and (worker := getattr(report, "worker_id", None)):
            self._facts[worker, target.id] = facts
            self._phases[worker, target.id] = getattr(report, "dib_phases", {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Put on the report of a test that crashed its worker what is known of its target."""
        assert self._scheduling is not None
        target = self._target(self._scheduling.group_of(crashitem))
        if target is None:
            return
        worker = report.node.gateway.id
        report.user_properties = [
            (PREFIX + "image", target.image.label),
            (PREFIX + "environment", target.environment.label),
        ]
        known = self._facts.get((worker, target.id), {})
        said = self._said(report.node)
        assert said is not None  # it has been given a test
        place = said["ids"].index(crashitem)
        report.dib_tally = said["tallies"][place]  # type: ignore[attr-defined]
        report.dib_content_failed = said["kinds"][place] == "image"  # type: ignore[attr-defined]
        report.user_properties.append((PREFIX + "kind", said["kinds"][place]))
        named = dict(report.user_properties)
        built = building.build_facts(self._run.run_state, target.image.label)
        known = {**{PREFIX + name: value for name, value in built.items()}, **known}
        report.user_properties += [(name, value) for name, value in known.items() if name not in named]

    def finish(self) -> None:
        """Remove all that is left, once the workers are gone."""
        self._crash_is_told()
        by_label = {
            (target.image.label, target.environment.label): target.id for target in self._run.plan.targets
        }
        workers = [said["pid"] for node in self._nodes if (said := self._said(node)) is not None]
        for removal in self._worker_cleanup.finish(workers=workers):
            label = by_label.get((removal.image, removal.environment))
            self._run.target_report(label or removal.image or "run").add_removal(removal)
        still_there = {record.resource for record in self._worker_cleanup.ledger.records()}
        for target_report in self._run.target_reports.values():
            target_report.forget_removed(still_there)
