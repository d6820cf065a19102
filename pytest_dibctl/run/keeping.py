"""Things that are left on purpose: when, and how they are marked."""

from __future__ import annotations

import logging

from pytest_dibctl.clouds.protocols import Cloud
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run.ledger import Record
from pytest_dibctl.run.target_run import TargetRun

log = logging.getLogger(__name__)


def keep(cloud: Cloud, record: Record, reason: str, *, seconds: float | None) -> None:
    """Mark a resource as kept, in the ledger and in the cloud, where other machines see it.

    There the mark has an end after ``seconds``, unless that is None.
    """
    record = record.keep(reason)
    try:
        cloud.keep(record.kind, record.name, record.details, seconds=seconds)
    except DibctlError as error:
        log.warning("%s %s is kept, but does not show it in the cloud: %s", record.kind, record.name, error)


def keeps_instance(target_run: TargetRun) -> bool:
    """Whether the instance, and the key that opens it, are to stay."""
    if target_run.options.existing_instance is not None:
        return False
    return target_run.keep or (target_run.failed and target_run.options.keep_failed_instance)
