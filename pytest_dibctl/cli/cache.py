"""``dibctl cache``: the trees that builds have kept to start from, and ready states of local guests."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from pytest_dibctl.cli import tables
from pytest_dibctl.cli.command import Arguments, Command, add_format
from pytest_dibctl.cli.output import print_result, say
from pytest_dibctl.cli.tables import Column, Table
from pytest_dibctl.errors import ConfigError, ExitCode
from pytest_dibctl.system import files
from pytest_dibctl.system.keyed_cache import GIB, KeyedCache, ThingT

if TYPE_CHECKING:
    from pytest_dibctl.build.layer_store import Layer
    from pytest_dibctl.cli.results.machine import KeptTree
    from pytest_dibctl.cli.results.machine import ReadyState as ReadyStateData
    from pytest_dibctl.clouds.qemu.ready_store import ReadyState

COLUMNS = (
    Column(name="key"),
    Column(name="image"),
    Column(name="state"),
    Column(name="size"),
    Column(name="age", spare=2),
    Column(name="used", spare=1),
    Column(name="saves", spare=3),
    Column(name="outcome", spare=4),
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "prune"),
        default="list",
        help="list the entries (the default), or remove those that are too old or above the limit",
    )
    parser.add_argument("--all", action="store_true", help="with prune: remove all entries")
    parser.add_argument(
        "--size",
        type=float,
        metavar="GIB",
        help="with prune: the limit of each cache for this call, instead of the variables' limits",
    )
    parser.add_argument("--dry-run", action="store_true", help="with prune: only say what would be removed")
    add_format(parser, COLUMNS, "the entries, or the removed ones")


def _run(arguments: Arguments) -> int:
    """List or remove cache entries; the exit code is 1 when an entry is in use and stays."""
    if arguments.action == "prune":
        return _prune(arguments)
    if arguments.all or arguments.dry_run or arguments.size is not None:
        raise ConfigError("--all, --size and --dry-run are for `dibctl cache prune`")
    kept = [thing for shelf in _shelves() for thing in shelf.kept()]
    print_result(arguments, [thing.data for thing in kept], _table(kept, "nothing is kept"))
    if former := files.former_user_cache():
        say(f"dibctl: note: {former} is of an earlier version; nothing reads it, so it can be removed")
    return ExitCode.OK


def _prune(arguments: Arguments) -> int:
    outcomes: list[_Kept] = []
    for shelf in _shelves():
        chosen = shelf.kept() if arguments.all else shelf.surplus(arguments.size)
        if not arguments.dry_run:
            shelf.sweep()
        outcomes += [
            dataclasses.replace(
                thing, outcome="would be removed" if arguments.dry_run else _removed(thing.remove())
            )
            for thing in chosen
        ]
    data = [_with_outcome(thing) for thing in outcomes]
    print_result(arguments, data, _table(outcomes, "nothing to remove"))
    in_use = any(thing.outcome == _removed(False) for thing in outcomes)
    return ExitCode.UNSPECIFIED if in_use else ExitCode.OK


def _with_outcome(thing: _Kept) -> KeptTree | ReadyStateData:
    data = thing.data.copy()
    data["outcome"] = thing.outcome
    return data


def _removed(gone: bool) -> str:
    return "removed" if gone else "stays: it is in use"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kept:
    """A kept tree or a ready state of an image, and its outcome; times are since the epoch."""

    key: str
    image: str
    what: str
    size: int
    made: float
    used: float
    seconds: float
    data: KeptTree | ReadyStateData
    remove: Callable[[], bool]
    outcome: str = ""


class _Shelf(Generic[ThingT]):
    """One of the two caches; ``limit`` is bytes, and ``kept`` says of a thing what the command tells."""

    def __init__(self, store: KeyedCache[ThingT], limit: int, kept: Callable[[ThingT], _Kept]) -> None:
        self._store = store
        self._limit = limit
        self._kept = kept
        self.sweep = store.sweep

    def kept(self) -> list[_Kept]:
        """Return all that is there."""
        return [self._kept(thing) for thing in self._store.things()]

    def surplus(self, size: float | None) -> list[_Kept]:
        """Return the entries to remove, where ``size`` GiB are allowed, or else the settings' limit."""
        limit = self._limit if size is None else int(size * GIB)
        return [self._kept(thing) for thing in self._store.surplus(limit, time.time())]


def _shelves() -> tuple[_Shelf[Any], ...]:
    return _trees(), _ready_states()


def _trees() -> _Shelf[Layer]:
    from pytest_dibctl.build import layer_store

    store = layer_store.Store()
    return _Shelf(
        store,
        layer_store.limit(),
        lambda layer: _Kept(
            key=layer.key,
            image=layer.about.image,
            what=f"after {layer.about.boundary}",
            size=layer.size,
            made=layer.about.made,
            used=layer.used,
            seconds=layer.about.seconds,
            data=_tree_data(layer),
            remove=lambda: store.remove(layer),
        ),
    )


def _tree_data(layer: Layer) -> KeptTree:
    """Return what is told of a tree: names of what it was made of, and no digests."""
    elements = [name.partition(":")[2] for name in layer.about.components if name.startswith("element:")]
    return {
        "kind": "tree",
        "key": layer.key,
        "after": layer.about.boundary,
        "image": layer.about.image,
        "size": layer.size,
        "made": layer.about.made,
        "used": layer.used,
        "seconds": round(layer.about.seconds, 1),
        "signed": layer.about.sources is not None,
        "elements": sorted(elements),
    }


def _ready_states() -> _Shelf[ReadyState]:
    from pytest_dibctl.clouds.qemu import ready_store

    store = ready_store.ReadyStore()
    return _Shelf(
        store,
        ready_store.limit(),
        lambda state: _Kept(
            key=state.key,
            image=state.about.label,
            what="booted and ready",
            size=state.size,
            made=state.about.made,
            used=state.used,
            seconds=state.about.seconds,
            data=_state_data(state),
            remove=lambda: store.remove(state),
        ),
    )


def _state_data(state: ReadyState) -> ReadyStateData:
    return {
        "kind": "ready state",
        "key": state.key,
        "image": state.about.label,
        "size": state.about.size,
        "made": state.about.made,
        "used": state.used,
        "seconds": round(state.about.seconds, 1),
    }


def _table(kept: list[_Kept], empty: str) -> Table:
    now = dt.datetime.now(dt.UTC)
    return Table(
        columns=COLUMNS,
        rows=[
            (
                tables.ident(thing.key[:12]),
                thing.image,
                thing.what,
                tables.size(thing.size),
                tables.moment(_time(thing.made), now),
                tables.moment(_time(thing.used), now),
                tables.seconds(thing.seconds),
                tables.text(thing.outcome),
            )
            for thing in kept
        ],
        empty=empty,
    )


def _time(since_epoch: float) -> dt.datetime | None:
    try:
        return dt.datetime.fromtimestamp(since_epoch, dt.UTC)
    except (OverflowError, ValueError, OSError):  # nothing keeps a damaged record from holding any number
        return None


COMMAND = Command(
    name="cache",
    help="Show or prune the trees that builds start from, and the ready states of local guests.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl cache",
        "dibctl cache prune --size 10 --dry-run",
    ),
)
