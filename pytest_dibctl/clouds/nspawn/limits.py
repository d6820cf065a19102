"""Control groups of a container: made before it starts, found again by the instance's name.

It gets one in each hierarchy, with or without a limit, since its own are all that it can see then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_dibctl.errors import InstanceError
from pytest_dibctl.system.waiting import wait_until

MIB: Final = 1 << 20
GONE: Final = 10.0
"""Seconds in which the kernel lets go of a group whose last process has ended."""

_GIVEN: Final = "cgroup.subtree_control"
"""The file of a group of the second version that says which controllers those below it have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """A mounted hierarchy of control groups, of the second version if ``unified``.

    ``controllers`` are those that groups below its top have, or can be given.
    """

    top: Path
    unified: bool
    controllers: frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of one container, and which of "memory" and "processes" they limit."""

    paths: tuple[Path, ...]
    enforced: frozenset[str]


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return the hierarchies that are mounted here; nothing is changed by looking."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.append(Hierarchy(top=Path(point), unified=True, controllers=_available(Path(point))))
        elif kind == "cgroup":
            controllers = frozenset(options.split(","))
            found.append(Hierarchy(top=Path(point), unified=False, controllers=controllers))
    return tuple(found)


def enforced() -> frozenset[str]:
    """Return which of "memory" and "processes" can be limited here."""
    names = {"memory": "memory", "pids": "processes"}
    return frozenset(
        limit
        for hierarchy in hierarchies()
        for controller, limit in names.items()
        if controller in hierarchy.controllers and os.access(hierarchy.top, os.W_OK)
    )


def make(name: str, *, memory: int, processes: int) -> Groups:
    """Make the groups of the container ``name``, limited to ``memory`` MiB; raises InstanceError.

    In the second version, the groups below the top are given the controllers that this takes.
    """
    paths = []
    limited: set[str] = set()
    try:
        for hierarchy in hierarchies():
            if not os.access(hierarchy.top, os.W_OK):
                continue
            if hierarchy.unified:
                hierarchy = _delegated(hierarchy)  # noqa: PLW2901 -- as it is from here on
            path = hierarchy.top / name
            path.mkdir(exist_ok=True)
            paths.append(path)
            if "cpuset" in hierarchy.controllers and not hierarchy.unified:
                _share_processors(path)
            if "memory" in hierarchy.controllers:
                _limit_memory(path, memory * MIB, unified=hierarchy.unified)
                limited.add("memory")
            if "pids" in hierarchy.controllers:
                (path / "pids.max").write_text(str(processes))
                limited.add("processes")
    except OSError as error:
        remove(name)
        raise InstanceError(f"{name}: no control group: {error.filename}: {error.strerror}") from None
    return Groups(paths=tuple(paths), enforced=frozenset(limited))


def remove(name: str) -> None:
    """Remove the groups of the container ``name``, which has ended; raises InstanceError."""
    for hierarchy in hierarchies():
        path = hierarchy.top / name
        left: list[OSError] = []

        def is_gone(path: Path = path, left: list[OSError] = left) -> bool:
            left[:] = _remove_tree(path)
            return not left

        if not wait_until(is_gone, timeout=GONE, poll=0.02):
            raise InstanceError(f"{name}: its control group cannot be removed: {left[0]}")


def _available(top: Path) -> frozenset[str]:
    """Return the controllers that groups below the top of a unified hierarchy have, or can be given."""
    enabled, offered = _words(top / _GIVEN), _words(top / "cgroup.controllers")
    return enabled | offered if _can_give(top) else enabled


def _can_give(top: Path) -> bool:
    """Whether the kernel takes new controllers for the groups below: not where processes are in ``top``.

    Only the machine's own top group may have both, and only that one has no type.
    """
    if not os.access(top / _GIVEN, os.W_OK):
        return False
    return not (top / "cgroup.type").exists() or not _words(top / "cgroup.procs")


def _delegated(hierarchy: Hierarchy) -> Hierarchy:
    """Give the groups below the top the controllers that limit; return the hierarchy as it is then.

    They stay given: groups of other containers may have come to need them.
    """
    enabled = _words(hierarchy.top / _GIVEN)
    for controller in sorted({"memory", "pids"} & hierarchy.controllers - enabled):
        # Refused after all where a process came into the top group meanwhile.
        with contextlib.suppress(OSError):
            (hierarchy.top / _GIVEN).write_text(f"+{controller}")
    return dataclasses.replace(hierarchy, controllers=_words(hierarchy.top / _GIVEN))


def _words(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text().split())
    except OSError:
        return frozenset()


def _share_processors(path: Path) -> None:
    """Give a group of the first version the processors of its parent; without any it takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        (path / name).write_text((path.parent / name).read_text())


def _limit_memory(path: Path, size: int, *, unified: bool) -> None:
    names = (
        ("memory.max", "memory.swap.max")
        if unified
        else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    )
    limit, with_swap = (path / name for name in names)
    limit.write_text(str(size))
    with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
        with_swap.write_text("0" if unified else str(size))


def _remove_tree(path: Path) -> list[OSError]:
    """Remove a group and the groups in it; return the error that kept them, if any."""
    errors = []
    for group in _below(path):
        try:
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            errors.append(error)
            if error.errno != errno.EBUSY:
                break
    return errors


def _below(path: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(path.iterdir()):
            if entry.is_dir():
                yield from _below(entry)
    yield path
