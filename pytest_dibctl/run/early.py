"""A boot that goes on in the background while the image's files are looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pytest_dibctl.clouds.protocols import Instance


class EarlyBoot:
    """A call of ``boot`` in a thread of its own, begun at once; the thread ends with the call."""

    def __init__(self, boot: Callable[[], Instance]) -> None:
        self._boot = boot
        self._instance: Instance | None = None
        self._error: BaseException | None = None
        self.seconds = 0.0
        """The seconds of the boot; known once it is done."""
        self._done = threading.Event()
        # A daemon: a process that is to end at once does not wait, and the instance ends with the process.
        threading.Thread(target=self._run, name="early boot", daemon=True).start()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self._instance = self._boot()
        except BaseException as error:  # noqa: BLE001 -- raised by result, in the thread that wants the instance
            self._error = error
        self.seconds = time.monotonic() - started
        self._done.set()

    def result(self) -> Instance:
        """Wait for the boot; return its instance, or raise its error."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._instance is not None
        return self._instance

    def settled(self) -> Instance | None:
        """Wait for the boot; return its instance, None if it failed."""
        self._done.wait()
        return self._instance
