"""The file that QEMU writes a guest's serial console to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.guest.console import EXCERPT_LINES, Cause, clean, diagnose, excerpt

CARRY = 2048
"""Characters judged again with the next piece, so that a message cut in two is still recognised."""


class Console:
    """The serial console of one guest, in a file that QEMU writes.

    A file that does not exist yet counts as empty. ``trouble`` reads only new output, so it may be called
    often.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._carry = ""
        self._cause: Cause | None = None

    def text(self) -> str:
        """Return the whole output so far, without escape sequences."""
        return clean(b"".join(self._read_from(0)))

    def excerpt(self, lines: int = EXCERPT_LINES) -> str:
        """Return the last ``lines`` lines that are not blank, up to five lines after a fatal message."""
        return excerpt(self.text(), lines)

    def forget(self) -> None:
        """Skip the output so far in ``trouble``: the guest is about to boot again."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._carry = ""
        self._cause = None

    def trouble(self) -> Cause | None:
        """Return why the guest will never be ready, if the output since the last call says so."""
        if self._cause is not None:
            return self._cause
        for piece in self._read_from(self._offset):
            self._offset += len(piece)
            text = self._carry + clean(piece)
            self._carry = text[-CARRY:]
            if diagnosis := diagnose(text):
                self._cause = diagnosis[0]
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
