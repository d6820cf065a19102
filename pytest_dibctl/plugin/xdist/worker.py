"""The role of this process in xdist, and a worker's message to its controller about its tests."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_dibctl.run.run_state import RunState


def is_controller(config: pytest.Config) -> bool:
    """Whether this process hands tests out to workers."""
    return bool(config.getoption("tx", None)) and config.getoption("dist", "no") != "no"


def worker_id(config: pytest.Config) -> str | None:
    """Return which of xdist's workers this process is, None if it is none."""
    worker = getattr(config, "workerinput", {}).get("workerid")
    return str(worker) if worker else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectedTests:
    """The tests that a worker has collected, in its order: five lists of one length.

    xdist tells its controller nothing but ``ids``, which do not name the target. ``groups`` are ids of
    targets and ``kinds`` those of entries, both empty for a test of no image; ``tallies`` name the sums
    that count failures of an entry; ``first_boots`` tells which need one. ``pid`` is the worker's.
    """

    pid: int
    ids: list[str]
    groups: list[str]
    kinds: list[str]
    tallies: list[str | None]
    first_boots: list[bool]

    def put(self, run_state: RunState, worker: str) -> None:
        """Let the controller of the run know."""
        run_state.put(_name(worker), dataclasses.asdict(self))

    @classmethod
    def get(cls, run_state: RunState, worker: str) -> CollectedTests | None:
        """Return what a worker has put there, None if it has not collected yet."""
        data = run_state.get(_name(worker))
        return None if data is None else cls(**data)


def _name(worker: str) -> str:
    return f"items of {worker}"
