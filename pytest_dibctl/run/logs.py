"""Where logs of a run are kept: consoles and build logs, copied beside its reports."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from pytest_dibctl.build import builder
from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import environments
from pytest_dibctl.run.ledger import Ledger
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import files
from pytest_dibctl.system.text import file_name

log = logging.getLogger(__name__)


def keep_build_log(target_run: TargetRun, *, failed: bool) -> None:
    """Copy the log of the image's build to the directory of the run's logs, if there is one.

    It is the log of the file that is there, or of the build that has ``failed``.
    """
    target = builder.target_file(target_run.image, target_run.options.input, target_run.cwd)
    log_file = builder.unfinished_log(target) if failed else builder.log_file(target)
    if target_run.options.logs is None or not log_file.exists():
        return
    target_run.built.log = _write_log(
        target_run.options.logs / f"{file_name(target_run.label)}.build.log", log_file.read_bytes
    )


def keep_console(target_run: TargetRun, instance: Instance) -> None:
    """Write the console of an instance that is about to go to the directory of the run's logs."""
    if target_run.options.logs is not None:
        target_run.guest.console_log = _write_log(
            console_file(target_run.options.logs, instance.name), lambda: instance.console_output().encode()
        )


def keep_console_of(
    environment: Entry[TestEnvironment], name: str, *, run: Ledger, cwd: Path, logs: Path
) -> None:
    """Write the console of an instance whose process has died to ``logs``, if the cloud still has it."""
    with contextlib.suppress(DibctlError):
        cloud = environments.open_environment(
            environment,
            run=run,
            cwd=cwd,
            deadlines=merge.environment_deadlines(environment),
            image_endpoint=environment.settings.glance.endpoint,
        )
        with contextlib.closing(cloud):
            text = cloud.existing(name).console_output()
            _write_log(console_file(logs, name), text.encode)


def console_file(logs: Path, instance: str) -> Path:
    """Return where the console of an instance is written."""
    return logs / f"{file_name(instance)}.console.log"


def keep_screen(target_run: TargetRun, instance: Instance) -> None:
    """Write a picture of a failed instance's screen, where it has one, to the directory of the run's logs."""
    if target_run.options.logs is None:
        return
    with contextlib.suppress(DibctlError):
        picture = instance.screenshot()
        path = target_run.options.logs / f"{file_name(instance.name)}.screen.png"
        target_run.guest.screen = _write_log(path, lambda: picture)


def console_of(instance: Instance | None) -> str:
    """Return the console's output, or nothing when there is none to be had."""
    if instance is not None:
        with contextlib.suppress(Exception):  # a report is being made: it must not fail for want of a console
            return instance.console_output()
    return ""


def _write_log(path: Path, read: Callable[[], bytes]) -> Path | None:
    try:
        text = read()
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, text)  # another worker may write the same log at the same time
    except Exception:  # a log that cannot be had must not keep anything from being removed
        log.warning("%s: could not be written", path, exc_info=True)
        return None
    return path
