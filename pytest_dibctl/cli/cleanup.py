"""``dibctl cleanup``: removes the resources of dead runs, or of one run."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli import tables
from pytest_dibctl.cli.command import Arguments, Command, add_format
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_result, show
from pytest_dibctl.cli.tables import Column, Table
from pytest_dibctl.errors import ExitCode, NotInConfigError

if TYPE_CHECKING:
    from pytest_dibctl.cleanup.sweep import Choice, Swept
    from pytest_dibctl.cli.results.machine import RemovedResource
    from pytest_dibctl.config.catalog import Catalog

COLUMNS = (Column(name="run"), Column(name="resource"), Column(name="outcome"))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument(
        "--run", dest="run_id", metavar="ID", help="only this run, with the resources that it kept"
    )
    parser.add_argument(
        "--env", dest="environment", metavar="LABEL", help="only resources of this test environment"
    )
    parser.add_argument(
        "--expired",
        action="store_true",
        help="also resources in the OpenStack environments that runs of any machine made more than 24 hours "
        "ago and no longer use",
    )
    parser.add_argument(
        "--list-kept", action="store_true", help="only list kept resources, in OpenStack those of any machine"
    )
    parser.add_argument(
        "--remove-kept",
        dest="kept",
        metavar="ID",
        help="only remove the kept instance or image with this id or name from the OpenStack environments",
    )
    add_format(parser, COLUMNS, "the outcome for each resource")


def _run(arguments: Arguments) -> int:
    """Remove things; the exit code is 1 when one of them could not be removed."""
    from pytest_dibctl.cleanup import sweep
    from pytest_dibctl.config.catalog import CONTAINER, LOCAL

    # Lazily: a run of this machine alone can be removed without any configuration file.
    catalog = functools.cache(lambda: load(arguments, need_images=False))
    if arguments.environment not in {None, LOCAL, CONTAINER}:
        catalog().environment(arguments.environment)  # raises NotInConfigError for an unknown label
    choice = sweep.Choice(run_id=arguments.run_id, environment=arguments.environment)
    swept: list[Swept] = []
    # Removals take their time, so people see each one at once.
    in_lines = arguments.format == "table" and not arguments.columns
    try:
        for item in _swept(arguments, choice, catalog):
            swept.append(item)
            if in_lines:
                show(f"{item.run_id}  {item.what}: {item.outcome}")
    finally:
        if not in_lines:
            print_result(arguments, [_data(item) for item in swept], _table(swept))
    if not swept and arguments.kept is not None:
        raise NotInConfigError(
            f"no kept resource has the id or name {arguments.kept}",
            hint="`dibctl cleanup --list-kept` lists the kept resources",
        )
    if not swept and in_lines:
        show("nothing was kept" if arguments.list_kept else "nothing to remove")
    return ExitCode.UNSPECIFIED if any(item.failed for item in swept) else ExitCode.OK


def _data(item: Swept) -> RemovedResource:
    return {"run_id": item.run_id, "what": item.what, "outcome": item.outcome, "failed": item.failed}


def _table(swept: Sequence[Swept]) -> Table:
    return Table(
        columns=COLUMNS,
        rows=[
            (
                tables.ident(item.run_id),
                item.what,
                tables.state(item.outcome, "bad" if item.failed else ""),
            )
            for item in swept
        ],
    )


def _swept(arguments: Arguments, choice: Choice, catalog: Callable[[], Catalog]) -> Iterator[Swept]:
    """Remove the chosen resources and yield the outcome for each, one by one."""
    from pytest_dibctl.cleanup import kept, sweep

    if arguments.list_kept:
        yield from kept.listed(catalog().environments.values(), choice, cwd=Path.cwd())
        return
    if arguments.kept is not None:
        environments = catalog().environments.values()
        yield from kept.removed(
            environments, choice, arguments.kept, cwd=Path.cwd(), dry_run=arguments.dry_run
        )
        return
    # With --expired, a run that this machine has no record of may be another machine's.
    with contextlib.suppress(*([NotInConfigError] if arguments.expired else [])):
        yield from sweep.sweep(
            lambda label: catalog().environment(label), choice, cwd=Path.cwd(), dry_run=arguments.dry_run
        )
    if arguments.expired:
        environments = catalog().environments.values()
        yield from sweep.sweep_expired(environments, choice, cwd=Path.cwd(), dry_run=arguments.dry_run)


COMMAND = Command(
    name="cleanup",
    help="Remove the resources that dead or named runs left.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl cleanup --dry-run",
        "dibctl cleanup --run 0123abcd",
        "dibctl cleanup --expired",
    ),
)
