"""Usage errors that only a worker can find, as it collects tests: the controller tells them.

xdist knows of failed tests and of internal errors only, and shows an internal error on a page of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable

import pytest

from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.xdist.scheduler import Node
from pytest_dibctl.run.run_state import RunState

MATTER = "usage error of a worker"


class WorkerRefusals:
    """Hands a worker's usage error over to the controller; the worker itself goes on without tests."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Keep the error, which the controller has been told of, from being an internal one."""
        try:
            return (yield)
        except pytest.UsageError:
            return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the controller before xdist reports the collection; pytest ends it in a `finally`."""
        error = sys.exc_info()[1]
        if isinstance(error, pytest.UsageError):
            self._session.run_state.put(MATTER, "\n".join(map(str, error.args)))
            session.items.clear()


def raise_refusal(run_state: RunState, nodes: Iterable[Node]) -> None:
    """End the workers and raise pytest.UsageError, in the controller, with the error that one has met."""
    text = run_state.get(MATTER)
    if text is not None:
        for node in nodes:
            node.shutdown()  # xdist would wait ten seconds for it
        raise pytest.UsageError(text)
