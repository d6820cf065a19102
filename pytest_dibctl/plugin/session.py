"""The state of a pytest session with images: the parts that its hooks share and its fixtures reach.

It has no hooks of its own. Under xdist each process has one; they share ``run_state``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import pytest

from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.guest import boot_stage
from pytest_dibctl.plugin.planning import Plan
from pytest_dibctl.plugin.progress import ProgressOutput
from pytest_dibctl.plugin.resources import RunResources
from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.plugin.xdist.worker import is_controller, worker_id
from pytest_dibctl.run.booting import Attempt
from pytest_dibctl.run.ledger import Ledger
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Removal
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.run.target_run import Guest, Pristine, TargetRun
from pytest_dibctl.run.targets import Target

KEY: pytest.StashKey[DibSession] = pytest.StashKey()
"""Where pytest's configuration has the session."""


EARLY: Final = frozenset({"nspawn"})
"""Engines whose instances boot in seconds."""


@dataclasses.dataclass(kw_only=True)
class Verdict:
    """dibctl's exit code for the run, and the reason for it."""

    exit_code: int = ExitCode.OK
    reason: str = ""

    def collection_failed(self, nodeid: str) -> None:
        """Count a module that could not be imported as a failed test, unless there is a reason already."""
        if self.exit_code == ExitCode.OK:
            self.exit_code, self.reason = ExitCode.TESTS_FAILED, f"{nodeid} could not be collected"

    def test_failed(self, nodeid: str, exit_code: int) -> None:
        """Take the exit code of a failed test, unless that of an earlier error is known."""
        if self.exit_code in {ExitCode.OK, ExitCode.TESTS_FAILED}:
            self.exit_code, self.reason = exit_code, f"{nodeid} failed"

    def removal_failed(self) -> None:
        """Fail a run whose tests have passed and whose resources are not all removed."""
        self.exit_code, self.reason = ExitCode.UNSPECIFIED, "something could not be removed"


class DibSession:
    """One pytest session with images; fixtures reach it through ``config.stash[KEY]``.

    ``booting`` are the targets with a test of an instance, ``wanting_pristine`` those with a test that needs
    a first-booted instance, ``wanting_first_boot`` those with a test that must not have a resumed instance.
    All are known once tests are collected. ``target_reports`` are kept by the id of their target. ``notes``
    and ``warnings`` are lines that the terminal shows with the summary.
    """

    def __init__(
        self,
        config: pytest.Config,
        *,
        catalog: Catalog,
        plan: Plan,
        options: RunOptions,
        resources: RunResources,
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.plan = plan
        self.options = options
        self.resources = resources
        self.progress = ProgressOutput(config, resources.ledger.directory, self._boot_stages)
        self.current = plan.targets[0]
        """The target that the fixture ``image`` was last set up for."""
        self.booting: frozenset[Target] = frozenset()
        self.wanting_pristine: frozenset[Target] = frozenset()
        self.wanting_first_boot: frozenset[Target] = frozenset()
        self.target_runs: dict[Target, TargetRun] = {}
        self.early: dict[Target, Attempt | None] = {}
        """Instances that began to boot before a test asked for them."""
        self.target_reports: dict[str, TargetReport] = {}
        self.verdict = Verdict()
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.collected: set[str] = set()
        """The node ids of all tests that were collected here, before any were left out."""
        self.dependents: set[str] = set()
        """The node ids of tests that were skipped since a step that they need had failed."""
        self._failed_tests: dict[Target, set[str]] = {}

    # -- the process and its run -----------------------------------------------------------------

    @property
    def cwd(self) -> Path:
        """The directory that pytest was called in."""
        return self.config.invocation_params.dir

    @property
    def is_worker(self) -> bool:
        """Whether this process is one of xdist's workers, whose reports come together in a controller."""
        return worker_id(self.config) is not None

    @property
    def ledger(self) -> Ledger:
        """The record of what the run has made and not removed."""
        return self.resources.ledger

    @property
    def run_state(self) -> RunState:
        """The state that this process shares with the run's other processes."""
        return RunState(directory=self.ledger.directory)

    # -- targets ---------------------------------------------------------------------------------

    def target_run(self, target: Target) -> TargetRun:
        """Return the target run of a target, begun at the first call."""
        if target not in self.target_runs:
            self.target_runs[target] = TargetRun(
                image=target.image,
                environment=target.environment,
                options=self.options,
                ledger=self.ledger,
                cwd=self.cwd,
                progress=lambda line: self.progress.say(target.id, line),
                on_step=lambda words: self.progress.step(target.id, words),
                owns_upload=not self.is_worker,
                guest=Guest(
                    pristine=Pristine(wanted=target in self.wanting_pristine),
                    first_boot_wanted=target in self.wanting_first_boot,
                ),
                guard=self.resources.guard,
            )
        return self.target_runs[target]

    @property
    def may_make_things_early(self) -> bool:
        """Whether this process is likely to boot an instance as soon as tests are collected."""
        engines = {target.environment.settings.engine for target in self.plan.targets}
        return not is_controller(self.config) and not engines.isdisjoint(EARLY)

    def may_boot_early(self, target_run: TargetRun) -> bool:
        """Whether the instance may boot while the image's files are looked at: a test here will need it.

        A container costs nothing if a test of the files fails. Of several instances of an image none may be
        this process's.
        """
        is_sure = not (self.is_worker and self.config.option.dib_instances > 1)
        engine = target_run.environment.settings.engine
        return is_sure and engine in EARLY and self.current in self.booting and target_run.options.has_file

    def _boot_stages(self) -> dict[str, str]:
        """Return the stages of guests on the way to a login."""
        stages: dict[str, str] = {}
        for target, target_run in tuple(self.target_runs.items()):
            instance = target_run.guest.instance
            waiting = "ready" in target_run.steps
            if instance is not None and waiting and (stage := boot_stage.of(instance.recent_console)):
                stages[target.id] = stage
        return stages

    def test_failed(self, target: Target, nodeid: str) -> None:
        """Fail the target run of a test that failed in this process."""
        self._failed_tests.setdefault(target, set()).add(nodeid)
        self.target_run(target).failed = True

    def test_runs_again(self, target: Target, nodeid: str) -> None:
        """Take back the failure of a test that is run again."""
        failed_tests = self._failed_tests.get(target, set())
        failed_tests.discard(nodeid)
        if target in self.target_runs:
            self.target_runs[target].failed = bool(failed_tests)

    # -- what is reported of them ----------------------------------------------------------------

    def target_report(self, label: str) -> TargetReport:
        """Return the report of a target by its id, an empty one at the first call."""
        return self.target_reports.setdefault(label, TargetReport())

    def has_failed(self, image: str, environment: str) -> bool:
        """Whether a test of the target with these labels has failed by now, in any process."""
        target = self.plan.target(image, environment)
        return target is not None and self.target_report(target.id).failed

    def add_removal(self, removal: Removal) -> None:
        """Enter the outcome for a resource, with its target, its image, or with the run."""
        target = self.plan.target(removal.image, removal.environment)
        self.target_report(target.id if target else removal.image or "run").add_removal(removal)

    def leftovers(self) -> list[Removal]:
        """Return the resources that could not be removed, as far as reports tell."""
        return [
            leftover for target_report in self.target_reports.values() for leftover in target_report.leftovers
        ]
