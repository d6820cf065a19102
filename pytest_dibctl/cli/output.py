"""The output of ``dibctl``: lines, tables, JSON and progress. Only this folder prints."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from pytest_dibctl.cli import tables
from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.tables import MIB, Table
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.system.text import visible, visible_line

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.shared import Failure

TELL_EVERY = 5.0
"""Seconds between two lines of progress of one environment, where there is no terminal."""


def say(line: str) -> None:
    """Show a line that is no result: it goes to stderr."""
    print(visible(line), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Show a line of a result: it goes to stdout."""
    print(visible(line), flush=True)


def say_error(what: str, error: DibctlError) -> None:
    """Show an error of one of several things, with its notes, where the command goes on."""
    say(f"{what}: error: {error}")
    for note in getattr(error, "__notes__", ()):
        say(f"{what}: note: {note}")


def error_data(error: DibctlError | None) -> Failure:
    """Return the keys that tell a program of an error; None is success."""
    if error is None:
        return {"error": None, "exit_code": int(ExitCode.OK)}
    notes = list(getattr(error, "__notes__", ()))
    return {"error": error.message, "notes": notes, "exit_code": int(error.exit_code)}


def print_result(arguments: Arguments, data: object, shown: Table | Iterable[str]) -> None:
    """Print a command's result in the format that was asked for.

    ``data`` is the result for JSON, ``shown`` a table, or the lines of a command that has none. Of JSON with
    ``--column`` the rows are printed, with these columns.
    """
    if not isinstance(shown, Table):
        if arguments.format == "json":
            print_json(data)
            return
        for line in shown:
            show(line)
        return
    chosen = shown.only(arguments.columns) if getattr(arguments, "columns", None) else None
    table = chosen or shown
    if arguments.format == "json":
        print_json(tables.as_data(chosen) if chosen else data)
    elif arguments.format == "csv":
        print(tables.as_csv(table), end="", flush=True)
    elif arguments.format == "value":
        print(tables.as_values(table), end="", flush=True)
    elif shown.rows:
        print_table(table if chosen else table.without_empty())
    elif shown.empty:
        show(shown.empty)


def print_json(data: object) -> None:
    """Print a result for programs."""
    # json escapes all characters beyond ASCII, but not DEL, the control character at the end of ASCII.
    print(json.dumps(data, indent=2).replace("\x7f", "\\u007f"), flush=True)


def print_table(table: Table) -> None:
    """Print a table: drawn in a terminal, elsewhere as lines of columns padded with spaces.

    NO_COLOR, FORCE_COLOR, TERM and COLUMNS count as rich reads them.
    """
    in_terminal = sys.stdout.isatty()
    if not in_terminal and not os.environ.get("FORCE_COLOR"):
        for line in tables.lines(table):
            print("".join(text for text, _ in line))
        sys.stdout.flush()
        return
    import rich.console
    import rich.text

    console = rich.console.Console(highlight=False, emoji=False)
    if not in_terminal:
        for line in tables.lines(table):
            styled = [(text, tables.STYLES[tone]) for text, tone in line]
            console.print(rich.text.Text.assemble(*styled), soft_wrap=True)
        return
    drawn, taken, left_out = tables.drawing(table, console.width)
    console.width = max(console.width, taken)
    console.print(drawn)
    if left_out:
        say(f"(no room for {', '.join(left_out)}: -c COLUMN chooses, -f json has all)")


class Meter:
    """The progress of uploads: bars in a terminal, elsewhere a line every TELL_EVERY seconds.

    It is a ``publish.upload.Watch``, so several threads may call it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._bars: dict[str, Any] = {}
        self._progress: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._progress = _bars()
            self._progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, environment: str, line: str) -> None:
        """Show a line about an environment."""
        with self._lock:
            if self._progress is not None:
                text = visible(f"{environment}: {line}")
                self._progress.console.print(text, markup=False, highlight=False)
            else:
                say(f"{environment}: {line}")

    def sent(self, environment: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes are sent to an environment."""
        with self._lock:
            if self._progress is not None:
                if environment not in self._bars:
                    self._bars[environment] = self._progress.add_task(visible_line(environment), total=total)
                self._progress.update(self._bars[environment], completed=done)
                return
            now = time.monotonic()
            began = self._began.setdefault(environment, now)
            if now - self._told.setdefault(environment, began) < TELL_EVERY:
                return
            self._told[environment] = now
        rate = done / MIB / max(now - began, 0.001)
        say(f"{environment}: {100 * done // max(1, total)} % of {total / MIB:.0f} MiB, {rate:.0f} MiB/s")


def _bars() -> Any:
    import rich.console
    import rich.progress

    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(binary_units=True),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    )
