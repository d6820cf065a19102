"""The outcome for a resource that a run made: removed, left behind, or kept on purpose.

The steps of a run, the sweep of dead runs and every report use this one type. So two removals can be compared
by their resource instead of by their text.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Resource:
    """A thing that a run makes; two are equal if their ``kind`` and ``name`` are.

    ``kind`` and ``name`` are those of its ledger record; ``id`` is the cloud's, empty while unknown.
    """

    kind: str
    name: str
    id: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.id})" if self.id else "")


def cleanup_command(run_id: str) -> str:
    """Return the command that removes the kept resources of a run."""
    return f"dibctl cleanup --run {run_id}"


class State(enum.StrEnum):
    """The outcome for a resource."""

    REMOVED = "removed"
    LEFT = "left"
    """Its removal was tried and failed."""
    KEPT = "kept"
    WAITING = "waiting"
    """It was not tried: something that needs it could not be removed."""
    MAY_APPEAR = "may appear"
    """It is not there, but the call that was to make it may still succeed."""
    ELSEWHERE = "elsewhere"
    """It is left alone: it can be judged in another place only."""
    LISTED = "listed"
    """It is only shown."""
    PLANNED = "planned"
    """It would be removed, were this not a dry run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """The outcome for a resource, and its reason.

    ``reason`` is the error of a failed removal, or why the resource is kept. ``seconds`` is how long the
    removal took. ``image`` and ``environment`` are labels, empty for a resource of no target. For a kept
    resource, ``login`` is the command that opens it (None if none does), and ``command`` removes it.
    """

    resource: Resource
    state: State
    reason: str = ""
    seconds: float = 0.0
    image: str = ""
    environment: str = ""
    login: str | None = None
    command: str = ""

    @property
    def failed(self) -> bool:
        """Whether the resource is still there against our will."""
        return self.state is State.LEFT

    @property
    def outcome(self) -> str:
        """The removal in words, without the resource, as ``dibctl cleanup`` prints it."""
        match self.state:
            case State.LEFT:
                return f"could not be removed: {self.reason}"
            case State.KEPT:
                return f"kept ({self.reason}); `{self.command}` removes it"
            case State.WAITING:
                return "left, for the instance that could not be removed"
            case State.ELSEWHERE | State.LISTED:
                return self.reason
            case State.MAY_APPEAR:
                return "may still appear"
        words = "would be removed" if self.state is State.PLANNED else "removed"
        return f"{words} ({self.reason})" if self.reason else words

    def as_data(self) -> dict[str, Any]:
        """Return plain data, for another process; ``from_data`` reads it."""
        # xdist sends nothing but the built-in types: a string, not an enum that is one too.
        return {**dataclasses.asdict(self), "state": self.state.value}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Removal:
        """Return the removal that ``as_data`` wrote."""
        return cls(**{**data, "resource": Resource(**data["resource"]), "state": State(data["state"])})
