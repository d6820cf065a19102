"""The hooks of a run that tests images; registered by ``plugin`` when ``--dib-image`` is given."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import pytest_timeout
from _pytest import python, runner

from pytest_dibctl import builder, collect, ledger, lifecycle, signals
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config import entries, merge
from pytest_dibctl.errors import ArtifactError, DibctlError, ExitCode

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

KEY: pytest.StashKey[ActiveRun] = pytest.StashKey()
ENTRY: pytest.StashKey[collect.PlannedEntry | None] = pytest.StashKey()
PREFIX = "dib_"
STEPS = ("build", "upload", "boot", "ready")
RARE = ("pristine",)
"""Steps that few runs have; the summary shows them where one took place."""
PHASES = (*STEPS, "tests", "cleanup")
PRISTINE_MARK = "dib_pristine"


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
        given = collect.translate(config.args, cwd) if paths_given else []
        plan = collect.plan(images, cwd=cwd, paths_given=paths_given, given=given)
        wishes = _wishes(options)
        _refuse_ambiguity(options, [image.label for image in images])
        _refuse_what_cannot_work(plan, wishes, catalog)
    except DibctlError as error:
        _usage_error(options.dib_result_file, error)
    if wishes.shell and (config.getoption("numprocesses", None) or not at_terminal):
        raise pytest.UsageError("--dib-shell needs a terminal, and no -n")
    # Set here and not earlier: only now have all options been parsed, those of conftest files too.
    config.args = given if paths_given else collect.paths(plan)
    config.args_source = pytest.Config.ArgsSource.ARGS  # the header would name testpaths, which are not used
    run = ActiveRun(config, catalog=catalog, plan=plan, wishes=wishes)
    config.stash[KEY] = run
    config.pluginmanager.register(run, "dibctl-active")
    config.pluginmanager.register(FinalizersFirst(), "dibctl-finalizers")


def _refuse_what_cannot_work(
    plan: collect.Plan,
    wishes: lifecycle.Wishes,
    catalog: configuration.Catalog,
) -> None:
    """Say at once what would otherwise be said after a build and a boot."""
    for image in plan.images:
        lifecycle.environment_of(catalog, image, wishes)
        kinds = {(entry.kind, entry.written) for entry in plan.entries if entry.image == image.label}
        if any(kind == "shell" or written.startswith(entries.GENERIC) for kind, written in kinds):
            merge.login(image)
    if wishes.input is not None and not wishes.input.exists():
        raise ArtifactError(f"--dib-input: {wishes.input}: no such file")


def _wishes(options: Any) -> lifecycle.Wishes:
    return lifecycle.Wishes(
        build=options.dib_build,
        input=_path(options.dib_input),
        environment=options.dib_env,
        keep_failed_image=options.dib_keep_failed_image,
        keep_failed_instance=options.dib_keep_failed_instance,
        shell=options.dib_shell,
        existing_instance=options.dib_use_existing_instance,
        private_key_file=_path(options.dib_private_key_file),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _refuse_ambiguity(options: Any, labels: list[str]) -> None:
    for option in ("dib_input", "dib_use_existing_instance"):
        if getattr(options, option) and len(labels) > 1:
            flag = "--" + option.replace("_", "-")
            raise DibctlError(
                f"{flag} is for one image; --dib-image selects {len(labels)}: {', '.join(labels)}",
            )


def _usage_error(result_file: str | None, error: DibctlError) -> NoReturn:
    if result_file:
        _write_result(Path(result_file), error.exit_code, str(error))
    raise pytest.UsageError(str(error)) from None


def _write_result(path: Path, exit_code: int, reason: str) -> None:
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"exit_code": int(exit_code), "reason": reason}))


@dataclasses.dataclass(kw_only=True)
class Account:
    """What the terminal summary says of one image; under xdist the sum of what its workers say."""

    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    environment: str = ""
    reused: str | None = None
    kept: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    leftovers: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Account) -> None:
        """Add what another process says of the same image."""
        for name, seconds in other.phases.items():
            self.phases[name] = self.phases.get(name, 0.0) + seconds
        self.environment = self.environment or other.environment
        self.reused = self.reused or other.reused
        self.kept += other.kept
        self.leftovers += other.leftovers


class FinalizersFirst:
    """Let finalizers end before an interruption does: pytest would forget those that are left."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Hold an interruption back while fixtures of a test, and maybe of an image, are torn down."""
        with signals.held(for_removal=False):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Hold an interruption back while the last fixtures are torn down and the summary is written."""
        result = None
        try:
            with signals.held(for_removal=False):
                result = yield
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        return result


class ActiveRun:
    """One pytest session with images; also what the fixtures reach through ``config.stash[KEY]``."""

    def __init__(
        self,
        config: pytest.Config,
        *,
        catalog: configuration.Catalog,
        plan: collect.Plan,
        wishes: lifecycle.Wishes,
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.plan = plan
        self.wishes = wishes
        self.journeys: dict[str, lifecycle.Journey] = {}
        self.accounts: dict[str, Account] = {}
        self.exit_code: int = ExitCode.OK
        self.reason = ""
        self._resources = contextlib.ExitStack()
        self._ledger: ledger.Ledger | None = None
        self._spent: dict[tuple[str, int], float] = {}
        self._failed_entries: dict[str, collect.PlannedEntry] = {}
        self._told: dict[int, str] = {}
        self._line_broken = False
        self._wanting_pristine: frozenset[str] = frozenset()

    # -- session ---------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Check what options allow together, then take hold of the ledger and the signals."""
        from pytest_dibctl import fixtures, host

        config.addinivalue_line("markers", "dib_entry(image, index): the tests_list entry a test belongs to")
        if not config.pluginmanager.hasplugin("timeout"):
            raise pytest.UsageError("--dib-image needs pytest-timeout; leave out -p no:timeout")
        if config.getoption("hosts", None):
            raise pytest.UsageError(
                "--hosts and --dib-image exclude each other: `host` is the instance under test"
            )
        config.pluginmanager.register(fixtures, "dibctl-fixtures")
        # testinfra brings a fixture `host` too; of two plugins the one registered last wins.
        config.pluginmanager.register(host, "dibctl-host")
        try:
            self._ledger = self._resources.enter_context(ledger.opened(self._run_id()))
        except DibctlError as error:
            _usage_error(config.getoption("dib_result_file"), error)
        self._resources.enter_context(signals.as_keyboard_interrupt())

    def _run_id(self) -> str:
        given = getattr(self.config, "workerinput", {}).get("dibctl_run")
        return str(given) if given else ledger.new_run_id()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker which run it belongs to."""
        assert self._ledger is not None
        node.workerinput["dibctl_run"] = self._ledger.run_id

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker has to say."""
        for label, account in getattr(node, "workeroutput", {}).get("dibctl", {}).items():
            self.account(label).add(Account(**account))

    def pytest_unconfigure(self) -> None:
        """Let go of ledger and signals."""
        self._resources.close()

    def pytest_report_header(self) -> list[str]:
        """Say for each image what is tested and where."""
        return [self._header(image) for image in self.plan.images]

    def _header(self, image: configuration.Entry[Any]) -> str:
        environment = lifecycle.environment_of(self.catalog, image, self.wishes)
        if self.wishes.existing_instance:
            instance = self.wishes.existing_instance
            return f"dib-image {image.label}: instance {instance}, environment {environment.label}"
        try:
            forecast = builder.forecast(
                image,
                policy="never" if self.wishes.input else self.wishes.build,
                output=self.wishes.input,
                cwd=self.config.invocation_params.dir,
            )
            what = f"{forecast.path}, {forecast.text}"
        except DibctlError as error:
            what = error.message.splitlines()[0]
        return f"dib-image {image.label}: {what}, environment {environment.label}"

    # -- collection ------------------------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect what pytest would not: shell tests, and listed files of any name in a collected folder."""
        if file_path.suffix == ".py":
            patterns = self.config.getini("python_files")
            usual = python.path_matches_patterns(file_path, patterns) or parent.session.isinitpath(file_path)
            return self._module(parent, file_path) if self.plan.is_listed(file_path) and not usual else None
        return self._module(parent, file_path) if self.plan.is_script(file_path) else None

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """Make every module one whose tests run for images."""
        return self._module(parent, module_path)

    def _module(self, parent: pytest.Collector, path: Path) -> collect.ImageModule:
        kind = collect.ScriptFile if self.plan.is_script(path) else collect.ImageModule
        arguments: dict[str, Any] = {"path": path}
        if (nodeid := collect.node_id(path, self.config.rootpath)) is not None:
            arguments["nodeid"] = nodeid
        return kind.from_parent(parent, **arguments)

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        """Collect modules with ids of our own even under --lf, which looks for files by their node id."""
        if isinstance(collector, collect.ImageModule) and collect.node_id(
            collector.path, self.config.rootpath
        ):
            return runner.pytest_make_collect_report(collector)
        return None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that cannot be imported as a failed test."""
        if report.failed and self.exit_code == ExitCode.OK:
            self.exit_code, self.reason = ExitCode.TESTS_FAILED, f"{report.nodeid} could not be collected"

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector: pytest.Collector, name: str, obj: object) -> None:
        """Refuse unittest classes, which pytest cannot parametrize."""
        unittest = sys.modules.get("unittest")
        if (
            unittest
            and inspect.isclass(obj)
            and issubclass(obj, unittest.TestCase)
            and obj.__module__ != "unittest.case"
        ):
            raise collector.CollectError(
                f"{name} is a unittest class, and pytest cannot run those once for each image; "
                "make it a plain class, or functions, with fixtures",
            )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrize every test of an image module by image, at session scope."""
        module = metafunc.definition.getparent(collect.ImageModule)
        if module is None or "image" not in metafunc.fixturenames:
            return
        params = [
            # The label object itself is the parameter: pytest compares parameters by identity.
            pytest.param(
                use.image,
                id=use.id,
                marks=pytest.mark.dib_entry(*use.entry.key) if use.entry else (),
            )
            for use in self.plan.uses(module.path)
        ]
        metafunc.parametrize("image", params, indirect=True, scope="session")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self,
        session: pytest.Session,
        items: list[pytest.Item],
    ) -> Generator[None, object, object]:
        """Keep each image's tests together, in the order of its ``tests_list``, with their time limits."""
        planned = {entry.key: entry for entry in self.plan.entries}
        for item in items:
            marker = item.get_closest_marker("dib_entry")
            item.stash[ENTRY] = planned[marker.args[0], marker.args[1]] if marker else None
            self._limit(item)
        self._refuse_lost_entries(session, items)
        # Before others choose by place (--stepwise), and after others have changed the order (--ff).
        items.sort(key=self._order)
        result = yield
        items.sort(key=self._order)
        return result

    def _refuse_lost_entries(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Refuse a run in which an entry has no test: it would pass unseen."""
        chosen = ("lf", "ignore", "ignore_glob", "deselect")
        if (
            self.plan.paths_given
            or session.testsfailed
            or any(self.config.getoption(name, None) for name in chosen)
        ):
            return
        lost = self.plan.missing(item.stash[ENTRY] for item in items)
        if lost:
            places = [
                f"{self.catalog.image(entry.image).at(f'tests.tests_list[{entry.index}]')}: "
                f"{entry.kind} entry {entry.written}"
                for entry in lost
            ]
            raise pytest.UsageError("no test was found for\n" + "\n".join(places))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which images have a test that wants a first-booted instance; only those pay for it."""
        marked = (item for item in session.items if item.get_closest_marker(PRISTINE_MARK))
        self._wanting_pristine = frozenset(label for item in marked if (label := image_of(item)))

    def _order(self, item: pytest.Item) -> tuple[int, int]:
        label = image_of(item)
        return self.plan.order(label, item.stash[ENTRY]) if label else (-1, -1)

    def _limit(self, item: pytest.Item) -> None:
        """Give the item a timer of its own for its body only: a boot is never charged to a test."""
        if image_of(item) is None:
            return
        own = _own_timeout(item)
        entry = item.stash[ENTRY]
        limits = [limit for limit in (own.timeout, entry.timeout if entry else None) if limit]
        item.stash[collect.LIMIT] = min(limits, default=None)
        if limits and not isinstance(item.parent, collect.ScriptFile):
            # Method thread would end the whole run without removing anything.
            marker = pytest.mark.timeout(min(limits), method="signal", func_only=True)
            item.add_marker(marker, append=False)

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
        entry = item.stash.get(ENTRY, None)
        if entry is None:
            return
        left = self._left(entry)
        limit = item.stash.get(collect.LIMIT, None)
        item.stash[collect.LIMIT] = None if limit is None else min(limit, left)
        if left <= 0:
            pytest.skip(f"the {entry.timeout:g} s that the tests of {entry.written} share are spent")
        failed = self._failed_entries.get(entry.image)
        if failed is not None and failed.index < entry.index and self.config.getoption("dib_stop_on_fail"):
            pytest.skip(f"{failed.written} failed before, and --dib-stop-on-fail is on")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Note that a fixture that outlives a test may have done something to an instance."""
        try:
            return (yield)
        finally:
            if _may_touch_an_instance(fixturedef):
                for journey in self.journeys.values():
                    journey.untouched = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Charge the test's time to its entry's budget."""
        started = time.monotonic()
        try:
            with self._charged(item):
                return (yield)
        finally:
            entry = item.stash.get(ENTRY, None)
            if entry is not None:
                self._spent[entry.key] = self._spent.get(entry.key, 0.0) + time.monotonic() - started

    @contextlib.contextmanager
    def _charged(self, item: pytest.Item) -> Iterator[None]:
        """Charge the time inside to the image's tests, less what steps took (a boot, a removal)."""
        label = image_of(item)
        if label is None:
            yield
            return
        started, steps = time.monotonic(), self._seconds_of_steps()
        try:
            yield
        finally:
            own = time.monotonic() - started - (self._seconds_of_steps() - steps)
            phases = self.journey(label).phases
            phases["tests"] = phases.get("tests", 0.0) + own

    def _seconds_of_steps(self) -> float:
        return sum(sum(journey.phases.values()) for journey in self.journeys.values())

    def _left(self, entry: collect.PlannedEntry) -> float:
        if not entry.timeout:
            return float("inf")
        return entry.timeout - self._spent.get(entry.key, 0.0)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> object:
        """Run pytest-timeout's timer for what is left of the entry's budget if that is less."""
        entry = item.stash.get(ENTRY, None)
        if entry is None or self._left(entry) >= settings.timeout:
            return None
        return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=self._left(entry)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
        item: pytest.Item,
        call: pytest.CallInfo[None],
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the image's facts on the report, and errors of ours in the words they were written in."""
        journey = self._journey_of(item)
        if journey is not None:
            _stamp(item, journey)
        report = yield
        if journey is not None and report.failed:
            self._judge(item, call, report, journey)
        return report

    def _judge(
        self,
        item: pytest.Item,
        call: pytest.CallInfo[None],
        report: pytest.TestReport,
        journey: lifecycle.Journey,
    ) -> None:
        error = call.excinfo.value if call.excinfo else None
        first = not journey.failed
        journey.failed = True
        entry = item.stash.get(ENTRY, None)
        if entry is not None:
            self._failed_entries.setdefault(entry.image, entry)
            if call.when == "call" and self._left(entry) <= 0:
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
        elif first and journey.instance is not None:
            tail = lifecycle.console_tail(journey.instance)
            report.sections.append((f"Last lines of the console of {journey.label}", tail or "(empty)"))

    def _once(self, error: DibctlError, nodeid: str) -> str:
        """Return the whole error for the first test that meets it, a pointer there for the others."""
        if (told := self._told.setdefault(id(error), nodeid)) == nodeid:
            # The error is kept alive, so that its id cannot be given to another one.
            self._resources.callback(repr, error)
            return str(error)
        return f"{error.message.splitlines()[0]}\n(the same error as in {told})"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what the exit code shall be."""
        if report.failed and PREFIX + "image" in dict(report.user_properties):
            code = getattr(report, "dib_exit_code", ExitCode.TESTS_FAILED)
            if self.exit_code in {ExitCode.OK, ExitCode.TESTS_FAILED}:
                self.exit_code, self.reason = code, f"{report.nodeid} failed"

    # -- the end ---------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Draw the accounts; by now every finalizer has run."""
        for label, journey in self.journeys.items():
            self.account(label).add(_account(journey))
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["dibctl"] = {
                label: dataclasses.asdict(account) for label, account in self.accounts.items()
            }
            return
        if any(account.leftovers for account in self.accounts.values()) and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self.exit_code, self.reason = ExitCode.UNSPECIFIED, "something could not be removed"
        if result_file := self.config.getoption("dib_result_file"):
            _write_result(Path(result_file), self.exit_code, self.reason)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print phase times per image, then what was kept and what could not be removed."""
        if not self.accounts:
            return
        terminalreporter.write_sep("=", "images")
        for line in phase_table(self.accounts):
            terminalreporter.write_line(line)
        for label, account in self.accounts.items():
            for kept in account.kept:
                terminalreporter.write_line(f"{label}: kept {kept['what']} ({kept['reason']})", yellow=True)
                if kept["reach"]:
                    terminalreporter.write_line(f"    log in:  {kept['reach']}")
                terminalreporter.write_line(f"    remove:  {kept['remove']}")
            for leftover in account.leftovers:
                terminalreporter.write_line(f"{label}: NOT REMOVED: {leftover}", red=True, bold=True)
                terminalreporter.write_line("    `dibctl cleanup` tries again")

    def account(self, label: str) -> Account:
        """Return the account of an image."""
        return self.accounts.setdefault(label, Account())

    # -- for fixtures ----------------------------------------------------------------------------

    def journey(self, label: str) -> lifecycle.Journey:
        """Return the journey of an image, begun at the first call."""
        if label not in self.journeys:
            assert self._ledger is not None
            image = self.catalog.image(label)
            self.journeys[label] = lifecycle.Journey(
                image=image,
                environment=lifecycle.environment_of(self.catalog, image, self.wishes),
                wishes=self.wishes,
                ledger=self._ledger,
                cwd=self.config.invocation_params.dir,
                progress=lambda line: self.say(f"{label}: {line}"),
                wants_pristine=label in self._wanting_pristine,
            )
        return self.journeys[label]

    def _journey_of(self, item: pytest.Item) -> lifecycle.Journey | None:
        label = image_of(item)
        return self.journeys.get(label) if label else None

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

    def offer_shell(self, journey: lifecycle.Journey, access: Any) -> None:
        """Open ``--dib-shell``'s shell if the image failed."""
        if not (self.wishes.shell and journey.failed):
            return
        self.say(f"{journey.label} failed; a shell in its instance (`exit {lifecycle.SHELL_KEEPS}` keeps it)")
        with self.uncaptured(stdin=True):
            lifecycle.open_shell(journey, access)


def image_of(item: pytest.Item) -> str | None:
    """Return the label of the image an item is for."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("image") if callspec else None


def _may_touch_an_instance(fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Return whether a fixture could do something to an instance that is not noted with its test.

    Steps of our ladder only look at it, by whatever fixture they are overridden; one that asks for nothing
    can reach nothing.
    """
    from pytest_dibctl import fixtures

    short = fixturedef.scope == "function"
    ours = hasattr(fixtures, fixturedef.argname) or fixturedef.argname == "host"
    pytests = getattr(fixturedef.func, "__module__", "").startswith("_pytest.")
    return bool(fixturedef.argnames) and not short and not ours and not pytests


def _own_timeout(item: pytest.Item) -> Any:
    """Return what pytest-timeout would apply to the item by itself."""
    return pytest_timeout._get_item_settings(item)  # noqa: SLF001 -- the one place that knows marker, option and ini


def _stamp(item: pytest.Item, journey: lifecycle.Journey) -> None:
    facts = {
        "image": journey.label,
        "environment": journey.environment.label,
        "digest": f"sha512:{journey.digest}" if journey.digest else None,
        "instance": journey.instance_id,
        **journey.facts,
        **{
            f"seconds_{name}": f"{journey.phases[name]:.1f}"
            for name in (*STEPS, *RARE)
            if name in journey.phases
        },
    }
    ours = {PREFIX + name: value for name, value in facts.items() if value}
    others = [(name, value) for name, value in item.user_properties if name not in ours]
    item.user_properties = [*others, *ours.items()]


def _account(journey: lifecycle.Journey) -> Account:
    return Account(
        phases=dict(journey.phases),
        environment=journey.environment.label,
        reused=journey.reused,
        kept=[dataclasses.asdict(kept) for kept in journey.kept],
        leftovers=list(journey.leftovers),
    )


def phase_table(accounts: dict[str, Account]) -> list[str]:
    """Return the summary's table: a line per image, seconds per phase."""
    width = max(len("image"), *(len(label) for label in accounts))
    rare = [name for name in RARE if any(name in account.phases for account in accounts.values())]
    columns = [*STEPS, *rare, *PHASES[len(STEPS) :]]
    lines = [f"{'image':<{width}}  " + "  ".join(f"{name:>8}" for name in columns)]
    for label, account in accounts.items():
        cells = [
            f"{account.phases[name]:>7.1f}s" if name in account.phases else f"{'-':>8}" for name in columns
        ]
        note = f"  ({account.reused})" if account.reused else ""
        lines.append(f"{label:<{width}}  " + "  ".join(cells) + note)
    return lines
