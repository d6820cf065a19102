"""The state that the processes of one run share: steps that are done once, and turns at building.

Everything lies in the run's directory, under locks that the kernel releases however a process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_dibctl import errors
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system import files, locks
from pytest_dibctl.system.waiting import wait_until

POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""

Waiting = Callable[[], AbstractContextManager[object]]
"""Entered while a process waits for another one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a step; ``mine`` says that this process has just done it."""

    value: dict[str, Any]
    mine: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """The state that a run's processes have in common; ``directory`` is the run's."""

    directory: Path

    def once(
        self,
        step: str,
        make: Callable[[], dict[str, Any]],
        *,
        waiting: Waiting = contextlib.nullcontext,
    ) -> Outcome:
        """Return the result of ``make``, plain data; only the first process calls it.

        A DibctlError is an outcome too: a later caller gets it again, with ``step`` as its
        ``origin``. A process that ends in the middle, or is interrupted, leaves the step to the next one.
        """
        path = self._path(step, "outcome")
        with locks.opened(self._path(step, "lock")) as lock:
            if not locks.try_hold(lock):
                with waiting():
                    locks.hold_by_looking(lock, poll=POLL)
            known = _read(path)
            mine = known is None
            if known is None:
                known = _attempt(make)
                _write(path, known)
        if "error" in known:
            raise _error(known["error"], origin=step)
        return Outcome(value=known["value"], mine=mine)

    def known(self, step: str) -> dict[str, Any] | None:
        """Return the result of a step without waiting, None if it was not done, or failed."""
        return (_read(self._path(step, "outcome")) or {}).get("value")

    @contextlib.contextmanager
    def in_use(self, step: str) -> Iterator[None]:
        """Keep other processes from taking away the step's result with ``claim``."""
        with locks.shared(self._path(step, "users")):
            yield

    @contextlib.contextmanager
    def claim(self, step: str) -> Iterator[dict[str, Any] | None]:
        """Take away the step's result, to remove it; the value is None while another process still uses it.

        An empty value says that there is nothing. The next caller does the step anew.
        """
        with locks.exclusive_if_free(self._path(step, "users")) as lock:
            if lock is None:
                yield None
                return
            path = self._path(step, "outcome")
            known = _read(path) or {}
            path.unlink(missing_ok=True)
            yield known.get("value", {})

    @contextlib.contextmanager
    def turn(self, kind: str, limit: int, *, waiting: Waiting = contextlib.nullcontext) -> Iterator[None]:
        """Be one of at most ``limit`` processes of the run that do ``kind`` at the same time."""
        with contextlib.ExitStack() as stack:
            paths = [self._path(f"{kind}-{number}", "turn") for number in range(limit)]
            turns = [stack.enter_context(locks.opened(path)) for path in paths]

            def has_turn() -> bool:
                return any(locks.try_hold(turn) for turn in turns)

            if not has_turn():
                with waiting():
                    wait_until(has_turn, poll=POLL)
            yield

    def first(self, matter: str, name: str) -> str:
        """Return the ``name`` that was first given for ``matter`` in this run."""
        path = self._path(matter, "first")
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(name)
        try:
            os.link(draft, path)  # fails if it is there, and is never seen half written
        except FileExistsError:
            return path.read_text()
        finally:
            draft.unlink()
        return name

    def add(self, tally: str, amount: float) -> None:
        """Add to a sum of the run."""
        descriptor = os.open(self._path(tally, "tally"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{amount}\n".encode())
        finally:
            os.close(descriptor)

    def total(self, tally: str) -> float:
        """Return a sum of the run."""
        try:
            return sum(float(line) for line in self._path(tally, "tally").read_text().split())
        except FileNotFoundError:
            return 0.0

    def values(self) -> list[dict[str, Any]]:
        """Return the results of the steps that are done and were not taken away."""
        known = [_read(path) for path in self.directory.glob("*.outcome")]
        return [found["value"] for found in known if found and "value" in found]

    def put(self, name: str, value: object) -> None:
        """Let the run's other processes know something, plain data."""
        _write(self._path(name, "said"), {"value": value})

    def get(self, name: str) -> Any | None:
        """Return the value under ``name``, None if there is none."""
        return (_read(self._path(name, "said")) or {}).get("value")

    def _path(self, name: str, kind: str) -> Path:
        # Labels may hold any character and differ in those only that no file name may have.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return self.directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:80]}-{digest}.{kind}"


def _attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"value": make()}
    except DibctlError as error:
        return {
            "error": {
                "class": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "exit_code": int(error.exit_code),
            }
        }


def _error(said: dict[str, Any], *, origin: str) -> DibctlError:
    kind = getattr(errors, said["class"], DibctlError)
    error: DibctlError = kind(said["message"], hint=said["hint"], exit_code=said["exit_code"])
    error.origin = origin
    return error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return known


def _write(path: Path, known: dict[str, Any]) -> None:
    files.write_atomically(path, json.dumps(known))
