"""Waiting for the processes of an instance to be gone."""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from pytest_dibctl.system import process

GRACE: Final = 5.0
"""Seconds in which a process that is to end has to be gone."""


def reap(helpers: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until processes have ended that end by themselves by now; kill those that do not."""
    deadline = time.monotonic() + GRACE
    for helper in helpers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(max(0.0, deadline - time.monotonic()))
        process.stop(helper, grace=0)


def await_end(descriptor: int, seconds: float = GRACE) -> bool:
    """Wait up to ``seconds`` for the process of a pidfd to end; return whether it has."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
