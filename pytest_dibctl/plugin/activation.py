"""The start of a pytest run that tests images: configuration, plan, refusals, then the hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin import facts, fixtures, host, junit, options, planning
from pytest_dibctl.plugin.aftermath import Aftermath
from pytest_dibctl.plugin.attest import Attestation
from pytest_dibctl.plugin.budget import EntryBudgets
from pytest_dibctl.plugin.collection import Collection
from pytest_dibctl.plugin.ending import SessionEnd, worker_cleanup, write_result
from pytest_dibctl.plugin.failed_steps import FailedSteps
from pytest_dibctl.plugin.finalizers import FinalizersFirst
from pytest_dibctl.plugin.known_failures import KnownFailures
from pytest_dibctl.plugin.ladder import Ladder
from pytest_dibctl.plugin.omissions import Omissions
from pytest_dibctl.plugin.redacting import Redacting
from pytest_dibctl.plugin.reporting import Reporting
from pytest_dibctl.plugin.resources import RunResources
from pytest_dibctl.plugin.results import ReportListener, Results
from pytest_dibctl.plugin.running import Running
from pytest_dibctl.plugin.session import KEY, DibSession
from pytest_dibctl.plugin.terminal import TerminalOutput
from pytest_dibctl.plugin.xdist.controller import Controller
from pytest_dibctl.plugin.xdist.refusals import WorkerRefusals
from pytest_dibctl.plugin.xdist.worker import is_controller, worker_id
from pytest_dibctl.run.targets import targets
from pytest_dibctl.system.text import visible


def activate(config: pytest.Config, *, at_terminal: bool) -> None:
    """Read the configuration, plan the run, register its hooks, and have pytest collect the plan's files.

    ``at_terminal`` says that a person can type. Raises pytest.UsageError, for every DibctlError too.
    """
    given = config.option
    cwd = config.invocation_params.dir
    paths_given = config.args_source == pytest.Config.ArgsSource.ARGS
    with _usage_errors(config):
        catalog = configuration.load(
            cwd=cwd,
            images=options.path_of(given.dib_images_config),
            test=options.path_of(given.dib_test_config),
            upload=options.path_of(given.dib_upload_config),
        )
        images = catalog.select_images(given.dib_image)
        paths = planning.translate(config.args, cwd) if paths_given else []
        run_options = options.run_options(config)
        chosen = targets(catalog, images, run_options)
        plan = planning.plan(
            chosen, cwd=cwd, paths_given=paths_given, given=paths, ladder=bool(run_options.ladder)
        )
        options.refuse_contradictions(config, plan)
        if not options.only_shows(config):
            options.refuse_what_cannot_work(plan, run_options)
            if worker_id(config) is None:  # its controller has looked
                options.refuse_what_validate_finds(plan, run_options, cwd)
    options.refuse_pytest_settings(config, at_terminal=at_terminal)
    options.refuse_shadowing_modules(
        plan
    )  # of the folders of initial conftest files; of tests' when collected
    # Set here and not earlier: only now have all options been parsed, those of conftest files too.
    config.args = paths if paths_given else planning.paths(plan)
    config.args_source = pytest.Config.ArgsSource.ARGS  # the header would name testpaths, which are not used
    with _usage_errors(config):
        resources = RunResources(
            run_id=getattr(config, "workerinput", {}).get("dibctl_run"),
            is_worker=worker_id(config) is not None,
            options=run_options,
            targets=plan.targets,
            cwd=cwd,
        )
    config.pluginmanager.register(resources, "dibctl-resources")
    session = DibSession(config, catalog=catalog, plan=plan, options=run_options, resources=resources)
    config.stash[KEY] = session
    _add_ini_lines(config)
    _register_hooks(session)


@contextlib.contextmanager
def _usage_errors(config: pytest.Config) -> Iterator[None]:
    """Raise pytest.UsageError for a DibctlError, once --dib-result-file has its exit code."""
    try:
        yield
    except DibctlError as error:
        if result_file := config.option.dib_result_file:
            write_result(Path(result_file), error.exit_code, str(error))
        raise pytest.UsageError(visible(str(error))) from None


def _add_ini_lines(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "dib_entry(image, index): the tests_list entry a test belongs to")
    for category in ("DeprecationWarning", "PendingDeprecationWarning"):
        # openstacksdk raises these in its own calls; under `-W error` each would fail.
        config.addinivalue_line("filterwarnings", rf"ignore::{category}:openstack\..*")
    # `ssl_insecure: true` is the operator's decision; as an error the warning would fail every call.
    config.addinivalue_line("filterwarnings", "ignore:Unverified HTTPS request")


def _register_hooks(session: DibSession) -> None:
    """Register the hooks of a session; of two hooks of one kind the later one is called first, and outside.

    So ``FinalizersFirst`` is outside of all others at a session's end, and ``SessionEnd`` marks the run as
    finished before ``RunResources`` releases its ledger.
    """
    config = session.config
    cleanup = worker_cleanup(session)
    controller = Controller(session, cleanup) if is_controller(config) else None
    attestation = Attestation(session)
    budgets = EntryBudgets(session)
    ladder = Ladder(session)
    failed_steps = FailedSteps(session)
    end = SessionEnd(session, cleanup, controller)
    receivers = [Results(session).add, ladder.add]
    if controller is not None:
        receivers.insert(0, controller.remember)
    if not session.is_worker:
        receivers.append(attestation.add)

    def register(plugin: object, name: str) -> None:
        config.pluginmanager.register(plugin, f"dibctl-{name}")

    register(session.progress, "progress")
    register(TerminalOutput(session), "terminal")
    register(Collection(session), "collection")
    register(Omissions(session), "omissions")
    register(KnownFailures(session), "known-failures")
    register(ladder, "ladder")
    register(budgets, "budgets")
    register(Running(session, budgets, ladder, failed_steps), "running")
    register(Aftermath(session), "aftermath")
    register(Reporting(session, budgets, failed_steps), "reporting")
    register(ReportListener(session, receivers), "reports")
    register(end, "end")
    register(fixtures, "fixtures")
    register(facts, "facts")
    # testinfra brings a fixture `host` too; of two plugins the last registered wins.
    register(host, "host")
    if not session.is_worker:
        register(junit.Attachments(config), "attachments")
    if controller is not None:
        register(controller, "controller")
    if session.is_worker:
        register(WorkerRefusals(session), "refusals")
    register(FinalizersFirst(end), "finalizers")
    register(attestation, "attestation")
    # Last, so that its hooks come before those of all others.
    register(Redacting(), "redacting")
