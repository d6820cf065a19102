"""Reading a command's output, with a bound on the memory for it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

KEPT: Final = 32 << 20
"""Characters of each of a command's streams that are kept in memory."""
LONGEST_LINE: Final = 1 << 20
"""Characters of one line; a longer one is passed on in pieces."""
INHERITED: Final = 5.0
"""Seconds to wait for the end of a stream after the command's: a daemon that inherited it keeps it open."""


class Kept:
    """The beginning of a stream, and a line that says so where it is not all."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._left = KEPT

    def add(self, part: str) -> None:
        """Keep a part as far as there is room."""
        if self._left > 0:
            self._parts.append(part[: self._left])
        elif self._left == 0 and part:
            self._parts.append(
                f"\n[dibctl: the limit of {KEPT >> 20} MiB is reached; the rest is not kept]\n"
            )
            self._left = -1
            return
        if self._left >= 0:
            rest = part[self._left :]
            self._left = max(0, self._left - len(part))
            if rest:
                self.add(rest)

    def text(self) -> str:
        """Return the kept output."""
        return "".join(self._parts)


def collect(process: subprocess.Popen[str], stdin: str | None, timeout: float | None) -> tuple[str, str]:
    """Write ``stdin`` and return stdout and stderr once the process and its streams have ended.

    Like ``Popen.communicate``, with a bound on the kept output. Raises subprocess.TimeoutExpired.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    output, errors = Kept(), Kept()
    threads = [
        _thread(lambda pipe=pipe, kept=kept: _drain(pipe, kept))  # type: ignore[misc]
        for pipe, kept in ((process.stdout, output), (process.stderr, errors))
        if pipe is not None
    ]
    # From here on the readers own the pipes: closing one under a thread that reads it would block.
    process.stdout = process.stderr = None
    if stdin is not None:
        threads.append(_thread(lambda: write(process, stdin)))
    for thread in threads:
        thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            assert timeout is not None
            raise subprocess.TimeoutExpired(process.args, timeout)
    process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    return output.text(), errors.text()


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _drain(pipe: IO[str], kept: Kept) -> None:
    with contextlib.suppress(OSError, ValueError), pipe:
        while part := pipe.read(65536):
            kept.add(part)


def write(process: subprocess.Popen[str], stdin: str) -> None:
    """Write to a process and close its stdin; a process that stops reading is no error."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.write(stdin)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def stream(
    process: subprocess.Popen[str],
    stdin: str | None,
    timeout: float | None,
    on_line: Callable[[str], None] | None,
    log_file: Path | None,
) -> str:
    """Hand each line of stdout to ``on_line``, or append it to ``log_file``; return the kept output.

    With ``log_file`` nothing is kept. Raises errors of ``on_line``, and subprocess.TimeoutExpired.
    """
    kept = Kept()
    failures: list[BaseException] = []
    pipe = process.stdout
    assert pipe is not None
    # From here on the reader owns the pipe: closing it under a thread that reads it would block.
    process.stdout = None

    def pump() -> None:
        try:
            with pipe, log_file.open("a") if log_file else contextlib.nullcontext() as sink:
                while line := pipe.readline(LONGEST_LINE):
                    if sink is not None:
                        sink.write(line)
                        sink.flush()
                    else:
                        kept.add(line)
                    if on_line is not None:
                        on_line(line.rstrip("\n"))
        except BaseException as error:  # noqa: BLE001 -- raised again in the caller's thread
            failures.append(error)

    reader = threading.Thread(target=pump, name=f"output of {process.args!r:.40}", daemon=True)
    reader.start()
    if stdin is not None:
        write(process, stdin)
    process.wait(timeout)
    reader.join(INHERITED)
    if failures:
        raise failures[0]
    return kept.text()
