"""Progress of steps while tests run: live lines at a terminal, few plain ones elsewhere, none with ``-q``."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl.plugin.live import Board, Screen
from pytest_dibctl.plugin.progress_feed import Feed, Word
from pytest_dibctl.plugin.xdist.worker import is_controller, worker_id
from pytest_dibctl.system.text import visible
from pytest_dibctl.system.waiting import Every

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

RARELY = 60.0
"""Seconds between two plain lines of one step."""
TICK = 0.3
"""Seconds between two updates of the shown lines."""
LOOK = 2.0
"""Seconds between two looks at a guest's console."""
WARNING = "warning"
"""How lines begin that are shown in any case, and stay."""


class ProgressOutput:
    """Shows the progress of a run's steps; ``directory`` is the run's.

    On a worker of xdist it hands everything to the controller. ``boot_stage`` is asked now and then, at a
    terminal, for the stages of this process's guests, by their targets' ids.
    """

    def __init__(
        self, config: pytest.Config, directory: Path, boot_stage: Callable[[], dict[str, str]] = dict
    ) -> None:
        self._config = config
        self._feed = Feed(directory)
        self._boot_stage = boot_stage
        self._worker = worker_id(config) or ""
        self._board = Board()
        self._lock = threading.RLock()
        """Held while the feed is read, and while the known steps are changed or shown."""
        self._screen: Screen | None = None
        self._told: dict[tuple[str, str], float] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._line_broken = False
        verbosity = 0 if self._worker else config.get_verbosity()
        self._is_quiet = verbosity < 0
        self._says_all = verbosity > 0

    # -- the session's hooks -----------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take pytest's terminal file, and begin to look; by now capturing is suspended."""
        if self._is_quiet or session.config.option.collectonly:
            return
        self._screen = None if self._worker else self._screen_of_pytest()
        has_screen_elsewhere = getattr(session.config, "workerinput", {}).get("dibctl_live", False)
        if self._screen is not None or is_controller(session.config) or has_screen_elsewhere:
            self._thread = threading.Thread(target=self._watch, name="dibctl-progress", daemon=True)
            self._thread.start()

    def _screen_of_pytest(self) -> Screen | None:
        # Options are missing where their plugin was left out with -p.
        getoption = self._config.getoption
        has_debugger = getoption("usepdb", default=False) or getoption("trace", default=False)
        if getoption("capture", default="no") == "no" or has_debugger or self._reporter is None:
            return None  # others write to the terminal besides
        writer = self._config.get_terminal_writer()
        file = vars(writer).get("_file")  # pytest's own writers have it, others need not
        if file is None or not (file.isatty() and os.isatty(1)) or os.environ.get("TERM", "dumb") == "dumb":
            return None
        screen = Screen(file, os.dup(1), dim=bool(writer.hasmarkup))
        vars(writer)["_file"] = screen
        return screen

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Go on through the last removals; a controller has read all by then."""
        self._read_feed()

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """End the thread, and leave nothing on the screen."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._read_feed()
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger for the rest of the run."""
        if self._screen is not None:
            self._board = Board()
            self._ended.set()
            self._screen.show([])

    @property
    def is_live(self) -> bool:
        """Whether there are live lines."""
        return self._screen is not None

    # -- what steps say ------------------------------------------------------------------------------

    def say(self, target: str, line: str) -> None:
        """Tell one line of a target."""
        self._take(Word(target=target, worker=self._worker, line=visible(line)))

    def step(self, target: str, name: str) -> None:
        """Tell that a step of a target begins, or with an empty name that it is over."""
        self._take(Word(target=target, worker=self._worker, step=name))

    def worker_ended(self, worker: str) -> None:
        """Show no step of a worker any more; a worker that died reported no end."""
        with self._lock:
            self._read_feed()
            self._board.forget(worker)

    def announce(self, line: str) -> None:
        """Show a line to the person at the terminal, with every option."""
        with self.uncaptured():
            self._print(line)

    def _take(self, word: Word) -> None:
        if self._worker:
            with contextlib.suppress(OSError):  # a full disk shall stop no step
                self._feed.say(word)
        else:
            with self._lock:
                self._show(word)

    def _show(self, word: Word) -> None:
        key = (word.target, word.worker)
        if word.step is not None:
            self._board.step(*key, word.step)
            self._told.pop(key, None)
            return
        line = word.line or ""
        self._board.line(*key, line)
        if self._is_quiet or not self._is_due(key, line):
            return
        with self.uncaptured():
            self._print(f"{word.target}: {line}")

    def _is_due(self, key: tuple[str, str], line: str) -> bool:
        """Whether a line is printed to stay: few are, and at a live terminal only warnings."""
        if line.startswith(WARNING):
            return True
        if self._screen is not None:
            return False
        now = time.monotonic()
        if not self._says_all and now - self._told.get(key, -RARELY) < RARELY:
            return False
        self._told[key] = now
        return True

    def _print(self, line: str) -> None:
        """Print a line after the end of what pytest has written; its half-written line ends before it."""
        reporter = self._reporter
        if reporter is None:
            print(visible(line), file=sys.__stderr__, flush=True)
            return
        writer = self._config.get_terminal_writer()
        is_within_line = (
            self._screen.column
            if self._screen is not None
            else writer.width_of_current_line and _same_place()
        )
        if is_within_line:
            reporter.currentfspath = None
            writer.line()
            self._line_broken = True
        writer.flush()
        if self._screen is not None:
            self._screen.write(f"{visible(line)}\n")
        else:
            print(visible(line), file=sys.__stderr__, flush=True)

    # -- what the thread does ------------------------------------------------------------------------

    def _watch(self) -> None:
        looks, stages = Every(LOOK), dict[str, str]()
        while not self._ended.wait(TICK):
            self._read_feed()
            if looks.is_due() and not is_controller(self._config):
                known, stages = stages, self._boot_stage()
                for target, stage in stages.items():
                    if known.get(target) != stage:
                        self.say(target, stage)
            if self._screen is not None:
                with self._lock:
                    self._screen.show(self._board.lines())

    def _read_feed(self) -> None:
        if self._worker:
            return
        with self._lock:
            for word in self._feed.new():
                self._show(word)

    # -- the terminal --------------------------------------------------------------------------------

    @property
    def _reporter(self) -> TerminalReporter | None:
        reporter: TerminalReporter | None = self._config.pluginmanager.getplugin("terminalreporter")
        return reporter

    @contextlib.contextmanager
    def line_of(self, item: pytest.Item) -> Iterator[None]:
        """Write the line of a test again, after its setup, if progress has broken it."""
        self._line_broken = False
        yield
        if self._line_broken and self._reporter is not None and not is_controller(self._config):
            self._reporter.pytest_runtest_logstart(item.nodeid, item.location)

    @contextlib.contextmanager
    def uncaptured(self, *, stdin: bool = False) -> Iterator[None]:
        """Suspend capturing; that of the terminal's input too with ``stdin``, for a person who types."""
        pause = self._screen.paused() if stdin and self._screen is not None else contextlib.nullcontext()
        manager = self._config.pluginmanager.getplugin("capturemanager")
        capturing = getattr(manager, "_global_capturing", None)
        with pause:
            # Between tests capturing is suspended already, and must stay so.
            if threading.current_thread() is not threading.main_thread() or (
                capturing is None or not capturing.is_started()
            ):
                yield
                return
            manager.suspend(in_=stdin)
            try:
                yield
            finally:
                manager.resume()


def _same_place() -> bool:
    """Whether pytest's output and progress end up in one place, so that one may break the other's line."""
    try:
        out, error = os.fstat(1), os.fstat(2)
    except OSError:
        return True
    return (out.st_dev, out.st_ino) == (error.st_dev, error.st_ino)
