"""The file that a QEMU guest's serial console is written to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.guest.console import EXCERPT_LINES, Cause, clean, diagnose, excerpt

CARRY = 2048
"""Characters read again with the next piece, so that a message cut in two is still recognised."""


class Console:
    """The file a guest's serial console is written to. Reading is cheap to repeat."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._carry = ""
        self._cause: Cause | None = None

    def text(self) -> str:
        """Return all that was said so far; empty when there is nothing."""
        return clean(b"".join(self._read_from(0)))

    def excerpt(self, lines: int = EXCERPT_LINES) -> str:
        """Return the last lines; when one of them names a fatal cause, at most five after that one."""
        return excerpt(self.text(), lines)

    def forget(self) -> None:
        """Look only at what is said from now on: the guest is about to boot anew."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._carry = ""
        self._cause = None

    def trouble(self) -> Cause | None:
        """Return why the guest will never be ready, if what was said since the last look tells."""
        if self._cause is not None:
            return self._cause
        for piece in self._read_from(self._offset):
            self._offset += len(piece)
            text = self._carry + clean(piece)
            self._carry = text[-CARRY:]
            if found := diagnose(text):
                self._cause = found[0]
                return self._cause
        return None

    def _read_from(self, offset: int) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(1 << 20):
                    yield piece
        except FileNotFoundError:
            return
