"""What ``dibctl`` shows: lines, tables, JSON and progress. Only this folder prints."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.system.text import visible, visible_line

TELL_EVERY = 5.0
"""Seconds between two lines of progress of one environment, where there is no terminal."""
MIB = 1 << 20


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


def error_data(error: DibctlError | None) -> dict[str, Any]:
    """Return the keys that tell a program of an error; None is success."""
    if error is None:
        return {"error": None, "exit_code": int(ExitCode.OK)}
    notes = list(getattr(error, "__notes__", ()))
    return {"error": error.message, "notes": notes, "exit_code": int(error.exit_code)}


def mib(size: int | None) -> str:
    """Return a size in bytes as MiB, for people."""
    return "-" if size is None else f"{size / MIB:.1f} MiB"


def age(duration: dt.timedelta) -> str:
    """Return a duration for people: in its largest unit, rounded down."""
    seconds = int(duration.total_seconds())
    for name, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{name}"
    return f"{seconds}s"


@dataclasses.dataclass(frozen=True)
class Table:
    """A result that people read in rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_result(arguments: Arguments, data: object, shown: Table | Iterable[str]) -> None:
    """Print a command's result: ``data`` as JSON with ``--json``, else the table or the lines ``shown``."""
    if arguments.json:
        print_json(data)
    elif isinstance(shown, Table):
        print_table(shown.columns, shown.rows)
    else:
        for line in shown:
            show(line)


def print_json(data: object) -> None:
    """Print a result for programs."""
    # json escapes all that is not ASCII, but not the one control character at its end.
    print(json.dumps(data, indent=2).replace("\x7f", "\\u007f"))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn in a terminal, elsewhere as lines of columns padded with spaces."""
    rows = [[visible_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, rows)
        return
    cells = [list(columns), *map(list, rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(rich.text.Text(cell) for cell in row))  # a name may look like markup
    rich.console.Console().print(table)


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
                shown = visible(f"{environment}: {line}")
                self._progress.console.print(shown, markup=False, highlight=False)
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
