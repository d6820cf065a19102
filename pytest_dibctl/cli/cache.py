"""``dibctl cache``: the trees that builds have kept, to start from."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import Table, age, mib, print_result
from pytest_dibctl.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.build.layer_store import Layer

_GIB = 1 << 30


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "prune"),
        default="list",
        help="list the kept trees (the default), or remove the too old ones and what is above the limit",
    )
    parser.add_argument("--all", action="store_true", help="with prune: remove all of them")
    parser.add_argument("--size", type=float, metavar="GIB", help="with prune: keep this much instead")
    parser.add_argument("--dry-run", action="store_true", help="with prune: only say what would be removed")
    add_json(parser, "the kept trees, or those that were removed")


def _run(arguments: Arguments) -> int:
    """List or remove kept trees; the exit code is 1 when a tree is in use and stays."""
    if arguments.action == "prune":
        return _prune(arguments)
    if arguments.all or arguments.dry_run or arguments.size is not None:
        raise ConfigError("--all, --size and --dry-run are for `dibctl cache prune`")
    from pytest_dibctl.build import layer_store

    layers = layer_store.Store().layers()
    print_result(arguments, [layer_store.as_data(layer) for layer in layers], _table(layers))
    return ExitCode.OK


def _prune(arguments: Arguments) -> int:
    from pytest_dibctl.build import layer_store

    store = layer_store.Store()
    limit = layer_store.limit() if arguments.size is None else int(arguments.size * _GIB)
    chosen = store.layers() if arguments.all else list(store.surplus(limit, time.time()))
    if not arguments.dry_run:
        store.sweep()
    outcomes = [
        (layer, "would be removed" if arguments.dry_run else _removed(store.remove(layer)))
        for layer in chosen
    ]
    data = [{**layer_store.as_data(layer), "outcome": outcome} for layer, outcome in outcomes]
    lines = [
        f"{layer.key[:12]}  {layer.about.image} after {layer.about.boundary}, {mib(layer.size)}: {outcome}"
        for layer, outcome in outcomes
    ]
    print_result(arguments, data, lines or ["nothing to remove"])
    in_use = any(outcome == _removed(False) for _, outcome in outcomes)
    return ExitCode.UNSPECIFIED if in_use else ExitCode.OK


def _removed(gone: bool) -> str:
    return "removed" if gone else "stays: a build uses it"


def _table(layers: list[Layer]) -> Table:
    now = time.time()
    return Table(
        columns=("KEY", "IMAGE", "AFTER", "SIZE", "AGE", "USED", "SAVES"),
        rows=[
            (
                layer.key[:12],
                layer.about.image,
                layer.about.boundary,
                mib(layer.size),
                age(dt.timedelta(seconds=max(0.0, now - layer.about.made))),
                f"{age(dt.timedelta(seconds=max(0.0, now - layer.used)))} ago",
                f"{layer.about.seconds:.0f} s",
            )
            for layer in layers
        ],
    )


COMMAND = Command(
    name="cache",
    help="Show or prune the trees that builds have kept to start from.",
    add_options=_add_options,
    run=_run,
)
