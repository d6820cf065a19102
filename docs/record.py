"""Draw ``docs/demo.svg``: run a command at a terminal and render what it shows.

Usage: ``python docs/record.py pytest --dib-image=debian --dib-env=container -rN``
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import select
import shlex
import sys
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

COLUMNS = 110
TARGET = Path(__file__).with_name("demo.svg")
MOST = 1000
"""Lines that a run may print."""
LEFT_OUT = re.compile(r"(platform|cachedir|rootdir|plugins|configfile|timeout|matrices of cases)\b")
LONG = 64
"""Lines that are shown at most; of a longer run, the middle is left out."""


def record(argv: list[str]) -> str:
    """Run ``argv`` at a terminal of its own, copy what it shows to ours, and return it."""
    shown = bytearray()
    pid, screen = pty.fork()
    if pid == 0:
        os.environ["COLUMNS"] = str(COLUMNS)
        os.execvp(argv[0], argv)  # noqa: S606 -- the command that the person typed
    with contextlib.suppress(OSError):
        while True:
            select.select([screen], [], [])
            data = os.read(screen, 65536)
            if not data:
                break
            shown += data
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    os.waitpid(pid, 0)
    return shown.decode(errors="replace").replace("\r\n", "\n")


def lines_of(text: str) -> list[Text]:
    """Return the lines that stand at the terminal at the end, in their colours; paths are short."""
    screen = pyte.Screen(COLUMNS, MOST)
    pyte.Stream(screen).feed(text.replace(str(Path.cwd()) + "/", "").replace("\n", "\r\n"))
    lines = [_line([row[column] for column in range(COLUMNS)]) for _, row in sorted(screen.buffer.items())]
    while lines and not lines[-1].plain:
        del lines[-1]
    kept = [line for line in lines if not LEFT_OUT.match(line.plain)]
    if len(kept) <= LONG:
        return kept
    half = LONG // 2
    return [*kept[:half], Text("  ..."), *kept[-half:]]


def _line(characters: list[pyte.screens.Char]) -> Text:
    line = Text()
    # A piece of one style is one text of the picture: it stays readable, and can be searched.
    for style, piece in itertools.groupby(characters, key=_style):
        line.append("".join(character.data for character in piece), style=style)
    line.rstrip()
    return line


def _style(character: pyte.screens.Char) -> str:
    colour = {"default": "", "brown": "yellow"}.get(character.fg, character.fg)
    return f"{colour} {'bold' if character.bold else ''}".strip()


def main() -> None:
    """Record the command of the command line."""
    argv = sys.argv[1:]
    started = time.monotonic()
    shown = record(argv)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text(f"$ {shlex.join(argv)}", style="bold"))
    for line in lines_of(shown):
        console.print(line, overflow="ellipsis", no_wrap=True)
    picture = console.export_svg(title="pytest-dibctl")
    # A page shall load nothing from elsewhere, fonts neither.
    TARGET.write_text(re.sub(r" *@font-face \{.*?\}\n", "", picture, flags=re.DOTALL))
    print(f"{TARGET}: {time.monotonic() - started:.0f} s recorded", file=sys.stderr)


if __name__ == "__main__":
    main()
