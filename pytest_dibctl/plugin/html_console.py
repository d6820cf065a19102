"""The logs of a target in the HTML report: consoles with the line that tells the cause, and pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_dibctl.guest import causes
from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.system.html_page import TYPES, Markup, el, join, picture

CONSOLE_LINES = 400
"""Lines shown of a console, its end."""
LONGEST_LINE = 500
"""Characters shown of a line, its beginning."""
BEFORE_MARK, AFTER_MARK = 8, 6
"""Lines shown before the guilty one, and from it on."""
LONGEST_CONSOLE = 4 << 20
"""Bytes read of a console, its end."""
LARGEST_PICTURE = 4 << 20
CONSOLE = ".console.log"
"""How the names of consoles end; the other files of an instance begin as theirs does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Console:
    """The part of a console that is read; its lines have their true numbers only if it is the ``whole``."""

    text: str
    whole: bool

    @property
    def lines(self) -> list[str]:
        """The lines as the search for causes counts them: no other character ends one."""
        return self.text.removesuffix("\n").split("\n")


def logs(target: TargetReport, cwd: Path) -> Iterator[Markup]:
    """Yield the consoles and pictures that a report names, read from ``cwd``, and the names of other logs."""
    named = [*target.logs, *(log for failure in target.failures for log in failure.logs)]
    paths = list(dict.fromkeys(_path(cwd, log) for log in named))
    consoles = [path for path in paths if path.name.endswith(CONSOLE)]
    # A failed assertion got its answer from the guest, and says more than a login prompt does.
    needed = bool(target.dependents) or any(failure.when != "call" for failure in target.failures)
    guilty = target.facts.get("dib_console_log")
    for path in consoles:
        # The line is one of the instance that failed, and a target may have others.
        line = _guilty_line(target) if guilty is not None and path == _path(cwd, guilty) else None
        yield from _console(path, opened=needed, line=line)
        if pictures := list(_pictures(path)):
            summary = el("summary", el("strong", "Pictures"), f" of {path.name.removesuffix(CONSOLE)}")
            yield el("details", summary, *pictures, open="open" if needed else "")
    others = [path for path in paths if path not in consoles and path.suffix not in TYPES]
    if others:
        yield el("p", "Also kept: ", *_separated(el("code", str(path)) for path in others), class_="soft")


def _path(cwd: Path, log: str) -> Path:
    return Path(os.path.normpath(cwd / log))


def _guilty_line(target: TargetReport) -> int | None:
    number = target.facts.get("dib_console_line", "")
    return int(number) if number.isdecimal() else None


def _read(path: Path) -> _Console | None:
    try:
        with path.open("rb") as file:
            before = max(0, path.stat().st_size - LONGEST_CONSOLE)
            file.seek(before)
            return _Console(text=file.read(LONGEST_CONSOLE).decode(errors="replace"), whole=before == 0)
    except (OSError, ValueError):  # ValueError: no path
        return None


def _console(path: Path, *, opened: bool, line: int | None) -> Iterator[Markup]:
    console = _read(path)
    if console is None:
        return
    lines = console.lines
    is_known = console.whole and line is not None and 0 < line <= len(lines)
    guilty = line - 1 if is_known and line is not None else _diagnosed(console.text)
    name = path.name.removesuffix(CONSOLE)
    if guilty is not None:
        # A long box cannot be scrolled to its middle without a script.
        yield el("h3", f"Console of {name}" + (f", line {guilty + 1}" if console.whole else ""))
        yield _part(console, lines, max(0, guilty - BEFORE_MARK), guilty + AFTER_MARK, guilty)
        opened = False
    many = f"{len(lines)} lines" if console.whole else f"its last {LONGEST_CONSOLE >> 20} MiB"
    yield el(
        "details",
        el("summary", el("strong", "Console"), f" of {name}, {many}"),
        _part(console, lines, max(0, len(lines) - CONSOLE_LINES), len(lines), guilty),
        open="open" if opened else "",
    )


def _part(console: _Console, lines: Sequence[str], first: int, end: int, guilty: int | None) -> Markup:
    rows = [
        el("mark", _shown(row)) if number == guilty else join([_shown(row), "\n"])
        for number, row in enumerate(lines[first:end], start=first)
    ]
    left_out = f"{first} lines before" if console.whole else "more lines before"
    has_more = first > 0 or not console.whole
    return el("pre", *([el("span", f"[{left_out}]\n", class_="soft")] if has_more else []), *rows)


def _shown(row: str) -> str:
    row = row.removesuffix("\r")
    return row if len(row) <= LONGEST_LINE else f"{row[:LONGEST_LINE]}..."


def _diagnosed(text: str) -> int | None:
    found = causes.fatal(text)
    return None if found is None else text.count("\n", 0, found.start)


def _pictures(console_log: Path) -> Iterator[Markup]:
    """Yield the pictures that were kept of an instance: its screen, the plot of its boot."""
    name = console_log.name.removesuffix(CONSOLE)
    for path in sorted(console_log.parent.glob("*")):
        if path.name.startswith(f"{name}.") and path.suffix in TYPES:
            try:
                if path.stat().st_size <= LARGEST_PICTURE:
                    yield picture(path.read_bytes(), path.suffix, path.name)
            except OSError:
                continue


def _separated(parts: Iterator[Markup]) -> Iterator[Markup]:
    for number, part in enumerate(parts):
        yield join([", ", part]) if number else part
