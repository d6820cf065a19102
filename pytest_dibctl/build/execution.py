"""Running a build's steps under their guard, in a private directory, with a log."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pytest_dibctl.build.log import Watcher
from pytest_dibctl.build.plan import Plan
from pytest_dibctl.errors import BuildError, CommandError
from pytest_dibctl.guards import build_steps
from pytest_dibctl.system import locks, process
from pytest_dibctl.system.waiting import Every

Progress = Callable[[str], None]

POLL: Final = 0.2
"""Seconds between two looks at a running build's log, or at the lock of another build."""

STOP_GRACE: Final = build_steps.GRACE + 10.0
"""Seconds that the guard has to end a build and to clean up after it."""

_OWNER: Final = "owner"


@contextlib.contextmanager
def building_directory(plan: Plan, progress: Progress) -> Iterator[int]:
    """Make the private directory of a build and remove it in the end; yield a descriptor that locks it.

    The lock passes to the build's guard, which may still be cleaning up after a run that died: the next
    build waits for that. Raises BuildError where nothing can be written.
    """
    building = plan.building
    with contextlib.ExitStack() as stack:
        try:
            _wait_for_guard(building, progress)
            build_steps.remove(building)
            # Never use one that another user has made meanwhile: that user could exchange the programs that
            # root runs in it.
            for directory in (building, building / build_steps.TMP, plan.out):
                directory.mkdir()
            (building / _OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
            stack.callback(build_steps.remove, building)
            descriptor = stack.enter_context(locks.exclusive(building))
        except OSError as error:
            raise plan.unwritable(error) from None
        yield descriptor


def owner(building: Path) -> str:
    """Return which process has made a private directory, in words."""
    try:
        return (building / _OWNER).read_text()
    except OSError:
        return "another run"


def _wait_for_guard(building: Path, progress: Progress) -> None:
    once = Every(math.inf)

    def tell() -> None:
        if once.is_due():
            progress("an earlier build was interrupted and is being cleaned up")

    with (
        contextlib.suppress(FileNotFoundError),
        locks.opened(building, create=False) as descriptor,
    ):
        locks.hold_by_looking(descriptor, poll=POLL, while_waiting=tell)


def run(plan: Plan, watcher: Watcher, *, lock: int) -> int:
    """Run the steps while ``watcher`` follows their log; return the exit code, 128 + n after signal n.

    ``lock`` is the descriptor that locks the private directory. Raises BuildError where the log cannot be
    written or the guard cannot be started.
    """
    with _fresh_log(plan) as sink:
        return _guarded(plan, watcher, sink=sink, lock=lock)


@contextlib.contextmanager
def _fresh_log(plan: Plan) -> Iterator[int]:
    """Put a new, empty log in the place of the last failed one and yield a descriptor that appends to it."""
    try:
        draft = plan.building / "log"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError as error:
        raise plan.unwritable(error) from None
    try:
        try:
            os.fchmod(descriptor, 0o644)
            draft.replace(plan.unfinished_log)
        except OSError as error:
            raise plan.unwritable(error) from None
        notes = (*plan.recipe.notes, *plan.recipe.warnings) if plan.recipe is not None else ()
        with contextlib.suppress(OSError):
            os.write(descriptor, "".join(f"dibctl: {note}\n" for note in notes).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def keep_log(plan: Plan) -> None:
    """Make the log of this build, which has succeeded, that of the file; raises BuildError.

    A build may remove its log.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            plan.unfinished_log.replace(plan.log_file)
    except OSError as error:
        raise plan.unwritable(error) from None


def _guarded(plan: Plan, watcher: Watcher, *, sink: int, lock: int) -> int:
    argv = build_steps.command(plan.steps(), building=plan.building, grace=build_steps.GRACE)
    with plan.unfinished_log.open(errors="replace") as reading:
        reading.seek(0, os.SEEK_END)
        try:
            with process.spawn(
                argv,
                # Unmarked: only its guard may end it, which knows how.
                env={**plan.environment, process.RUN: ""},
                cwd=plan.cwd,
                # The guard ends the build when this pipe closes, which it does however this process ends.
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                grace=STOP_GRACE,
            ) as guard:
                try:
                    _follow(guard, reading.readline, watcher)
                except KeyboardInterrupt:
                    watcher.interrupted()
                    raise
        except CommandError as error:
            raise BuildError(error.message, hint=error.hint) from None
        code = guard.returncode
    return code if code >= 0 else 128 - code


def _follow(guard: subprocess.Popen[str], readline: Callable[[], str], watcher: Watcher) -> None:
    partial = ""
    ended = False
    while True:
        while line := readline():
            partial += line
            if partial.endswith("\n"):
                watcher.feed(partial)
                partial = ""
        if ended:
            break
        watcher.tick()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(POLL)
            # The last lines are still to be read.
            ended = True
    watcher.feed(partial)
    watcher.finish()
