"""The ``--dib-*`` options as values, and the combinations that are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.config import merge, report, tests_list
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import ArtifactError, ConfigError, DibctlError, PreflightError
from pytest_dibctl.image import preflight
from pytest_dibctl.plugin.planning import EXTERNAL, Plan, PlannedEntry
from pytest_dibctl.plugin.xdist.worker import is_controller, worker_id
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.system import process, shadowed


def path_of(text: str | None) -> Path | None:
    """Return the path that an option gives, None if it gives none."""
    return Path(text) if text else None


def run_options(config: pytest.Config) -> RunOptions:
    """Return the options of the command line; raises pytest.UsageError."""
    options: Any = config.option
    return RunOptions(
        build=options.dib_build,
        input=path_of(options.dib_input),
        environments=tuple(options.dib_env or ()),
        ladder=_ladder(config),
        keep_failed_image=options.dib_keep_failed_image,
        keep_failed_instance=options.dib_keep_failed_instance,
        shell=options.dib_shell,
        existing_image=options.dib_use_existing_image,
        existing_instance=options.dib_use_existing_instance,
        upload_only=options.dib_upload_only,
        private_key_file=path_of(options.dib_private_key_file),
        build_jobs=build_jobs(config),
        logs=_logs_directory(config),
        keep_on_kill=options.dib_keep_on_kill,
        warm=is_warm(config),
        keep_days=keep_days(config),
    )


def only_shows(config: pytest.Config) -> bool:
    """Whether pytest lists tests or fixtures and runs nothing, so that the machine need not be able to."""
    options = config.option
    return bool(
        options.collectonly or options.showfixtures or options.show_fixtures_per_test or options.setupplan
    )


def is_warm(config: pytest.Config) -> bool:
    """Whether instances may resume ready states: by the command line, else by the ini option."""
    return bool(config.option.dib_warm or config.getini("dibctl_warm"))


def shares_ready_state(config: pytest.Config) -> bool:
    """Whether one image may have several instances, of which the later ones go on from a ready state."""
    return is_warm(config) and config.option.dib_instances > 1


def _ladder(config: pytest.Config) -> tuple[str, ...]:
    """Return the ladder that the command line gives, else the ini option's; raises DibctlError.

    The ini option is for runs that say nothing of where they run.
    """
    options: Any = config.option
    if options.dib_ladder:
        if options.dib_env:
            raise DibctlError(
                "--dib-ladder and --dib-env exclude each other: --dib-ladder runs each test once, in the "
                "first environment that has what it needs, --dib-env runs all tests in each environment"
            )
        return tuple(options.dib_ladder)
    elsewhere = ("dib_env", "dib_upload_only", "dib_use_existing_image", "dib_use_existing_instance")
    text = str(config.getini("dibctl_ladder")).strip()
    return (text,) if text and not any(getattr(options, name) for name in elsewhere) else ()


def keep_days(config: pytest.Config) -> float:
    """Return the days for which failed resources are kept, by the ini option; raises pytest.UsageError."""
    text = str(config.getini("dibctl_keep_days"))
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 3650:  # noqa: PLR2004 -- ten years; infinity and NaN are none either
        raise pytest.UsageError(f"dibctl_keep_days is {text!r}; it must be a number of days, 0 for no end")
    return days


def build_jobs(config: pytest.Config) -> int:
    """Return how many builds may go on at once: by the ini option, else half of the cores.

    Raises pytest.UsageError for a negative number.
    """
    jobs: int = config.getini("dibctl_build_jobs")
    if jobs < 0:
        raise pytest.UsageError(f"dibctl_build_jobs is {jobs}; it must be 0 (half of the cores) or more")
    return jobs or max(1, len(os.sched_getaffinity(0)) // 2)


def _logs_directory(config: pytest.Config) -> Path | None:
    """Return where logs are copied to: the folder of --dib-logs, else one beside the JUnit or HTML file."""
    directory: str | None = config.option.dib_logs
    cwd = Path(config.invocation_params.dir)
    junit_xml: str | None = config.getoption("xmlpath", None)
    if directory:
        return cwd / directory
    if junit_xml:
        file = os.path.expandvars(os.path.expanduser(junit_xml))  # noqa: PTH111 -- as pytest does it
        return (cwd / file).with_suffix(".logs")
    report_file: str | None = config.option.dib_report
    return (cwd / report_file).with_suffix(".logs") if report_file else None


# -- refusals --------------------------------------------------------------------------------------


def refuse_contradictions(config: pytest.Config, plan: Plan) -> None:
    """Raise DibctlError for options that name two things to test, or one thing for several targets."""
    options: Any = config.option
    images = [image.label for image in plan.images]
    environments = [target.environment.label for target in plan.targets]
    sources = ("dib_input", "dib_use_existing_image", "dib_use_existing_instance")
    chosen = [_flag(option) for option in sources if getattr(options, option)]
    if options.dib_upload_only:
        chosen = [*(flag for flag in chosen if flag != _flag("dib_input")), "--dib-upload-only"]
    if len(chosen) > 1:
        raise DibctlError(f"{' and '.join(chosen)} exclude each other")
    for option in sources:
        if getattr(options, option) and len(images) > 1:
            raise DibctlError(
                f"{_flag(option)} is for one image; --dib-image selects {len(images)}: {', '.join(images)}",
            )
        if getattr(options, option) and len(environments) > 1 and option != "dib_input":
            raise DibctlError(
                f"{_flag(option)} is in one environment; {'--dib-ladder' if plan.ladder else '--dib-env'} "
                f"selects {len(environments)}: " + ", ".join(environments)
            )


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def refuse_what_cannot_work(plan: Plan, options: RunOptions) -> None:
    """Raise at once the DibctlError that a test would otherwise raise after a build and a boot."""
    for image in plan.images:
        entries = [entry for entry in plan.entries if entry.image == image.label]
        reads_file = options.has_file and not (options.upload_only or plan.paths_given)
        if reads_file and any(entry.kind == "image" for entry in entries):
            _refuse_trees(image, entries, plan, options)
        if any(_logs_in(entry) for entry in entries):
            merge.login(image)
    if options.input is not None and not options.input.exists():
        raise ArtifactError(f"--dib-input: {options.input}: no such file")


def _refuse_trees(
    image: Entry[Image], entries: Sequence[PlannedEntry], plan: Plan, options: RunOptions
) -> None:
    """Raise PreflightError where `image` entries cannot be run; a user without root is told what can be."""
    try:
        preflight.for_trees(image)
    except PreflightError as error:
        engines = {target.environment.settings.engine for target in plan.rungs(image)}
        others = [_argument(entry) for entry in entries if entry.kind in ("pytest", "shell", "ssh")]
        if os.geteuid() == 0 or "nspawn" in engines or not others:
            raise
        given = [f"--dib-input={options.input}"] if options.input is not None else []
        line = process.command_line(["pytest", f"--dib-image={image.label}", *given, *dict.fromkeys(others)])
        hint = f"{error.hint}; tests of the guest need no root: {line}"
        raise PreflightError(error.message, hint=hint) from None


def _argument(entry: PlannedEntry) -> str:
    """Return what names an entry on the command line."""
    if entry.written.startswith(tests_list.GENERIC):
        return entry.written
    return os.path.relpath(entry.folder or entry.paths[0])


def refuse_what_validate_finds(plan: Plan, options: RunOptions, cwd: Path) -> None:
    """Raise a DibctlError for errors of `dibctl validate` in the run's images and environments.

    Without this every test that needs the build would report it.
    """
    errors: list[DibctlError] = []
    if options.has_file and options.input is None and options.build != "never":
        for image in plan.images:
            try:
                builder.check_recipe(image, cwd)
            except DibctlError as error:
                errors.append(error)
    environments = {target.environment.label: target.environment for target in plan.targets}
    for environment in environments.values():
        errors += map(ConfigError, report.user_data_errors(environment, cwd))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError("\n".join(map(str, errors)), exit_code=int(errors[0].exit_code))


def _logs_in(entry: PlannedEntry) -> bool:
    """Whether an entry cannot do without a login; of a pytest entry's files that is not known."""
    generic = entry.kind == "pytest" and entry.written.startswith(tests_list.GENERIC)
    return generic or entry.kind in ("shell", "ssh", EXTERNAL)


def refuse_shadowing_modules(plan: Plan) -> None:
    """Raise pytest.UsageError for modules beside the tests that take the place of a library's.

    The libraries that talk to OpenStack count only where the run will.
    """
    in_openstack = not all(target.environment.settings.is_local for target in plan.targets)
    clashes = shadowed.clashes(without=() if in_openstack else ("openstacksdk",))
    if clashes:
        raise pytest.UsageError(
            "\n".join(map(str, clashes))
            + "\nhint: rename the file, or run pytest with --import-mode=importlib"
        )


_TESTINFRA_CONNECTION: Final = (
    "--hosts",
    "--connection",
    "--ssh-config",
    "--ssh-extra-args",
    "--ssh-identity-file",
    "--ansible-inventory",
    "--force-ansible",
)
"""testinfra's options that say how its host is reached, which is the run's business."""


def refuse_pytest_settings(config: pytest.Config, *, at_terminal: bool) -> None:
    """Raise pytest.UsageError for settings of pytest and its plugins with which images cannot be tested.

    These are workers that could not share images, several instances where one process is to use them, a
    shell without a terminal, a run without pytest-timeout, and testinfra's hosts.
    """
    for spec in config.getoption("tx", None) or ():
        if not spec.rpartition("*")[2].startswith("popen"):
            raise pytest.UsageError(f"--tx={spec}: images can be tested by workers on this machine only")
    instances = config.option.dib_instances
    if instances < 1:
        raise pytest.UsageError(f"--dib-instances={instances}: it must be 1 or more")
    if instances > 1 and not is_controller(config) and worker_id(config) is None:
        raise pytest.UsageError(f"--dib-instances={instances} needs as many workers: add -n {instances}")
    if config.option.dib_shell and (config.getoption("numprocesses", None) or not at_terminal):
        raise pytest.UsageError("--dib-shell needs a terminal, and no -n")
    if not config.pluginmanager.hasplugin("timeout"):
        raise pytest.UsageError("--dib-image needs pytest-timeout; leave out -p no:timeout")
    for option in _TESTINFRA_CONNECTION:
        if config.getoption(option.removeprefix("--").replace("-", "_"), None):
            raise pytest.UsageError(
                f"{option} and --dib-image exclude each other: `host` is the instance under test, over the "
                "run's own ssh connection"
            )
    if config.getoption("sudo_user", None) and not config.getoption("sudo", None):
        raise pytest.UsageError("--sudo-user needs --sudo")
