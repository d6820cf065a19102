"""One read of a file for all who send it.

Whoever is first reads the next block; the others find it in a window that moves along the file. Who falls
behind the window, and who has to send all of it again, reads for itself, so that a slow or broken region
holds up nobody. The digest is known before: what Glance computes of the bytes that arrive shows whether these
are the ones that were looked at, so nothing is computed here.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_dibctl.clouds.regions import LateError
from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.image.artifact import file_digest, refuse_changed

BLOCK = 1 << 20
"""Bytes that are read and sent at a time."""
WINDOW = 64
"""Blocks that are kept for those who come later."""


class SharedFile:
    """A file that several threads send at once. ``size`` is bytes, ``sha512`` what is known of it."""

    def __init__(self, path: Path, *, sha512: str, window: int = WINDOW) -> None:
        """Open ``path``; raises ArtifactError."""
        self.path = path
        self.sha512 = sha512
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
        self.size = os.fstat(self._descriptor).st_size
        self.reads = 0
        """How many blocks were read from the file, by whomever."""
        self._window = window
        self._blocks: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._next = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.size // BLOCK)

    def block(self, number: int) -> bytes:
        """Return a block; raises ArtifactError when the file has become shorter."""
        with self._lock:
            found = self._blocks.get(number)
            if found is not None:
                return found
            if number == self._next:
                return self._advance()
        return self._read(number)

    def _advance(self) -> bytes:
        block = self._read(self._next)
        self._blocks[self._next] = block
        if len(self._blocks) > self._window:
            self._blocks.popitem(last=False)
        self._next += 1
        return block

    def _read(self, number: int) -> bytes:
        self.reads += 1
        expected = min(BLOCK, self.size - number * BLOCK)
        block = os.pread(self._descriptor, expected, number * BLOCK)
        if len(block) != expected:
            raise ArtifactError(f"{self.path}: became shorter while it was uploaded")
        return block

    def close(self) -> None:
        """Forget the file."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class FileBody:
    """One sender's way through a stream: a ``Content`` that can be iterated again.

    ``deadline`` is of the monotonic clock. ``go_on`` is called before each block, and later, and may raise;
    ``sent`` is called with the bytes that were given out so far.
    """

    def __init__(
        self,
        stream: SharedFile,
        *,
        deadline: float,
        go_on: Callable[[], None] = lambda: None,
        sent: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self._stream = stream
        self._deadline = deadline
        self.go_on = go_on
        self._sent = sent
        self._sendings = 0

    def __len__(self) -> int:
        return self._stream.size

    @property
    def sendings(self) -> int:
        """How often the bytes were asked for."""
        return self._sendings

    def __iter__(self) -> Iterator[bytes]:
        self._sendings += 1
        done = 0
        for number in range(self._stream.count):
            self.go_on()
            if time.monotonic() > self._deadline:
                raise LateError
            block = self._stream.block(number)
            yield block
            done += len(block)
            self._sent(done)

    def digest(self, algorithm: str) -> str:
        """Return the stream's digest; one of another kind is read from the file."""
        return file_digest(self._stream.path, algorithm, sha512=self._stream.sha512)

    def refuse_changed(self) -> None:
        """Raise ArtifactError if the file has changed."""
        refuse_changed(self._stream.path, self._stream.sha512)
