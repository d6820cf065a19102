"""Lines of progress between pytest's own, and the terminal without pytest's capturing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl.system.text import visible

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


class ProgressOutput:
    """Shows progress on stderr while tests run, past what pytest captures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._line_broken = False

    @property
    def _reporter(self) -> TerminalReporter | None:
        reporter: TerminalReporter | None = self._config.pluginmanager.getplugin("terminalreporter")
        return reporter

    def say(self, line: str) -> None:
        """Show one line; pytest's half-written line of the running test ends before it."""
        with self.uncaptured():
            if self._reporter is not None:
                self._reporter.ensure_newline()
                self._reporter.flush()
                self._line_broken = True
            print(visible(line), file=sys.__stderr__, flush=True)

    @contextlib.contextmanager
    def line_of(self, item: pytest.Item) -> Iterator[None]:
        """Write the line of a test again, after its setup, if progress has broken it."""
        self._line_broken = False
        yield
        if self._line_broken and self._reporter is not None:
            self._reporter.pytest_runtest_logstart(item.nodeid, item.location)

    @contextlib.contextmanager
    def uncaptured(self, *, stdin: bool = False) -> Iterator[None]:
        """Suspend capturing; that of the terminal's input too with ``stdin``, for a person who types."""
        manager = self._config.pluginmanager.getplugin("capturemanager")
        capturing = getattr(manager, "_global_capturing", None)
        # Between tests capturing is suspended already, and must stay so.
        if capturing is None or not capturing.is_started():
            yield
            return
        manager.suspend(in_=stdin)
        try:
            yield
        finally:
            manager.resume()
