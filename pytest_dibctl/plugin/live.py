"""Lines that live below pytest's own output at a terminal, and are gone before pytest writes on.

pytest leaves the cursor where it will write next. So the lines are written below the cursor, which then goes
back; before pytest's next write, all below the cursor is erased. Nothing of pytest's is ever written twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from _pytest._io.wcwidth import wcwidth

from pytest_dibctl.system.text import visible_line

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
TAB = 8
"""Cells between two tab stops."""


class Screen:
    """pytest's terminal file, with lines below what it has written; ``descriptor`` is the same terminal.

    pytest's capturing puts another file in the place of descriptor 1 while tests run, so the lines need a
    descriptor of their own. The owner closes it with ``close``. ``dim`` is whether the terminal has colours.
    """

    def __init__(self, file: TextIO, descriptor: int, *, dim: bool = True) -> None:
        self._file = file
        self._descriptor = descriptor
        self._style = ("\x1b[2m", "\x1b[0m") if dim else ("", "")
        self._lock = threading.RLock()
        self._shown = False
        self._paused = 0
        self.column = 0
        """Where the cursor stands, in cells from the left; beyond the width where the line has wrapped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write pytest's own text."""
        with self._lock:
            self._erase()
            written = self._file.write(text)
            self._file.flush()
            self.column = column_after(self.column, text)
        return written

    def show(self, lines: Sequence[str]) -> None:
        """Show lines below the cursor in the place of those before, as many as there is room for.

        Each is cut to the terminal's width: the way back up is counted in rows.
        """
        with self._lock:
            self._erase()
            width, rows = self._size()
            at = self.column % width
            # Behind a full row the cursor waits in the last cell, where no sequence can put it again.
            is_behind_full_row = self.column > 0 and at == 0
            shown = fitting_lines(lines, rows - 1)
            if not shown or self._paused or is_behind_full_row:
                return
            begin, end = self._style
            text = "".join(f"\r\n{begin}{fitting(line, width - 1)}{end}\x1b[K" for line in shown)
            back = f"\x1b[{len(shown)}A\r" + (f"\x1b[{at}C" if at else "")
            self._put(text + back)
            self._shown = True

    def _size(self) -> tuple[int, int]:
        """Return the terminal's columns and rows; while tests run, descriptor 1 is not the terminal."""
        columns, rows = 80, 24
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._descriptor)
            columns, rows = size.columns or columns, size.lines or rows
        return shutil.get_terminal_size(fallback=(columns, rows))

    @contextlib.contextmanager
    def paused(self) -> Any:
        """Show no lines inside: another program has the terminal."""
        with self._lock:
            self._erase()
            self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def close(self) -> None:
        """Erase the lines for good."""
        with self._lock:
            self._erase()
            self._paused += 1
            os.close(self._descriptor)

    def _erase(self) -> None:
        if self._shown:
            self._put("\x1b[J")
            self._shown = False

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone
            os.write(self._descriptor, text.encode(errors="replace"))


def column_after(column: int, text: str) -> int:
    """Return where the cursor stands after a text that began at ``column``."""
    plain = _SEQUENCE.sub("", text)
    if "\n" in plain or "\r" in plain:
        column, plain = 0, re.split(r"[\r\n]", plain)[-1]
    for character in plain:
        column += TAB - column % TAB if character == "\t" else max(0, wcwidth(character))
    return column


def fitting(line: str, cells: int) -> str:
    """Return as much of a line as fits into so many cells, up to its first control character."""
    taken = 0
    for number, character in enumerate(line):
        taken += wcwidth(character)
        if wcwidth(character) < 0 or taken > cells:
            return line[:number]
    return line


def fitting_lines(lines: Sequence[str], rows: int) -> Sequence[str]:
    """Return no more lines than there are rows; the last one counts those that are left out."""
    if len(lines) <= rows:
        return lines
    return [*lines[: rows - 1], f"  and {len(lines) - rows + 1} more"] if rows > 0 else []


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 60:  # noqa: PLR2004 -- seconds in a minute
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


class Board:
    """The step of each target: its last line, and its start."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._steps: dict[tuple[str, str], tuple[str, float]] = {}

    def step(self, target: str, worker: str, name: str) -> None:
        """Note that a step begins, or with an empty name that none is on."""
        self._steps.pop((target, worker), None)
        if name:
            self._steps[target, worker] = (name, self._clock())

    def forget(self, worker: str) -> None:
        """Forget the steps of a worker that has ended, however it did."""
        for key in [key for key in self._steps if key[1] == worker]:
            del self._steps[key]

    def line(self, target: str, worker: str, text: str) -> None:
        """Note the first line of the newest text of the step that is on; without one it is not kept."""
        if (target, worker) in self._steps:
            _, since = self._steps[target, worker]
            self._steps[target, worker] = (visible_line(text.partition("\n")[0]), since)

    def lines(self) -> list[str]:
        """Return a line for each target that is at a step."""
        now = self._clock()
        return [
            f"  {target}: {text} ({duration(now - since)})"
            for (target, _), (text, since) in self._steps.items()
        ]
