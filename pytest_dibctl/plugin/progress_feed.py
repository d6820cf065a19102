"""The progress of the processes of a run, in a file of the run's directory.

xdist hands reports of tests to its controller and nothing else. So each worker appends lines to one file, and
the controller, which has the terminal, reads on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

FILE = "progress.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word:
    """One thing that a process says of a target.

    ``step`` is the step that begins, or empty for the end of one; ``line`` is a line of progress. One of the
    two is None. ``worker`` tells instances of one target apart.
    """

    target: str
    worker: str = ""
    step: str | None = None
    line: str | None = None


class Feed:
    """The file in a run's ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._read = 0

    def say(self, word: Word) -> None:
        """Append a word, in one write, so that those of several processes never mix; raises OSError.

        A full disk may have cut the word before it, whose end is the first byte written here.
        """
        data = b"\n" + json.dumps(dataclasses.asdict(word)).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def new(self) -> Iterator[Word]:
        """Yield the entries since the last call; entries that a full disk has cut are left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
        except OSError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            word = None
            with contextlib.suppress(ValueError, TypeError):
                word = Word(**json.loads(line))
            if word is not None:
                yield word
