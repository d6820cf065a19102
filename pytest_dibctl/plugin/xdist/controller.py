"""The hooks of xdist's controller: the tests of each worker, and leftovers of workers and test images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence

import pytest

from pytest_dibctl.cleanup.workers import WorkerCleanup
from pytest_dibctl.plugin import options
from pytest_dibctl.plugin.reports import PREFIX, Notes, PhaseReport
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.plugin.xdist import refusals
from pytest_dibctl.plugin.xdist.scheduler import ImageScheduling, Node
from pytest_dibctl.plugin.xdist.worker import CollectedTests
from pytest_dibctl.run import building
from pytest_dibctl.run.targets import Target

INTERRUPTED = "keyboard-interrupt"
"""xdist's words for the end of an interrupted worker."""


class Controller:
    """The tasks of the controller of an xdist run."""

    def __init__(self, session: DibSession, cleanup: WorkerCleanup) -> None:
        self._session = session
        self._cleanup = cleanup
        self._scheduling: ImageScheduling | None = None
        self._last_reports: dict[tuple[str, str], PhaseReport] = {}
        """A worker's last report of a target, by the worker's and the target's id."""
        self._crashed: Node | None = None
        """The worker that died in a test, until all hooks have had xdist's report of that test."""
        self._held_removals: list[Callable[[], None]] = []
        self._nodes: list[Node] = []

    # -- workers begin ---------------------------------------------------------------------------

    def pytest_configure_node(self, node: Node) -> None:
        """Tell a worker its run, and whether a terminal shows progress."""
        node.workerinput["dibctl_run"] = self._session.ledger.run_id
        node.workerinput["dibctl_live"] = self._session.progress.is_live
        self._nodes.append(node)

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> ImageScheduling:
        """Keep each target's tests together, with every --dist."""
        from xdist.workermanage import parse_tx_spec_config  # execnet comes with it

        self._scheduling = ImageScheduling(
            config=config,
            numnodes=len(parse_tx_spec_config(config)),
            groups_of=lambda node: self._tests_of(node).groups,
            first_of=self._first_of,
            earlier_than=self._earlier_than,
            instances=config.getoption("dib_instances"),
            on_done=self._group_done,
            on_difference=self._refuse_difference,
        )
        return self._scheduling

    def pytest_xdist_node_collection_finished(self) -> None:
        """End the run as pytest without workers would, if a worker met a usage error."""
        refusals.raise_refusal(self._session.run_state, self._nodes)

    def _collected(self, node: Node) -> CollectedTests | None:
        return CollectedTests.get(self._session.run_state, node.gateway.id)

    def _tests_of(self, node: Node) -> CollectedTests:
        """Return the tests of a worker that has collected: it puts them there before xdist knows of them."""
        tests = self._collected(node)
        assert tests is not None
        return tests

    def _first_of(self, node: Node) -> Sequence[bool]:
        """Tell which tests are over before a second worker joins.

        Those of an image's files could still forbid a boot. Those that need a first boot are on the instance
        that boots, where others go on from its state.
        """
        tests = self._tests_of(node)
        shares = options.shares_ready_state(self._session.config)
        return [
            kind == "image" or (shares and first_boot)
            for kind, first_boot in zip(tests.kinds, tests.first_boots, strict=True)
        ]

    def _earlier_than(self, group: Hashable) -> Sequence[Hashable]:
        """Name the groups that must be over before one begins: those of the rungs before its own."""
        target = self._target(group)
        return [earlier.id for earlier in self._session.plan.earlier(target)] if target else []

    def _refuse_difference(self, node: Node, other: Node) -> None:
        from xdist.report import report_collection_diff

        collected = [self._collected(each) for each in (node, other)]
        ids = [list(tests.ids) if tests else [] for tests in collected]
        text = report_collection_diff(*ids, node.gateway.id, other.gateway.id)
        report = pytest.CollectReport(
            nodeid=other.gateway.id, outcome="failed", longrepr=text or "the order differs", result=[]
        )
        self._session.config.hook.pytest_collectreport(report=report)

    # -- workers report --------------------------------------------------------------------------

    def remember(self, report: PhaseReport) -> None:
        """Remember the facts of the report, for the test that its worker may die of."""
        if report.worker:
            self._last_reports[report.worker, report.target.id] = report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Begin the removals that waited for the report of a crash once all other hooks have had it."""
        result = yield
        if self._crashed is not None and getattr(report, "node", None) is self._crashed:
            self._begin_held_removals()
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Complete the report of a test that crashed its worker from the last report of its target."""
        assert self._scheduling is not None
        target = self._target(self._scheduling.group_of(crashitem))
        if target is None:
            return
        tests = self._tests_of(report.node)
        place = tests.ids.index(crashitem)
        last_report = self._last_reports.get((report.node.gateway.id, target.id))
        built = building.build_facts(self._session.run_state, target.image.label)
        facts = {
            f"{PREFIX}image": target.image.label,
            f"{PREFIX}environment": target.environment.label,
            f"{PREFIX}kind": tests.kinds[place],
        }
        known = {
            **{PREFIX + name: value for name, value in built.items()},
            **(last_report.facts if last_report else {}),
        }
        report.user_properties = list({**facts, **known, **facts}.items())
        Notes(content_failed=tests.kinds[place] == "image", failed_tally=tests.tallies[place]).write(report)

    # -- groups and workers end ------------------------------------------------------------------

    def _group_done(self, group: Hashable) -> None:
        target = self._target(group)
        if target is not None:
            self._after_crash_report(lambda: self._remove_image(target))

    def _remove_image(self, target: Target) -> None:
        # Since then pytest-rerunfailures may have asked again for the test that a worker died of.
        assert self._scheduling is not None
        if self._scheduling.is_done(target.id):
            self._cleanup.target_done(target)

    def pytest_testnodedown(self, node: Node, error: object) -> None:
        """Take over a worker's target reports; remove the resources of a dead worker."""
        self._session.progress.worker_ended(node.gateway.id)
        for label, data in getattr(node, "workeroutput", {}).get("dibctl", {}).items():
            self._session.target_report(label).add(TargetReport.from_data(data))
        if error and error != INTERRUPTED and (tests := self._collected(node)) is not None:
            self._add_phases_of(node.gateway.id)
            if self._scheduling is not None and self._scheduling.is_busy(node):
                self._crashed = node
            self._after_crash_report(lambda: self._cleanup.worker_died(tests.pid))

    def _add_phases_of(self, dead_worker: str) -> None:
        """Add the seconds that a dead worker has last reported, since no target report of it will come."""
        for (worker, label), report in self._last_reports.items():
            if worker == dead_worker:
                self._session.target_report(label).add(TargetReport(phases=dict(report.notes.phases)))

    def _after_crash_report(self, removal: Callable[[], None]) -> None:
        """Begin a removal, but not before a crash is reported: what to keep depends on what failed."""
        if self._crashed is None:
            removal()
        else:
            self._held_removals.append(removal)

    def _begin_held_removals(self) -> None:
        self._crashed = None
        removals, self._held_removals = self._held_removals, []
        for removal in removals:
            removal()

    def _target(self, group: Hashable) -> Target | None:
        return next((target for target in self._session.plan.targets if target.id == group), None)

    def finish(self) -> None:
        """Remove all that is left, once the workers are gone."""
        self._begin_held_removals()
        collected = [self._collected(node) for node in self._nodes]
        pids = [tests.pid for tests in collected if tests is not None]
        for removal in self._cleanup.finish(workers=pids):
            self._session.add_removal(removal)
        still_there = {record.resource for record in self._session.ledger.records()}
        for target_report in self._session.target_reports.values():
            target_report.forget_removed(still_there)
