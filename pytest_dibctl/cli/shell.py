"""``dibctl shell``: an image's instance and a shell in it, without any test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_boot_options
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import say, show
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.system import process, signals

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.test import TestEnvironment
    from pytest_dibctl.run.ledger import Ledger
    from pytest_dibctl.run.target_run import TargetRun


def _run(arguments: Arguments) -> int:
    """Boot an image until the shell ends; ``exit 42`` in the shell keeps the instance."""
    from pytest_dibctl.config import merge
    from pytest_dibctl.run.options import RunOptions
    from pytest_dibctl.run.target_run import TargetRun

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    merge.login(image)  # before a build of minutes, not after it
    environment = catalog.environment_for(image, override=arguments.environment)
    with _guarded_run(environment) as (book, guard):
        target_run = TargetRun(
            image=image,
            environment=environment,
            options=RunOptions(  # noqa: S604 -- `shell` is our option, no process is started here
                build=arguments.build,
                input=arguments.input,
                shell=True,
            ),
            ledger=book,
            cwd=Path.cwd(),
            progress=lambda line: say(f"{image.label}: {line}"),
            guard=guard,
        )
        _open_shell(target_run)
    return ExitCode.UNSPECIFIED if target_run.leftovers else ExitCode.OK


@contextlib.contextmanager
def _guarded_run(environment: Entry[TestEnvironment]) -> Iterator[tuple[Ledger, Callable[[], None]]]:
    """Open a new run's ledger; yield it with the function that starts the run's guardian."""
    from pytest_dibctl.cleanup import guardian, renewal
    from pytest_dibctl.run import ledger

    with contextlib.ExitStack() as stack:
        directory = ledger.base_directory() / ledger.new_run_id()
        guard = guardian.of_run(directory, [environment], cwd=Path.cwd())
        stack.callback(guard.reap)  # last of all: it waits until the ledger is closed
        book = stack.enter_context(ledger.opened(directory.name))
        stack.callback(guard.end_watch)
        stack.enter_context(renewal.renewing(lambda _label: environment, book, cwd=Path.cwd()))
        stack.enter_context(process.marked(book.run_id))
        signals.guarded()
        try:
            yield book, guard.ensure
        finally:
            if not signals.abandoned():
                book.finish()


def _open_shell(target_run: TargetRun) -> None:
    """Take each step up to the shell; undo them after it, and show kept and left resources."""
    from pytest_dibctl.run import booting, building, environments, keys, operations, uploading

    with contextlib.ExitStack() as stack:
        stack.callback(_tell, target_run)
        cloud = stack.enter_context(environments.opened(target_run))
        built = building.artifact(target_run)
        uploaded = stack.enter_context(uploading.uploaded(target_run, cloud, built))
        key = stack.enter_context(keys.keypair(target_run, cloud))
        instance = stack.enter_context(booting.booted(target_run, cloud, uploaded, key))
        access = stack.enter_context(booting.reachable(target_run, instance, key))
        say(f"{instance.name} is ready; `exit {operations.SHELL_KEEPS}` keeps it when the shell ends")
        operations.open_shell(target_run, access)


def _tell(target_run: TargetRun) -> None:
    for kept in target_run.kept:
        show(f"kept {kept.resource}")
        show(f"    log in:  {kept.login}")
        show(f"    remove:  {kept.command}")
    for leftover in target_run.leftovers:
        say(f"NOT REMOVED: {leftover.resource}: {leftover.reason}; `dibctl cleanup` tries again")


COMMAND = Command(
    name="shell",
    help="Boot an image and open a shell in the instance.",
    add_options=add_boot_options,
    run=_run,
    examples=(
        "dibctl shell debian",
        "dibctl shell debian --input downloaded.qcow2",
    ),
)
