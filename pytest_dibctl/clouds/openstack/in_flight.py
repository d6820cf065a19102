"""What may still appear in a cloud, since its making was cut off or not answered, and what is undone then."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from pytest_dibctl.clouds.protocols import IN_FLIGHT
from pytest_dibctl.errors import ApiError

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks for what may still appear."""


class InFlight:
    """The names of one login's things that may still appear."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    @contextlib.contextmanager
    def creating(self, name: str) -> Iterator[None]:
        """Make a thing inside; note that it may still appear when its making was cut off or not answered."""
        before = self._until.get(name, 0.0)
        try:
            yield
        except ApiError as error:
            if error.transient and not error.undone:
                before = time.monotonic() + IN_FLIGHT
            raise
        except BaseException:
            before = time.monotonic() + IN_FLIGHT
            raise
        finally:
            self._until[name] = before

    def may_appear(self, name: str) -> bool:
        """Whether a thing of that name may still appear besides the one that is known."""
        return self._until.get(name, 0.0) > time.monotonic()

    def settled(self, name: str, remove: Callable[[], None]) -> None:
        """Call ``remove``, and again as long as a thing of that name may still appear."""
        while True:
            remove()
            left = self._until.get(name, 0.0) - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_AGAIN, left))


@contextlib.contextmanager
def undoing(error: BaseException, left: str) -> Iterator[None]:
    """Let what is done inside, because of ``error``, not hide it: a failure becomes a note on it.

    ``left`` says what may still be there then.
    """
    try:
        yield
    except Exception as second:  # noqa: BLE001 -- whatever it is, the first error is what counts
        log.warning("%s: %s", left, second)
        error.add_note(f"{left}: {second}")
