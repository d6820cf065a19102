"""A log file that a process writes and that cannot fill the disk, also when this process has ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.system import process

# head takes no byte more from a pipe than it writes, and unbuffered it writes each at once. Bytes after the
# limit are read and dropped, since a writer whose pipe is full would stop.
_COPY = """
stdbuf -o0 head -c "$1" >>"$2"
set -- "$3" "$2" "$(dd bs=1 count=1 2>/dev/null | wc -c)"
[ "$3" -eq 0 ] || { printf '\\n%s\\n' "$1" >>"$2"; exec cat >/dev/null; }
"""


@contextlib.contextmanager
def writer(path: Path, *, limit: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Yield a descriptor to write the log ``path`` with, and the process that copies from it.

    The file has mode 0600 and gets at most ``limit`` bytes, then one line that says so. The descriptor is for
    child processes and is closed at the end of the block. The caller owns the copying process and reaps it.
    It ends by itself once the last child that holds the descriptor has ended. Raises OSError when the file
    cannot be made.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    source, sink = os.pipe()
    try:
        with os.fdopen(source, "rb", buffering=0) as pipe:
            # Without the run's mark, since the writer may outlive the run.
            copier = process.start(
                ["sh", "-c", _COPY, "sh", str(limit), str(path.absolute()), limit_note(limit)],
                stdin=pipe,
                env={process.RUN: "", "LC_ALL": "C"},
            )
        yield sink, copier
    finally:
        os.close(sink)


def limit_note(limit: int) -> str:
    """Return the line that ends a log of more than ``limit`` bytes."""
    return f"[dibctl: the limit of {_size(limit)} is reached; what follows is not kept]"


def _size(size: int) -> str:
    mib, rest = divmod(size, 1 << 20)
    return f"{size} bytes" if rest else f"{mib} MiB"
