"""An image's bytes from one region to another, through this process but through no file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

from pytest_dibctl.clouds.regions import DIGESTS, ImageRecord, LateError, Region
from pytest_dibctl.errors import ApiError


class Passage:
    """A ``Content``: each iteration downloads the image anew, and compares size and digest.

    ``timeout`` is seconds from now for all iterations. ``sent`` gets the bytes so far and their total. An
    iteration raises LateError after the deadline, ApiError for bytes that arrive damaged.
    """

    def __init__(
        self, region: Region, image: ImageRecord, *, timeout: float, sent: Callable[[int, int], None]
    ) -> None:
        self._region = region
        self._image = image
        self._deadline = time.monotonic() + timeout
        self._sent = sent
        self._sendings = 0

    def __len__(self) -> int:
        return self._image.size or 0

    @property
    def sendings(self) -> int:
        """How often the bytes were asked for."""
        return self._sendings

    def __iter__(self) -> Iterator[bytes]:
        self._sendings += 1
        # Of a kind that cannot be computed here the MD5 stands in, where the source tells one.
        digest = hashlib.new(self._algorithm or "md5", usedforsecurity=False)
        done, pending = 0, b""
        for block in self._region.download(self._image.id):
            if time.monotonic() > self._deadline:
                raise LateError
            digest.update(block)
            done += len(block)
            if done > len(self):
                self._check(done, "")
            if pending:
                yield pending
            pending = block
            self._sent(done, len(self))
        # Before the last block is sent: a damaged image stays incomplete, so Glance never activates it.
        self._check(done, digest.hexdigest())
        if pending:
            yield pending

    def _check(self, done: int, digest: str) -> None:
        expected = self._image.hash_value if self._algorithm else self._image.checksum
        if done != len(self) or (expected and expected != digest):
            raise ApiError(
                f"image {self._image.id} came damaged from {self._region.name}: "
                f"{done} of {len(self)} bytes, digest {digest}",
                transient=True,
            )

    @property
    def _algorithm(self) -> str | None:
        """The kind of the source's digest, None where it tells none that can be computed here."""
        known = self._image.hash_algorithm in DIGESTS and self._image.hash_value
        return self._image.hash_algorithm if known else None

    def digest(self, algorithm: str) -> str | None:
        """Return the source's digest, with which every iteration compares its bytes."""
        if algorithm == self._algorithm:
            return self._image.hash_value
        return self._image.checksum or None if algorithm == "md5" else None

    def go_on(self) -> None:
        """Do nothing: an interruption of a transfer interrupts this thread itself."""

    def refuse_changed(self) -> None:
        """Do nothing: an image in Glance never changes, and its digest was compared before the last block."""
