"""Calls side by side in threads, which an interruption of the main thread stops.

Executors are of no use for that: Python waits for their threads before it exits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pytest_dibctl.errors import StoppedError
from pytest_dibctl.system import signals
from pytest_dibctl.system.waiting import growing, wait_until

LONGEST_POLL = 0.02
"""Seconds, at most, between two looks at whether the threads have ended; the first ones come sooner."""

Call = Callable[[], None]


class Jobs:
    """Calls in threads. ``stopped`` is set when an interruption asks all of them to stop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._jobs: list[_Job] = []

    @property
    def ended(self) -> bool:
        """Whether no thread is running."""
        return all(job.ended for job in self._jobs)

    def go_on(self) -> None:
        """Raise StoppedError if the jobs are to stop; a job calls it between its steps."""
        if self.stopped.is_set():
            raise StoppedError("interrupted")

    def run(self, calls: Sequence[Call], *, undo: bool = True) -> None:
        """Make calls side by side, and raise the first one's error once all have ended.

        An interruption of the main thread sets ``stopped``. It is raised again once the calls have undone
        their work; without ``undo`` there is none to be undone, and it is raised at once.
        """
        jobs = self._made(calls)
        try:
            # An interruption of a thread's start could leave it neither begun nor ended.
            with signals.held():
                _start(jobs)
            _finish(jobs)
        except BaseException:
            self.stopped.set()
            if undo:
                with signals.held():
                    _wait(jobs)
            raise

    def run_within(self, calls: Sequence[Call]) -> None:
        """Make calls side by side from a job: as ``run``, in a thread that no signal interrupts."""
        jobs = self._made(calls)
        _start(jobs)
        _finish(jobs)

    def _made(self, calls: Sequence[Call]) -> list[_Job]:
        jobs = [_Job(call) for call in calls]
        self._jobs += jobs
        return jobs


class _Job:
    """A call in a daemon thread; ``error`` is its exception."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begun = self._ended = False
        self.error: BaseException | None = None

    def start(self) -> None:
        self._begun = True  # before the start: an interruption between the two must not hide a running thread
        try:
            self._thread.start()
        except RuntimeError:
            self._begun = False
            raise

    @property
    def ended(self) -> bool:
        """Whether the call has ended, or was never started."""
        return self._ended or not self._begun

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 -- _finish raises it in the thread that waits
            self.error = error
        finally:
            self._ended = True


def _start(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.start()


def _finish(jobs: Sequence[_Job]) -> None:
    """Wait for all jobs, and raise the first one's error."""
    _wait(jobs)
    for job in jobs:
        if job.error is not None:
            raise job.error


def _wait(jobs: Sequence[_Job]) -> None:
    """Wait until the jobs that were started have ended.

    It polls. A signal that comes just before Python blocks in a lock does not wake it up, and an exception
    from a signal's handler can leave a lock of the standard library taken for ever.
    """
    pauses = growing(LONGEST_POLL / 20, factor=1.5, longest=LONGEST_POLL)
    wait_until(lambda: all(job.ended for job in jobs), poll=pauses)
