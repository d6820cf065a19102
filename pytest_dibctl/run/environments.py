"""Test environments of a run: which ones an image has, and how one is opened."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import Cloud, Progress
from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError, NotInConfigError
from pytest_dibctl.run.ledger import Ledger, Record, all_runs
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import checks

log = logging.getLogger(__name__)


def environments_of(
    catalog: Catalog, image: Entry[Image], run_options: RunOptions
) -> tuple[Entry[TestEnvironment], ...]:
    """Return where ``image`` is tested; an instance that was kept stays in its environment.

    Raises NotInConfigError.
    """
    if patterns := run_options.environments or run_options.ladder:
        return catalog.select_environments(patterns)
    if run_options.existing_instance is not None:
        with contextlib.suppress(NotInConfigError):
            _, record = find_instance(run_options.existing_instance)
            return (catalog.environment(record.details["environment"]),)
    return (catalog.environment_for(image),)


@contextlib.contextmanager
def opened(target_run: TargetRun) -> Iterator[Cloud]:
    """Open the target run's test environment, and check that it meets the image's settings.

    Raises DibctlError, with this step as its origin.
    """
    with contextlib.ExitStack() as stack:
        try:
            cloud = stack.enter_context(contextlib.closing(_cloud(target_run)))
            cloud.preflight()
            if not target_run.options.upload_only:
                checks.require(
                    [checks.tool("ssh")],
                    saying=f"{target_run.label}: this machine cannot log in to instances",
                )
        except BaseException as error:  # a bug of a library too
            if isinstance(error, DibctlError):
                error.origin = _opening(target_run)
            raise
        yield cloud


def check(later: TargetRun) -> None:
    """See, once per run, whether the test environment of a ``later`` rung can be opened; it is closed again.

    Its errors are to be reported before the image is built and booted. Raises DibctlError, with the opening
    as its origin.
    """
    later.once(_opening(later), lambda: _seen(later))


def _seen(target_run: TargetRun) -> dict[str, Any]:
    with opened(target_run):
        return {"seconds": {}}


def _opening(target_run: TargetRun) -> str:
    return f"open {target_run.label} {target_run.environment.label}"


def _cloud(target_run: TargetRun) -> Cloud:
    run = target_run.ledger
    if target_run.options.existing_instance is not None and target_run.environment.settings.is_local:
        run = find_instance(target_run.options.existing_instance)[0]
    return open_environment(
        target_run.environment,
        run=run,
        cwd=target_run.cwd,
        deadlines=target_run.deadlines,
        image_endpoint=target_run.image_endpoint,
        progress=target_run.progress,
    )


def open_environment(
    environment: Entry[TestEnvironment],
    *,
    run: Ledger,
    cwd: Path,
    deadlines: merge.Deadlines,
    image_endpoint: str | None,
    progress: Progress = log.info,
) -> Cloud:
    """Return the Cloud of an environment; its resources bear ``run``'s id, or lie in its directory.

    ``image_endpoint`` is where its images are, if the image or the environment says so: a
    removal must look for the image where it was uploaded.
    Raises CredentialsError when the environment lacks some.
    """
    if environment.settings.engine == "qemu":
        from pytest_dibctl.clouds.qemu.cloud import QemuCloud  # costs nothing until a guest is wanted

        return QemuCloud(environment, directory=run.directory, cwd=cwd)
    if environment.settings.engine == "nspawn":
        from pytest_dibctl.clouds.nspawn.cloud import NspawnCloud

        return NspawnCloud(environment, directory=run.directory, cwd=cwd)
    from pytest_dibctl.clouds.openstack.cloud import OpenStackCloud  # a quarter of a second, likewise

    return OpenStackCloud(
        environment,
        run_id=run.run_id,
        cwd=cwd,
        deadlines=deadlines,
        image_endpoint=image_endpoint,
        progress=progress,
    )


def find_instance(instance_id: str) -> tuple[Ledger, Record]:
    """Return the run that made a local instance, with its record; raises NotInConfigError if none did."""
    for run in all_runs():
        for record in run.records():
            if record.kind == "instance" and instance_id in {record.name, record.details.get("id")}:
                return run, record
    raise NotInConfigError(
        f"no instance {instance_id} was kept on this machine",
        hint="`dibctl cleanup --dry-run` lists what earlier runs left",
    )
