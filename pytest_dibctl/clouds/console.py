"""A guest's console as it grows: the suspicions from it, and when each may be believed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_dibctl.guest import causes
from pytest_dibctl.guest.boot_causes import Proof, Sign
from pytest_dibctl.guest.causes import Cause
from pytest_dibctl.guest.console import EXCERPT_LINES, LIMIT, clean, excerpt

CARRY = 2048
"""Characters judged again with the next piece, so that a message cut in two is still recognised."""
END = 16 * 1024
"""Bytes of the end of a console that show a guest's stage."""
FOLLOWING = 15
"""Lines without a kernel's stamp that may follow a guest's last words: a shell prints some of them."""
DOUBT = 1.0
"""Seconds until a suspicion is looked into again that the machine did not bear out."""


_STAMP = re.compile(r"\[ *\d+\.\d+\]")


class Suspicion:
    """A fatal line on a console, and since when the console has been silent after it.

    A guest may print any line, a log of an earlier panic too. So a line alone ends nothing: the console must
    stay silent after it, and the machine itself must bear it out. A guest that goes on printing has not
    stopped; only of a panic whose truth can be ``proven`` this need not be guessed. ``clock`` returns
    seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, proven: bool = True) -> None:
        self._clock = clock
        self._proven = proven
        self._sign: Sign | None = None
        self._since = 0.0
        self._following = 0

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self._sign is not None

    def forget(self) -> None:
        """Start anew: the guest boots again."""
        self._sign = None

    def grown(self, text: str) -> None:
        """Take in the latest output of the console."""
        self._since = self._clock()
        match = causes.fatal(text)
        if match is not None:
            self._sign, self._following = match.sign, 0
            text = text[match.start :]
        if self._sign is None:
            return
        self._following += sum(1 for line in text.splitlines() if line.strip() and not _STAMP.match(line))
        provable = self._proven and self._sign.proof is Proof.KERNEL
        if self._following > FOLLOWING and not provable:
            self._sign = None

    def believed(self, bears_out: Callable[[Proof], bool]) -> bool:
        """Whether the guest will never be ready; ``bears_out`` looks at the machine, once it must."""
        sign = self._sign
        if sign is None or sign.proof is None or self._clock() - self._since < sign.quiet:
            return False
        if bears_out(sign.proof):
            return True
        self._since = self._clock() - sign.quiet + DOUBT
        return False


class Console:
    """The serial console of one guest, in a file that an engine writes.

    A file that does not exist yet counts as empty. ``trouble`` reads only new output, so it may be called
    often. ``clock`` returns seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._offset = 0
        self._carry = ""
        self._suspicion = Suspicion(clock)
        self._cause: Cause | None = None

    def text(self) -> str:
        """Return the whole output so far, without escape sequences."""
        return clean(b"".join(self._read_from(0)))

    def end(self, size: int = END) -> str:
        """Return the text of the last ``size`` bytes of the output, without escape sequences."""
        with contextlib.suppress(FileNotFoundError):
            return clean(b"".join(self._read_from(max(0, self.path.stat().st_size - size))))
        return ""

    def excerpt(self, lines: int = EXCERPT_LINES, *, around: int | None = None) -> str:
        """Return the last ``lines`` lines that are not blank, up to five lines after number ``around``."""
        return excerpt(self.text(), lines, around=around)

    def forget(self) -> None:
        """Skip the output so far in ``trouble``: the guest is about to boot again."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._carry = ""
        self._suspicion.forget()
        self._cause = None

    def trouble(self, bears_out: Callable[[Proof], bool]) -> Cause | None:
        """Return why the guest will never be ready, once its console says so and ``bears_out`` agrees."""
        if self._cause is not None:
            return self._cause
        for piece in self._read_from(self._offset):
            self._offset += len(piece)
            text = self._carry + clean(piece)
            self._carry = text[-CARRY:]
            self._suspicion.grown(text)
        if self._suspicion.believed(bears_out):
            self._cause = causes.named_by_console(self.text())
        return self._cause

    def _read_from(self, offset: int) -> Iterator[bytes]:
        left = LIMIT + CARRY  # the writer keeps no more, and a note of its own
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                while left > 0 and (piece := file.read(min(left, 1 << 20))):
                    left -= len(piece)
                    yield piece
        except FileNotFoundError:
            return
