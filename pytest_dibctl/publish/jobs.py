"""Calls side by side, in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

POLL = 0.02
"""Seconds between two looks at whether everything has come to its end."""


class Job:
    """A call in a thread that keeps no process from ending, as those of an executor would."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begun = self._ended = False
        self.error: BaseException | None = None

    def start(self) -> None:
        self._begun = True  # before it is: an interruption in between must not make anybody forget it
        try:
            self._thread.start()
        except RuntimeError:
            self._begun = False
            raise

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, or was never started."""
        return self._ended or not self._begun

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 -- raised by whoever waits for it
            self.error = error
        finally:
            self._ended = True


def start(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.start()


def finish(jobs: Sequence[Job]) -> None:
    """Wait for all jobs, and raise the first one's error."""
    wait(jobs)
    for job in jobs:
        if job.error is not None:
            raise job.error


def wait(jobs: Sequence[Job]) -> None:
    """Wait until the jobs that were started have ended.

    By looking: a signal that comes just before Python blocks in a lock does not wake it up, and an exception
    out of a signal's handler can leave a lock of the standard library taken for ever.
    """
    while not all(job.ended for job in jobs):
        time.sleep(POLL)
