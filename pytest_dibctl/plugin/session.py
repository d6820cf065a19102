"""The hooks of a run that tests images; registered by ``plugin`` when ``--dib-image`` is given."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import pytest_timeout

from pytest_dibctl.build import builder, preflight
from pytest_dibctl.cleanup import guardian
from pytest_dibctl.cleanup.workers import WorkerCleanup
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config import merge, tests_list
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.errors import ArtifactError, DibctlError, ExitCode
from pytest_dibctl.plugin import collection, junit, markdown, modules, planning
from pytest_dibctl.plugin.attest import Attestation
from pytest_dibctl.plugin.modules import ENTRY, target_of
from pytest_dibctl.plugin.target_report import RARE, STEPS, Failure, TargetReport, phase_table, report_of
from pytest_dibctl.plugin.xdist.controller import PREFIX, Distribution, is_controller, items_of, worker_id
from pytest_dibctl.run import building, content, ledger, logs, operations
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Removal
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.run.target_run import Guest, Pristine, TargetRun
from pytest_dibctl.run.targets import Target, targets
from pytest_dibctl.system import process, signals

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

KEY: pytest.StashKey[ActiveRun] = pytest.StashKey()
LOGS = (f"{PREFIX}console_log", f"{PREFIX}build_log")


def activate(config: pytest.Config, *, at_terminal: bool) -> None:
    """Read the configuration, plan the run, register its hooks, and have pytest collect the plan's files.

    Raises pytest.UsageError for every DibctlError.
    """
    options = config.option
    cwd = config.invocation_params.dir
    paths_given = config.args_source == pytest.Config.ArgsSource.ARGS
    try:
        catalog = configuration.load(
            cwd=cwd,
            images=_path(options.dib_images_config),
            test=_path(options.dib_test_config),
            upload=_path(options.dib_upload_config),
        )
        images = catalog.select_images(options.dib_image)
        given = planning.translate(config.args, cwd) if paths_given else []
        run_options = _run_options(config)
        chosen = targets(catalog, images, run_options)
        plan = planning.plan(chosen, cwd=cwd, paths_given=paths_given, given=given)
        _refuse_ambiguity(options, plan)
        _refuse_what_cannot_work(plan, run_options)
    except DibctlError as error:
        _usage_error(options.dib_result_file, error)
    _check_workers(config)
    if run_options.shell and (config.getoption("numprocesses", None) or not at_terminal):
        raise pytest.UsageError("--dib-shell needs a terminal, and no -n")
    # Set here and not earlier: only now have all options been parsed, those of conftest files too.
    config.args = given if paths_given else planning.paths(plan)
    config.args_source = pytest.Config.ArgsSource.ARGS  # the header would name testpaths, which are not used
    run = ActiveRun(config, catalog=catalog, plan=plan, options=run_options)
    config.stash[KEY] = run
    config.pluginmanager.register(run, "dibctl-active")
    config.pluginmanager.register(FinalizersFirst(run), "dibctl-finalizers")
    config.pluginmanager.register(Attestation(run), "dibctl-attestation")


def _refuse_what_cannot_work(plan: planning.Plan, run_options: RunOptions) -> None:
    """Say at once what would otherwise be said after a build and a boot."""
    for image in plan.images:
        listed = [entry for entry in plan.entries if entry.image == image.label]
        looked_into = run_options.has_file and not (run_options.upload_only or plan.paths_given)
        if looked_into and any(entry.kind == "image" for entry in listed):
            preflight.for_trees(image)
        if any(_logs_in(entry) for entry in listed):
            merge.login(image)
    if run_options.input is not None and not run_options.input.exists():
        raise ArtifactError(f"--dib-input: {run_options.input}: no such file")


def _logs_in(entry: planning.PlannedEntry) -> bool:
    """Whether an entry cannot do without a login; of a pytest entry's files that is not known."""
    generic = entry.kind == "pytest" and entry.written.startswith(tests_list.GENERIC)
    return generic or entry.kind in ("shell", "ssh", planning.EXTERNAL)


def _run_options(config: pytest.Config) -> RunOptions:
    options: Any = config.option
    return RunOptions(
        build=options.dib_build,
        input=_path(options.dib_input),
        environments=tuple(options.dib_env or ()),
        keep_failed_image=options.dib_keep_failed_image,
        keep_failed_instance=options.dib_keep_failed_instance,
        shell=options.dib_shell,
        existing_image=options.dib_use_existing_image,
        existing_instance=options.dib_use_existing_instance,
        upload_only=options.dib_upload_only,
        private_key_file=_path(options.dib_private_key_file),
        build_jobs=_build_jobs(config),
        logs=_logs_directory(config),
        keep_on_kill=options.dib_keep_on_kill,
    )


def _build_jobs(config: pytest.Config) -> int:
    """Return how many builds may go on at once: what the ini option says, else half of the cores."""
    given: int = config.getini("dibctl_build_jobs")
    if given < 0:
        raise pytest.UsageError(f"dibctl_build_jobs is {given}; it must be 0 (half of the cores) or more")
    return given or max(1, len(os.sched_getaffinity(0)) // 2)


def _logs_directory(config: pytest.Config) -> Path | None:
    """Return where logs are copied to: what --dib-logs says, else a folder beside the JUnit file."""
    given: str | None = config.option.dib_logs
    cwd = Path(config.invocation_params.dir)
    junit_xml: str | None = config.getoption("xmlpath", None)
    if given:
        return cwd / given
    if not junit_xml:
        return None
    file = os.path.expandvars(os.path.expanduser(junit_xml))  # noqa: PTH111 -- as pytest does it
    return (cwd / file).with_suffix(".logs")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _check_workers(config: pytest.Config) -> None:
    """Refuse workers that could not share images, and several instances where one process is to use them."""
    for spec in config.getoption("tx", None) or ():
        if not spec.rpartition("*")[2].startswith("popen"):
            raise pytest.UsageError(f"--tx={spec}: images can be tested by workers on this machine only")
    instances = config.option.dib_instances
    if instances < 1:
        raise pytest.UsageError(f"--dib-instances={instances}: it must be 1 or more")
    if instances > 1 and not is_controller(config) and worker_id(config) is None:
        raise pytest.UsageError(f"--dib-instances={instances} needs as many workers: add -n {instances}")


def _refuse_ambiguity(options: Any, plan: planning.Plan) -> None:
    images = [image.label for image in plan.images]
    environments = [target.environment.label for target in plan.targets]
    sources = ("dib_input", "dib_use_existing_image", "dib_use_existing_instance")
    given = [_flag(option) for option in sources if getattr(options, option)]
    if options.dib_upload_only:
        given = [*(flag for flag in given if flag != _flag("dib_input")), "--dib-upload-only"]
    if len(given) > 1:
        raise DibctlError(f"{' and '.join(given)} exclude each other")
    for option in sources:
        if getattr(options, option) and len(images) > 1:
            raise DibctlError(
                f"{_flag(option)} is for one image; --dib-image selects {len(images)}: {', '.join(images)}",
            )
        if getattr(options, option) and len(environments) > 1 and option != "dib_input":
            raise DibctlError(
                f"{_flag(option)} is in one environment; --dib-env selects {len(environments)}: "
                + ", ".join(environments)
            )


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _usage_error(result_file: str | None, error: DibctlError) -> NoReturn:
    if result_file:
        _write_result(Path(result_file), error.exit_code, str(error))
    raise pytest.UsageError(str(error)) from None


def _write_result(path: Path, exit_code: int, reason: str) -> None:
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"exit_code": int(exit_code), "reason": reason}))


class FinalizersFirst:
    """Let finalizers end before an interruption does: pytest would forget those that are left."""

    def __init__(self, run: ActiveRun) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Hold an interruption back while fixtures of a test, and maybe of an image, are torn down."""
        with signals.held(for_removal=False):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Hold an interruption back while the last fixtures are torn down and the summary is written.

        A controller tears down no fixture of others: it waits for workers that do, and removes the rest.
        """
        result = None
        try:
            with signals.held(for_removal=is_controller(session.config)):
                result = yield
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            if not (self._run.drawn or signals.abandoned()):
                # Somebody's finalizer was broken off, and with it all that were to follow.
                with contextlib.suppress(KeyboardInterrupt), signals.held(for_removal=False):
                    self._run.pytest_sessionfinish(session, int(session.exitstatus))
        return result


class ActiveRun:
    """One pytest session with images; also what the fixtures reach through ``config.stash[KEY]``."""

    def __init__(
        self,
        config: pytest.Config,
        *,
        catalog: configuration.Catalog,
        plan: planning.Plan,
        options: RunOptions,
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.plan = plan
        self.options = options
        self.target_runs: dict[Target, TargetRun] = {}
        self.target_reports: dict[str, TargetReport] = {}
        self.current = plan.targets[0]
        """The target that the fixture ``image`` was last set up for."""
        self.exit_code: int = ExitCode.OK
        self.reason = ""
        self._resources = contextlib.ExitStack()
        self._ledger: ledger.Ledger | None = None
        self._distribution: Distribution | None = None
        self._failures: dict[Target, set[str]] = {}
        self._told: dict[int, str] = {}
        self._line_broken = False
        self._warnings: list[str] = []
        self._wanting_pristine: frozenset[Target] = frozenset()
        self._booting: frozenset[Target] = frozenset()
        self._guardian: guardian.Guardian | None = None
        self.drawn = False
        """Whether the accounts are drawn: the session's end has come to us."""
        self._swept = False

    # -- session ---------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Check what options allow together, then take hold of the ledger and the signals."""
        from pytest_dibctl.plugin import facts, fixtures, host

        config.addinivalue_line("markers", "dib_entry(image, index): the tests_list entry a test belongs to")
        for category in ("DeprecationWarning", "PendingDeprecationWarning"):
            # What openstacksdk says to itself; under `-W error` it would break every call.
            config.addinivalue_line("filterwarnings", rf"ignore::{category}:openstack\..*")
        if not config.pluginmanager.hasplugin("timeout"):
            raise pytest.UsageError("--dib-image needs pytest-timeout; leave out -p no:timeout")
        if config.getoption("hosts", None):
            raise pytest.UsageError(
                "--hosts and --dib-image exclude each other: `host` is the instance under test"
            )
        config.pluginmanager.register(fixtures, "dibctl-fixtures")
        config.pluginmanager.register(facts, "dibctl-facts")
        # testinfra brings a fixture `host` too; of two plugins the one registered last wins.
        config.pluginmanager.register(host, "dibctl-host")
        try:
            self._ledger = self._open_ledger()
        except DibctlError as error:
            _usage_error(config.getoption("dib_result_file"), error)
        heard = self._resources.enter_context(signals.as_keyboard_interrupt())
        heard.outlook, heard.guarded = self._still_to_be_removed, self._guardian is not None
        if worker_id(config) is None:
            config.pluginmanager.register(junit.Attachments(config, LOGS), "dibctl-attachments")
        if is_controller(config):
            self._distribution = Distribution(self, self._worker_cleanup())
            config.pluginmanager.register(self._distribution, "dibctl-distribution")

    def pytest_sessionstart(self) -> None:
        """Collect, and put in order after all others: pytest's own plugins for --lf and --ff are here now."""
        order = collection.Collecting(self.config, catalog=self.catalog, plan=self.plan)
        self.config.pluginmanager.register(order, "dibctl-collecting")

    def _open_ledger(self) -> ledger.Ledger:
        """Hold the run's ledger, and have a guardian ready; raises DibctlError."""
        directory = ledger.base_directory() / self._run_id()
        if not self.options.keep_on_kill:
            environments = [target.environment for target in self.plan.targets]
            cwd = self.config.invocation_params.dir
            self._guardian = guardian.of_run(directory, environments, cwd=cwd)
            # Last of all: it waits for the ledger to be let go, by the workers too.
            leave = self._guardian.reap if worker_id(self.config) is None else self._guardian.disown
            self._resources.callback(leave)
        opened = self._resources.enter_context(ledger.opened(directory.name))
        self._resources.enter_context(process.marked(opened.run_id))
        return opened

    def _still_to_be_removed(self) -> list[str]:
        """Return what this run has made and not removed; nothing on a worker, whose controller says it."""
        if self._ledger is None or worker_id(self.config) is not None:
            return []
        left = [record for record in self._ledger.records() if record.kept is None]
        return [f"{record.kind} {record.name}" for record in left if record.kind != "key"]

    def _worker_cleanup(self) -> WorkerCleanup:
        assert self._ledger is not None
        return WorkerCleanup(
            ledger=self._ledger,
            catalog=self.catalog,
            cwd=self.config.invocation_params.dir,
            options=self.options,
            targets=self.plan.targets,
            failed=self._has_failed,
        )

    def _has_failed(self, image: str, environment: str) -> bool:
        target = self.target_named({PREFIX + "image": image, PREFIX + "environment": environment})
        return target is not None and bool(self.target_report(target.id).failures)

    def _run_id(self) -> str:
        given = getattr(self.config, "workerinput", {}).get("dibctl_run")
        return str(given) if given else ledger.new_run_id()

    def pytest_unconfigure(self) -> None:
        """Let go of ledger and signals."""
        if self._ledger is not None and self._swept and not (signals.abandoned() or self._untold()):
            self._ledger.finish()
        self._resources.close()

    def _untold(self) -> bool:
        """Whether anything is left that no summary names: that is the guardian's."""
        assert self._ledger is not None
        told = {removal.resource for removal in self._leftovers()}
        # A key stays with what it opens.
        left = [record for record in self._ledger.records() if record.kept is None and record.kind != "key"]
        return any(record.resource not in told for record in left)

    def _leftovers(self) -> list[Removal]:
        return [
            leftover for target_report in self.target_reports.values() for leftover in target_report.leftovers
        ]

    def pytest_report_header(self) -> list[str]:
        """Say for each image what is tested and where."""
        dist = self.config.getoption("dist", "no")
        lines = [self._header(image) for image in self.plan.images]
        if self._distribution is not None and dist != "load":
            lines.append(f"dib-image: --dist={dist} is not used: a worker has one image at a time")
        return lines

    def _header(self, image: Entry[Any]) -> str:
        labels = [target.environment.label for target in self.plan.targets if target.image is image]
        where = f"environment{'s' if len(labels) > 1 else ''} {', '.join(labels)}"
        if self.options.existing_instance:
            return f"dib-image {image.label}: instance {self.options.existing_instance}, {where}"
        if self.options.existing_image:
            return f"dib-image {image.label}: image {self.options.existing_image}, {where}"
        try:
            forecast = builder.forecast(
                image,
                policy="never" if self.options.input else self.options.build,
                output=self.options.input,
                cwd=self.config.invocation_params.dir,
            )
            what = f"{forecast.path}, {forecast.text}"
        except DibctlError as error:
            what = error.message.splitlines()[0]
        return f"dib-image {image.label}: {what}, {where}"

    # -- collection ------------------------------------------------------------------------------

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that cannot be imported as a failed test."""
        if report.failed and self.exit_code == ExitCode.OK:
            self.exit_code, self.reason = ExitCode.TESTS_FAILED, f"{report.nodeid} could not be collected"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which targets have a test of an instance, or of a first-booted one; only those pay for it.

        On a worker, say which target each test is for, before xdist tells the controller of them.
        """
        marked = (item for item in session.items if item.get_closest_marker(collection.PRISTINE_MARK))
        self._wanting_pristine = _targets_of(marked)
        looking = (item for item in session.items if modules.view_of(item) == planning.INSTANCE)
        self._booting = _targets_of(looking)
        worker = worker_id(self.config)
        if worker is not None:
            targets = [target_of(item) for item in session.items]
            groups = [target.id if target else "" for target in targets]
            ids = [item.nodeid for item in session.items]
            tallies = [_failed_tally(item) for item in session.items]
            kinds = [modules.kind_of(item) if target_of(item) else "" for item in session.items]
            said = {"pid": os.getpid(), "groups": groups, "ids": ids, "tallies": tallies, "kinds": kinds}
            self.run_state.put(items_of(worker), said)

    def boots(self, target: Target) -> bool:
        """Return whether a test of the target, run or not yet, looks at an instance of it."""
        return target in self._booting

    # -- running ---------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Skip what is not to be run any more; begin the item's line again if progress broke it."""
        signals.forget()
        self._skip_what_is_over(item)
        self._line_broken = False
        with self._charged(item):
            result = yield
        reporter: TerminalReporter | None = self.config.pluginmanager.getplugin("terminalreporter")
        if self._line_broken and reporter is not None:
            reporter.pytest_runtest_logstart(item.nodeid, item.location)
        return result

    def _skip_what_is_over(self, item: pytest.Item) -> None:
        entry, target = item.stash.get(ENTRY, None), target_of(item)
        if entry is None or target is None:
            return
        left = self._left(item)
        limit = item.stash.get(modules.LIMIT, None)
        item.stash[modules.LIMIT] = None if limit is None else min(limit, left)
        if left <= 0:
            pytest.skip(f"the {entry.timeout:g} s that the tests of {entry.written} share are spent")
        if not self.config.getoption("dib_stop_on_fail"):
            return
        for earlier in self.plan.entries:
            if (
                earlier.image == entry.image
                and earlier.index < entry.index
                and self.run_state.total(_tally("failed", target, earlier))
            ):
                pytest.skip(f"{earlier.written} failed before, and --dib-stop-on-fail is on")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Note that a fixture that outlives a test may have done something to an instance."""
        try:
            return (yield)
        finally:
            if _may_touch_an_instance(fixturedef):
                for target_run in self.target_runs.values():
                    target_run.guest.pristine.untouched = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Charge the test's time to its entry's budget."""
        started = time.monotonic()
        try:
            with self._charged(item):
                return (yield)
        finally:
            entry, target = item.stash.get(ENTRY, None), target_of(item)
            if entry is not None and target is not None:
                self.run_state.add(_tally("spent", target, entry), time.monotonic() - started)

    @contextlib.contextmanager
    def _charged(self, item: pytest.Item) -> Iterator[None]:
        """Charge the time inside to the image's tests, less what steps took (a boot, a removal)."""
        target = target_of(item)
        if target is None:
            yield
            return
        started, steps = time.monotonic(), self._seconds_of_steps()
        try:
            yield
        finally:
            own = time.monotonic() - started - (self._seconds_of_steps() - steps)
            phases = self.target_run(target).phases
            phases["tests"] = phases.get("tests", 0.0) + own

    def _seconds_of_steps(self) -> float:
        return sum(sum(target_run.phases.values()) for target_run in self.target_runs.values())

    def _left(self, item: pytest.Item) -> float:
        """Return how many seconds the item's entry has left in the item's target."""
        entry, target = item.stash.get(ENTRY, None), target_of(item)
        if entry is None or target is None or not entry.timeout:
            return float("inf")
        return entry.timeout - self.run_state.total(_tally("spent", target, entry))

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> object:
        """Run pytest-timeout's timer for what is left of the entry's budget if that is less."""
        left = self._left(item)
        if left >= settings.timeout:
            return None
        return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=left))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
        item: pytest.Item,
        call: pytest.CallInfo[None],
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the image's facts on the report, and errors of ours in the words they were written in."""
        target_run = self._journey_of(item)
        if target_run is not None:
            _stamp(item, target_run)
        report = yield
        if target_run is not None:
            report.dib_phases = dict(target_run.phases)  # type: ignore[attr-defined]
        if target_run is not None and report.failed:
            self._judge(item, call, report, target_run)
        return report

    def _judge(
        self,
        item: pytest.Item,
        call: pytest.CallInfo[None],
        report: pytest.TestReport,
        target_run: TargetRun,
    ) -> None:
        error = call.excinfo.value if call.excinfo else None
        first = not target_run.failed
        target_run.failed = True
        entry, target = item.stash.get(ENTRY, None), target_of(item)
        if target is not None:
            self._failures.setdefault(target, set()).add(item.nodeid)
        # A step that failed, like the build, says so itself to whoever needs it.
        step_failed = target_run.unopened or (isinstance(error, DibctlError) and error.origin is not None)
        if modules.view_of(item) == planning.TREE and not step_failed:
            report.dib_content_failed = True  # type: ignore[attr-defined]
        if entry is not None and target is not None:
            report.dib_tally = _failed_tally(item)  # type: ignore[attr-defined]
            if call.when == "call" and self._left(item) <= 0:
                report.sections.append(
                    (
                        "dibctl",
                        f"the tests of {entry.written} share {entry.timeout:g} s, which are spent now",
                    ),
                )
        if isinstance(error, DibctlError):
            report.dib_exit_code = int(error.exit_code)  # type: ignore[attr-defined]
            if call.when != "call":
                report.longrepr = self._once(error, item.nodeid)
        elif first and target_run.guest.instance is not None:
            tail = logs.console_tail(target_run.guest.instance)
            report.sections.append((f"Last lines of the console of {target_run.label}", tail or "(empty)"))

    def _once(self, error: DibctlError, nodeid: str) -> str:
        """Return the whole error for the first test that meets it, a pointer there for the others."""
        if error.origin is not None:
            told = self.run_state.first(error.origin, nodeid)
            return str(error) if told == nodeid else _pointer(error, told)
        if (told := self._told.setdefault(id(error), nodeid)) == nodeid:
            # The error is kept alive, so that its id cannot be given to another one.
            self._resources.callback(repr, error)
            return str(error)
        return _pointer(error, told)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what the exit code shall be, and what the summaries say."""
        target = self.target_named(dict(report.user_properties))
        if target is None:
            return
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # pytest-rerunfailures' own
            self._forget_failure(target, report.nodeid)
        if report.failed and (tally := getattr(report, "dib_tally", None)):
            self.run_state.add(tally, 1)
        if report.failed and getattr(report, "dib_content_failed", False):
            content.mark_content_failed(self.run_state, target.image.label, report.nodeid)
        if worker_id(self.config) is None:
            self._tell(report, target)

    def _forget_failure(self, target: Target, nodeid: str) -> None:
        """Take back what a failed test has said of its image: it is run again."""
        failures = self._failures.get(target, set())
        failures.discard(nodeid)
        if target in self.target_runs:
            self.target_runs[target].failed = bool(failures)

    def _tell(self, report: pytest.TestReport, target: Target) -> None:
        target_report = self.target_report(target.id)
        if (outcome := _outcome(report)) is not None:
            target_report.outcomes[outcome] += 1
        if not report.failed:
            return
        code = getattr(report, "dib_exit_code", ExitCode.TESTS_FAILED)
        if self.exit_code in {ExitCode.OK, ExitCode.TESTS_FAILED}:
            self.exit_code, self.reason = code, f"{report.nodeid} failed"
        facts = dict(report.user_properties)
        logs = tuple(str(facts[name]) for name in LOGS if name in facts)
        target_report.failures.append(
            Failure(nodeid=report.nodeid, when=report.when or "", text=report.longreprtext, logs=logs)
        )

    def target_named(self, facts: Mapping[str, object]) -> Target | None:
        """Return the target that a report's properties name."""
        names = (facts.get(PREFIX + "image"), facts.get(PREFIX + "environment"))
        for target in self.plan.targets:
            if (target.image.label, target.environment.label) == names:
                return target
        return None

    # -- the end ---------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Draw the accounts; by now every finalizer has run."""
        self.drawn = True
        for target, target_run in self.target_runs.items():
            self.target_report(target.id).add(report_of(target_run))
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["dibctl"] = {
                label: target_report.as_data() for label, target_report in self.target_reports.items()
            }
            return
        self._remove_the_rest()
        if self._leftovers() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self.exit_code, self.reason = ExitCode.UNSPECIFIED, "something could not be removed"
        self._in_order()
        self._summarize(session)
        if result_file := self.config.getoption("dib_result_file"):
            _write_result(Path(result_file), self.exit_code, self.reason)

    def _remove_the_rest(self) -> None:
        """Remove what is left, whatever ended the run before its fixtures could."""
        if self._distribution is not None:
            self._distribution.finish()
        elif self._ledger is not None and self._ledger.records():
            for removal in self._worker_cleanup().finish(self._leftovers()):
                target = self.target_named(
                    {PREFIX + "image": removal.image, PREFIX + "environment": removal.environment}
                )
                self.target_report(target.id if target else removal.image or "run").add_removal(removal)
        self._swept = True

    def _summarize(self, session: pytest.Session) -> None:
        """Write --dib-summary's file; GitHub's is shared by all steps of a job."""
        file = self.config.getoption("dib_summary")
        if not file:
            return
        path = self.config.invocation_params.dir / file
        github = os.environ.get("GITHUB_STEP_SUMMARY")
        try:
            text = markdown.markdown(self.target_reports, note=self._note(session))
            markdown.write(path, text, append=github in {file, str(path)})
        except DibctlError as error:
            self._warnings.append(str(error))
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _note(self, session: pytest.Session) -> str:
        """Return what the summary's table cannot show."""
        if self.reason and not any(target_report.failed for target_report in self.target_reports.values()):
            return self.reason
        interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED
        return "The run was interrupted, or stopped early." if interrupted else ""

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print phase times per image, then what was kept and what could not be removed."""
        if not self.target_reports:
            return
        terminalreporter.write_sep("=", "images")
        for line in phase_table(self.target_reports):
            terminalreporter.write_line(line)
        for warning in self._warnings:
            terminalreporter.write_line(warning, red=True, bold=True)
        for label, target_report in self.target_reports.items():
            for kept in target_report.kept:
                terminalreporter.write_line(f"{label}: kept {kept.resource} ({kept.reason})", yellow=True)
                if kept.login:
                    terminalreporter.write_line(f"    log in:  {kept.login}")
                terminalreporter.write_line(f"    remove:  {kept.command}")
            for leftover in target_report.leftovers:
                line = f"{label}: NOT REMOVED: {leftover.resource}: {leftover.reason}"
                terminalreporter.write_line(line, red=True, bold=True)
                terminalreporter.write_line("    `dibctl cleanup` tries again")

    def _in_order(self) -> None:
        """Bring the accounts, which arrive as workers end, into the order of the command line."""
        order = [target.id for target in self.plan.targets]
        known = [label for label in order if label in self.target_reports]
        rest = [label for label in self.target_reports if label not in order]
        self.target_reports = {label: self.target_reports[label] for label in (*known, *rest)}

    def warn(self, warning: str) -> None:
        """Have a line shown with the summary."""
        self._warnings.append(warning)

    def target_report(self, label: str) -> TargetReport:
        """Return the account of an image."""
        return self.target_reports.setdefault(label, TargetReport())

    # -- for fixtures ----------------------------------------------------------------------------

    def target_run(self, target: Target) -> TargetRun:
        """Return the target run of a target, begun at the first call."""
        if target not in self.target_runs:
            assert self._ledger is not None
            self.target_runs[target] = TargetRun(
                image=target.image,
                environment=target.environment,
                options=self.options,
                ledger=self._ledger,
                cwd=self.config.invocation_params.dir,
                progress=lambda line: self.say(f"{target.id}: {line}"),
                owns_upload=worker_id(self.config) is None,
                guest=Guest(pristine=Pristine(wanted=target in self._wanting_pristine)),
                guard=self._guardian.ensure if self._guardian is not None else lambda: None,
            )
        return self.target_runs[target]

    @property
    def run_state(self) -> RunState:
        """What this process has in common with the run's others."""
        assert self._ledger is not None
        return RunState(directory=self._ledger.directory)

    def _journey_of(self, item: pytest.Item) -> TargetRun | None:
        target = target_of(item)
        return self.target_run(target) if target else None

    def say(self, line: str) -> None:
        """Show one line of progress on stderr, past pytest's capturing and its half-written line."""
        with self.uncaptured():
            reporter: TerminalReporter | None = self.config.pluginmanager.getplugin("terminalreporter")
            if reporter is not None:
                reporter.ensure_newline()
                reporter.flush()
                self._line_broken = True
            print(line, file=sys.__stderr__, flush=True)

    @contextlib.contextmanager
    def uncaptured(self, *, stdin: bool = False) -> Iterator[None]:
        """Suspend capturing, of the terminal's input too if a person is to type."""
        manager = self.config.pluginmanager.getplugin("capturemanager")
        capturing = getattr(manager, "_global_capturing", None)
        # Between tests capturing is suspended already, and must stay so.
        if capturing is None or not capturing.is_started():
            yield
            return
        manager.suspend(in_=stdin)
        try:
            yield
        finally:
            manager.resume()

    def offer_shell(self, target_run: TargetRun, access: Any) -> None:
        """Open ``--dib-shell``'s shell if the image failed."""
        if not (self.options.shell and target_run.failed):
            return
        self.say(
            f"{target_run.label} failed; a shell in its instance (`exit {operations.SHELL_KEEPS}` keeps it)"
        )
        with self.uncaptured(stdin=True):
            operations.open_shell(target_run, access)


def _targets_of(items: Iterable[pytest.Item]) -> frozenset[Target]:
    return frozenset(target for item in items if (target := target_of(item)))


def _tally(what: str, target: Target, entry: planning.PlannedEntry) -> str:
    return f"{what} {target.id} {entry.index}"


def _failed_tally(item: pytest.Item) -> str | None:
    """Return where failures of the item's entry are counted, for --dib-stop-on-fail."""
    entry, target = item.stash.get(ENTRY, None), target_of(item)
    return _tally("failed", target, entry) if entry is not None and target is not None else None


def _pointer(error: DibctlError, told: str) -> str:
    return f"{error.message.splitlines()[0]}\n(the same error as in {told})"


def _may_touch_an_instance(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Return whether a fixture could do something to an instance that is not noted with its test.

    Steps of our ladder only look at it, by whatever fixture they are overridden; one that asks for nothing
    can reach nothing.
    """
    from pytest_dibctl.plugin import facts, fixtures

    short = fixturedef.scope == "function"
    name = fixturedef.argname
    ours = hasattr(fixtures, name) or hasattr(facts, name) or name == "host"
    pytests = getattr(fixturedef.func, "__module__", "").startswith("_pytest.")
    return bool(fixturedef.argnames) and not short and not ours and not pytests


def _stamp(item: pytest.Item, target_run: TargetRun) -> None:
    seconds = {**target_run.seconds_elsewhere, **target_run.phases}
    facts = {
        "image": target_run.label,
        "kind": modules.kind_of(item),
        "environment": target_run.environment.label,
        **building.build_facts(target_run.run_state, target_run.label),
        "instance": target_run.guest.id,
        **target_run.guest.facts,
        **{f"seconds_{name}": f"{seconds[name]:.1f}" for name in (*STEPS, *RARE) if name in seconds},
        "build_log": _shown(target_run.built.log, target_run.cwd),
        "console_log": _shown(target_run.guest.console_log, target_run.cwd),
    }
    ours = {PREFIX + name: value for name, value in facts.items() if value}
    others = [(name, value) for name, value in item.user_properties if name not in ours]
    item.user_properties = [*others, *ours.items()]


def _shown(path: Path | None, cwd: Path) -> str | None:
    """Return a path as reports name it: below the working directory, which CI jobs take attachments from."""
    if path is None:
        return None
    path = Path(os.path.normpath(cwd / path))
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def _outcome(report: pytest.TestReport) -> str | None:
    """Return what a report adds to its target's outcomes; most say nothing, the test is not over."""
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # pytest-rerunfailures' own
        return "reruns"
    if report.failed:
        return "failed" if report.when == "call" else "errors"
    if report.skipped:
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    if report.when != "call":
        return None
    return "xpassed" if hasattr(report, "wasxfail") else "passed"
