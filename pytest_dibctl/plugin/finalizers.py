"""Finalizers end before an interruption does: pytest would forget those that are left."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import pytest

from pytest_dibctl.plugin.ending import SessionEnd
from pytest_dibctl.plugin.xdist.worker import is_controller
from pytest_dibctl.system import signals


class FinalizersFirst:
    """Holds an interruption back while finalizers run, and makes up for a session's end that it cut off."""

    def __init__(self, end: SessionEnd) -> None:
        self._end = end

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Hold an interruption back while fixtures of a test, and maybe of an image, are torn down."""
        with signals.held(for_removal=False):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Hold an interruption back while the last fixtures are torn down and the summary is written.

        A controller tears down no fixture of a worker: it waits for workers that do, and removes the rest.
        """
        result = None
        try:
            with signals.held(for_removal=is_controller(session.config)):
                result = yield
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            if not (self._end.begun or signals.abandoned()):
                # The interruption broke a finalizer off, and with it all hooks that were to follow.
                with contextlib.suppress(KeyboardInterrupt), signals.held(for_removal=False):
                    self._end.pytest_sessionfinish(session, int(session.exitstatus))
        return result
