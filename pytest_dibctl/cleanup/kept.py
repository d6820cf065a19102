"""Kept resources of any machine: listed and removed by their marks in a cloud, without a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_dibctl.cleanup.sweep import Choice, Swept, in_clouds
from pytest_dibctl.clouds.protocols import Cloud, LeakedResource
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run.ledger import all_runs
from pytest_dibctl.run.removal import Removal, Resource, State, cleanup_command


def listed(selected: Iterable[Entry[TestEnvironment]], choice: Choice, *, cwd: Path) -> Iterator[Swept]:
    """Yield the kept resources of this machine's ledgers, then those with a mark in each cloud."""
    for run in all_runs():
        for record in run.records():
            meant = choice.run_id in {None, run.run_id} and choice.takes(record)
            if record.kept is None or not meant or record.details.get("engine") == "openstack":
                continue
            removal = Removal(
                resource=record.resource,
                state=State.KEPT,
                reason=record.kept,
                command=cleanup_command(run.run_id),
            )
            yield Swept(run_id=run.run_id, what=str(record.resource), removal=removal)

    def look(cloud: Cloud) -> Iterator[Swept]:
        for resource in cloud.kept():
            if choice.run_id in {None, resource.run_id}:
                yield _swept(cloud, resource, State.LISTED, resource.why)

    yield from in_clouds(selected, choice, look, cwd=cwd)


def removed(
    selected: Iterable[Entry[TestEnvironment]],
    choice: Choice,
    identity: str,
    *,
    cwd: Path,
    dry_run: bool = False,
) -> Iterator[Swept]:
    """Remove the kept things whose id or name is ``identity``, with their keypairs; yield the outcomes."""

    def look(cloud: Cloud) -> Iterator[Swept]:
        for resource in cloud.kept():
            if identity not in {resource.id, resource.name} or choice.run_id not in {None, resource.run_id}:
                continue
            if dry_run:
                yield _swept(cloud, resource, State.PLANNED, resource.why)
                continue
            try:
                cloud.remove_kept(resource)
            except DibctlError as error:
                yield _swept(cloud, resource, State.LEFT, error.message)
            else:
                yield _swept(cloud, resource, State.REMOVED, "")

    yield from in_clouds(selected, choice, look, cwd=cwd)


def _swept(cloud: Cloud, kept: LeakedResource, state: State, reason: str) -> Swept:
    resource = Resource(kind=kept.kind, name=kept.name, id=kept.id)
    removal = Removal(resource=resource, state=state, reason=reason, environment=cloud.name)
    return Swept(run_id=kept.run_id or "?", what=f"{resource} in {cloud.name}", removal=removal)
