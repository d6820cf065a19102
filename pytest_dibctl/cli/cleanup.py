"""``dibctl cleanup``: what dead or named runs left."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_json
from pytest_dibctl.errors import ExitCode, NotInConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--run", dest="run_id", metavar="ID", help="this run only, what it kept included")
    parser.add_argument(
        "--env", dest="environment", metavar="LABEL", help="what is in this test environment only"
    )
    parser.add_argument(
        "--expired",
        action="store_true",
        help="also what runs of any machine left in the OpenStack environments more than 24 hours ago",
    )
    parser.add_argument("--json", action="store_true", help="print what became of each thing as JSON")


def run(arguments: Arguments) -> int:
    """``dibctl cleanup``: exits 1 when something could not be removed."""
    from pytest_dibctl.cleanup import sweep
    from pytest_dibctl.config.catalog import LOCAL

    catalog = functools.cache(lambda: load(arguments, need_images=False))
    if arguments.environment is not None and arguments.environment != LOCAL:
        catalog().environment(arguments.environment)  # a label that is not there is said to be so
    choice = sweep.Choice(run_id=arguments.run_id, environment=arguments.environment)
    swept: list[sweep.Swept] = []

    def tell(found: Iterable[sweep.Swept]) -> None:
        for item in found:
            swept.append(item)
            if not arguments.json:
                print(f"{item.run_id}  {item.what}: {item.outcome}", flush=True)

    try:
        _clean_up(arguments, choice, catalog, tell)
    finally:
        if arguments.json:
            print_json([item.as_data() for item in swept])
    if not swept and not arguments.json:
        print("nothing to remove")
    return ExitCode.UNSPECIFIED if any(item.failed for item in swept) else ExitCode.OK


def _clean_up(
    arguments: Arguments,
    choice: Any,
    catalog: Callable[[], Any],
    tell: Callable[[Iterable[Any]], None],
) -> None:
    from pytest_dibctl.cleanup import sweep

    with contextlib.suppress(*([NotInConfigError] if arguments.expired else [])):
        tell(
            sweep.sweep(
                lambda label: catalog().environment(label),
                choice,
                cwd=Path.cwd(),
                dry_run=arguments.dry_run,
            )
        )
    if arguments.expired:
        environments = catalog().environments.values()
        tell(sweep.sweep_expired(environments, choice, cwd=Path.cwd(), dry_run=arguments.dry_run))
