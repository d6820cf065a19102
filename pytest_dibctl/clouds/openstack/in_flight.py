"""Resources that may still appear in a cloud: their creation was cut off, or its answer was lost."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from pytest_dibctl.clouds.protocols import IN_FLIGHT
from pytest_dibctl.errors import ApiError

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two removals of a resource that may still appear."""


class InFlight:
    """The names of the resources, of one login, that may still appear."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    @contextlib.contextmanager
    def creating(self, name: str) -> Iterator[None]:
        """Create a resource inside; if that is cut off or not answered, note that it may still appear."""
        until = self._until.get(name, 0.0)
        try:
            yield
        except ApiError as error:
            if error.transient and not error.undone:
                until = time.monotonic() + IN_FLIGHT
            raise
        except BaseException:
            until = time.monotonic() + IN_FLIGHT
            raise
        finally:
            self._until[name] = until

    def may_appear(self, name: str) -> bool:
        """Whether a resource of that name may still appear besides the known one."""
        return self._until.get(name, 0.0) > time.monotonic()

    def settled(self, name: str, remove: Callable[[], None]) -> None:
        """Call ``remove``, and again as long as a resource of that name may still appear."""
        while True:
            remove()
            left = self._until.get(name, 0.0) - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_AGAIN, left))


@contextlib.contextmanager
def undoing(error: BaseException, left: str) -> Iterator[None]:
    """Undo, inside, a call that ``error`` cut off: a failure becomes a note and does not hide ``error``.

    ``left`` names, for the note, the resource that may still exist.
    """
    try:
        yield
    except Exception as second:  # noqa: BLE001 -- the first error counts, whatever the second is
        log.warning("%s: %s", left, second)
        error.add_note(f"{left}: {second}")
