"""An image file as the body of requests: read once for all senders, and again from its start for each retry.

The first sender to need a block reads it; the others find it in a window that moves along the file. A sender
that falls behind the window, or sends all of it again, reads by itself, so that a slow or broken region
delays no other. The digest is that of the sent bytes: the first read of each block computes it, and it must
equal the tested digest before the last block is given out. A block that is read again must be the same as
before.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import Progress
from pytest_dibctl.clouds.regions import LateError
from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.image.artifact import changed, file_digest, refuse_changed

BLOCK = 1 << 20
"""Bytes that are read and sent at a time."""
WINDOW = 64
"""Blocks that are kept for slower senders."""
TELL_EVERY = 5.0
"""Seconds between two lines of progress."""


class SharedFile:
    """A file that several threads send at once; the caller closes it.

    ``size`` is bytes, ``sha512`` the digest that its bytes have to have, ``window`` how many blocks stay in
    memory.
    """

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
        """How many blocks were read from the file, for all senders."""
        self._window = window
        self._blocks: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._next = 0
        self._digests = [hashlib.sha512()]
        """After each block, of all bytes until there."""
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.size // BLOCK)

    def block(self, number: int) -> bytes:
        """Return a block; raises ArtifactError when the file no longer has the digest.

        The last block shows that, so no sender gets the whole of another file.
        """
        with self._lock:
            block = self._blocks.get(number)
            if block is not None:
                return block
            if number == self._next:
                return self._advance()
        block = self._read(number)
        if self._after(number, block).digest() != self._digests[number + 1].digest():
            raise changed(self.path)
        return block

    def _after(self, number: int, block: bytes) -> Any:
        digest = self._digests[number].copy()
        digest.update(block)
        return digest

    def _advance(self) -> bytes:
        block = self._read(self._next)
        digest = self._after(self._next, block)
        if self._next == self.count - 1 and digest.hexdigest() != self.sha512:
            raise changed(self.path)
        self._digests.append(digest)
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
        """Close the file; bodies of it cannot be sent any more."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class FileBody:
    """A file's bytes for one sender, a ``Content``: each iteration starts at the first byte.

    keystoneauth sends a request again when its token was refused. A file object would then be at its end, and
    an image of no bytes would become active without an error.

    ``deadline`` is of the monotonic clock; an iteration raises LateError after it. ``go_on`` is called before
    each block, and while Glance works on the received bytes; it may raise. ``sent`` is called with the number
    of bytes given out so far.
    """

    def __init__(
        self,
        file: SharedFile,
        *,
        deadline: float,
        go_on: Callable[[], None] = lambda: None,
        sent: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self._file = file
        self._deadline = deadline
        self.go_on = go_on
        self.sent = sent
        self._sendings = 0

    def __len__(self) -> int:
        return self._file.size

    @property
    def sendings(self) -> int:
        """How often the bytes were asked for."""
        return self._sendings

    def __iter__(self) -> Iterator[bytes]:
        self._sendings += 1
        done = 0
        for number in range(self._file.count):
            self.go_on()
            if time.monotonic() > self._deadline:
                raise LateError
            block = self._file.block(number)
            yield block
            done += len(block)
            self.sent(done)

    def digest(self, algorithm: str) -> str:
        """Return a digest, in hex; any but the SHA-512 is computed now. Raises ArtifactError."""
        return file_digest(self._file.path, algorithm, sha512=self._file.sha512)

    def refuse_changed(self) -> None:
        """Raise ArtifactError if the file has changed."""
        refuse_changed(self._file.path, self._file.sha512)


class _BodyWithProgress(FileBody):
    """A body whose ``sent`` is also called with 0, when a sending begins."""

    def __iter__(self) -> Iterator[bytes]:
        self.sent(0)
        return super().__iter__()


class ProgressLines:
    """A line of progress now and then, for ``sent`` of a body of ``total`` bytes."""

    def __init__(self, tell: Progress, *, doing: str, total: int) -> None:
        self._tell = tell
        self._doing = doing
        self._total = total
        self._started = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        """Take the number of bytes sent; 0 begins a sending."""
        now = time.monotonic()
        if not done:
            self._started = self._told = now
        elif now - self._told >= TELL_EVERY:
            self._told = now
            rate = done / (1 << 20) / max(now - self._started, 0.001)
            percent = 100 * done // max(1, self._total)
            size = self._total / (1 << 20)
            self._tell(f"{self._doing}: {percent} % of {size:.0f} MiB, {rate:.0f} MiB/s")


@contextlib.contextmanager
def opened(
    path: Path,
    *,
    sha512: str,
    deadline: float,
    go_on: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> Iterator[FileBody]:
    """Open a file for one sender, and close it at the end; none of its blocks stays in memory.

    ``deadline`` is of the monotonic clock, ``progress`` gets lines. Raises ArtifactError.
    """
    with contextlib.closing(SharedFile(path, sha512=sha512, window=0)) as file:
        if progress is None:
            yield FileBody(file, deadline=deadline, go_on=go_on)
        else:
            lines = ProgressLines(progress, doing=f"uploading {path.name}", total=file.size)
            yield _BodyWithProgress(file, deadline=deadline, go_on=go_on, sent=lines)
