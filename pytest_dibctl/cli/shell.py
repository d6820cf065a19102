"""``dibctl shell``: an image's instance and a shell in it, without any test."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.cli.command import Arguments, add_boot_options
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import say
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.system import process, signals


def add_options(parser: argparse.ArgumentParser) -> None:
    add_boot_options(parser)


def run(arguments: Arguments) -> int:
    """``dibctl shell``: the image's instance until the shell ends; ``exit 42`` keeps it."""
    from pytest_dibctl.config import merge
    from pytest_dibctl.run import booting, building, environments, keys, operations, uploading
    from pytest_dibctl.run.options import RunOptions
    from pytest_dibctl.run.target_run import TargetRun

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    merge.login(image)  # before a build of minutes, not after it
    with _guarded_run(catalog, arguments) as (book, guard):
        target_run = TargetRun(
            image=image,
            environment=catalog.environment_for(image, override=arguments.environment),
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
    return ExitCode.UNSPECIFIED if target_run.leftovers else ExitCode.OK


@contextlib.contextmanager
def _guarded_run(catalog: Any, arguments: Arguments) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Open a new run's ledger; yield it with what gives the run a guardian."""
    from pytest_dibctl.cleanup import guardian
    from pytest_dibctl.run import ledger

    environments = [catalog.environment_for(catalog.image(arguments.image), override=arguments.environment)]
    with contextlib.ExitStack() as stack:
        directory = ledger.base_directory() / ledger.new_run_id()
        guard = guardian.of_run(directory, environments, cwd=Path.cwd())
        stack.callback(guard.reap)  # last of all: it waits for the ledger to be let go
        book = stack.enter_context(ledger.opened(directory.name))
        stack.enter_context(process.marked(book.run_id))
        signals.guarded()
        try:
            yield book, guard.ensure
        finally:
            if not signals.abandoned():
                book.finish()


def _tell(target_run: Any) -> None:
    for kept in target_run.kept:
        print(f"kept {kept.resource}")
        print(f"    log in:  {kept.login}")
        print(f"    remove:  {kept.command}")
    for leftover in target_run.leftovers:
        say(f"NOT REMOVED: {leftover.resource}: {leftover.reason}; `dibctl cleanup` tries again")
