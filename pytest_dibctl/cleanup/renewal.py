"""The lease of a living run: it shows other machines that the run still uses its resources."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.run.ledger import Ledger

log = logging.getLogger(__name__)

RENEW_EVERY = 3600.0
"""Seconds between two renewals: a run that lives can miss all of a day but one."""


def renew(find: Callable[[str], Entry[TestEnvironment]], run: Ledger, *, cwd: Path) -> None:
    """Renew the leases of all that a run has on record in clouds; failures are logged."""
    for record, error in sweep.renew_records(find, run, run.records(), cwd=cwd):
        log.warning("the lease of %s could not be renewed: %s", record.resource, error)


@contextlib.contextmanager
def renewing(
    find: Callable[[str], Entry[TestEnvironment]], run: Ledger, *, cwd: Path, every: float | None = None
) -> Iterator[None]:
    """Renew the leases of a run every ``every`` seconds while the block lasts, from a thread of this process.

    A lease ends with the process that renews it, so it is no task of the guardian's.
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(RENEW_EVERY if every is None else every):
            try:
                renew(find, run, cwd=cwd)
            except Exception:  # the next renewal may work, and the run goes on in any case
                log.warning("the leases of this run could not be renewed", exc_info=True)

    threading.Thread(target=work, name="dibctl-leases", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # not joined: a call that hangs must not hold up the end of the run
