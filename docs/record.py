"""Draw ``docs/demo.svg``: run a command at a terminal and render what it shows.

Usage: ``python docs/record.py pytest --dib-image=debian``
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110
TARGET = Path(__file__).with_name("demo.svg")
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


def lines_of(text: str) -> list[str]:
    """Return the lines as a reader sees them at the end: overwritten ones are gone, paths are short."""
    text = text.replace(str(Path.cwd()) + "/", "")
    lines = [re.sub(r".*\r", "", line) for line in text.splitlines()]
    kept = [line for line in lines if not re.match(r"(platform|cachedir|rootdir|plugins|configfile)\b", line)]
    if len(kept) <= LONG:
        return kept
    half = LONG // 2
    return [*kept[:half], "  ...", *kept[-half:]]


def main() -> None:
    """Record the command of the command line."""
    argv = sys.argv[1:]
    started = time.monotonic()
    shown = record(argv)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text(f"$ {shlex.join(argv)}", style="bold"))
    for line in lines_of(shown):
        console.print(Text.from_ansi(line), overflow="ellipsis", no_wrap=True)
    console.save_svg(str(TARGET), title="pytest-dibctl")
    print(f"{TARGET}: {time.monotonic() - started:.0f} s recorded", file=sys.stderr)


if __name__ == "__main__":
    main()
