"""Removal of the resources on record in the ledgers of dead runs, and of nothing else.

A record is deleted only when its resource is known to be gone. Where a create call may still be going on in a
cloud whose caller died, that takes a second look, ``IN_FLIGHT`` seconds after the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pytest_dibctl.cleanup import belonging
from pytest_dibctl.clouds.protocols import IN_FLIGHT, Cloud, LeakedResource
from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import built_in_environment
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import LOCAL_ENGINES, TestEnvironment
from pytest_dibctl.errors import DibctlError, NotInConfigError
from pytest_dibctl.image import tree
from pytest_dibctl.run import environments
from pytest_dibctl.run.ledger import Ledger, Record, all_runs, base_directory, load
from pytest_dibctl.run.removal import Removal, Resource, State, cleanup_command
from pytest_dibctl.run.target_run import remove_directory
from pytest_dibctl.system import processes
from pytest_dibctl.system.waiting import wait_while

log = logging.getLogger(__name__)

Find = Callable[[str], Entry[TestEnvironment]]
"""Returns the environment of a label; raises NotInConfigError."""

RECORD = "record"
"""The kind of a resource of which nothing is known but its record's file."""
ORDER = ("tree", "instance", "image", "keypair", "key")
"""Instances first: keys and images are of no use without them, but not the other way round."""
LOOK_AGAIN = 3.0
"""Seconds between two searches for a resource that may still appear."""
GUARDIAN_PATIENCE = 120.0
"""Seconds a guardian that is at work is waited for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swept:
    """The outcome for one resource: ``what`` names it as ``dibctl cleanup`` prints it."""

    run_id: str
    what: str
    removal: Removal

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return self.removal.outcome

    @property
    def failed(self) -> bool:
        """Whether it could not be removed."""
        return self.removal.failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which things of dead runs are meant: of one run, of one environment, or all (None)."""

    run_id: str | None = None
    environment: str | None = None

    def takes(self, record: Record) -> bool:
        """Whether a record is selected; a record without an environment belongs to all."""
        return self.environment in {None, record.details.get("environment", self.environment)}


def sweep(find: Find, choice: Choice, *, cwd: Path, dry_run: bool = False) -> tuple[Swept, ...]:
    """Remove the leftovers of dead runs on this machine; kept resources only when their run is named.

    Local instances need no configuration; ``find`` is called for others. Living runs are never touched.
    A guardian that is at work is let do it first. Raises NotInConfigError for a run there is no trace of.
    """
    runs = [run for run in all_runs() if choice.run_id in {None, run.run_id}]
    named = choice.run_id is not None
    if named and not runs:
        raise NotInConfigError(f"run {choice.run_id} left nothing on this machine")
    swept: list[Swept] = []
    for run in runs:
        if run.machine() and not run.is_of_this_machine():
            swept.append(_elsewhere(run))
            continue
        if run.is_alive():
            if named:
                raise DibctlError(f"run {choice.run_id} is still going on; nothing was removed")
            continue
        if not dry_run:
            _await_guardian(run)
            processes.end_marked(run.run_id)
        records = [record for record in run.records() if choice.takes(record)]
        removals = sweep_records(find, run, records, cwd=cwd, named=named, dry_run=dry_run)
        removals += [_unreadable(path) for path in run.unreadable()]
        swept += [Swept(run_id=run.run_id, what=_shown(removal), removal=removal) for removal in removals]
        if not dry_run:
            run.remove_if_empty()
    return tuple(swept)


def _shown(removal: Removal) -> str:
    """Return the resource's name in the list of swept resources; an unreadable record is its file."""
    return removal.resource.name if removal.resource.kind == RECORD else str(removal.resource)


def _elsewhere(run: Ledger) -> Swept:
    """Say that a run is another machine's or user's, whose locks and processes cannot be seen from here."""
    removal = Removal(
        resource=Resource(kind="run", name=run.run_id),
        state=State.ELSEWHERE,
        reason=f"left alone: it belongs to {belonging.described(run.machine())}; run `dibctl cleanup` there",
    )
    return Swept(run_id=run.run_id, what=str(removal.resource), removal=removal)


def _unreadable(path: Path) -> Removal:
    return Removal(
        resource=Resource(kind=RECORD, name=path.name),
        state=State.LEFT,
        reason=f"this version cannot read {path}; remove that file when its resource is gone",
    )


def _await_guardian(run: Ledger) -> None:
    wait_while(run.has_guardian, timeout=GUARDIAN_PATIENCE, poll=0.2)


def sweep_records(
    find: Find,
    run: Ledger,
    records: Iterable[Record],
    *,
    cwd: Path,
    named: bool = False,
    dry_run: bool = False,
) -> list[Removal]:
    """Remove the resources of ``records`` of a dead run or worker; return the outcome for each.

    A key stays if its instance could not be removed; kept resources are removed only with ``named``.
    """
    started = time.monotonic()
    remover = _Remover(find=find, run=run, cwd=cwd)
    ordered = sorted(records, key=_rank)
    removals: dict[Path, Removal] = {}
    with contextlib.closing(remover):
        for listed in ordered:
            record = listed if dry_run else (load(listed.path) or listed)  # it may be kept by now
            if record.kept is not None and not named:
                command = cleanup_command(run.run_id)
                removals[record.path] = _removal(record, State.KEPT, record.kept, command=command)
            elif dry_run:
                removals[record.path] = _removal(record, State.PLANNED)
            elif record.kind == "key" and any(removal.failed for removal in removals.values()):
                removals[record.path] = _removal(record, State.WAITING)
            else:
                removals[record.path] = remover.remove(record)
        while late := [record for record in ordered if removals[record.path].state is State.MAY_APPEAR]:
            left = started + IN_FLIGHT - time.monotonic()
            time.sleep(max(0.0, min(LOOK_AGAIN, left)))
            for record in late:
                removals[record.path] = remover.remove(record, last=left <= LOOK_AGAIN)
    return [removals[record.path] for record in ordered]


def renew_records(
    find: Find, run: Ledger, records: Iterable[Record], *, cwd: Path
) -> Iterator[tuple[Record, DibctlError]]:
    """Renew the leases of resources of a living run; yield those that could not be renewed."""
    with contextlib.closing(_Remover(find=find, run=run, cwd=cwd)) as remover:
        for record in records:
            if record.kind in {"image", "instance"} and record.details.get("engine") not in LOCAL_ENGINES:
                try:
                    remover.cloud(record).renew(record.kind, record.name, record.details)
                except DibctlError as error:
                    yield record, error


def _removal(record: Record, state: State, reason: str = "", *, command: str = "") -> Removal:
    return Removal(
        resource=record.resource,
        state=state,
        reason=reason,
        image=record.details.get("image", ""),
        environment=record.details.get("environment", ""),
        command=command,
    )


def _rank(record: Record) -> int:
    return ORDER.index(record.kind) if record.kind in ORDER else len(ORDER)


@dataclasses.dataclass(kw_only=True)
class _Remover:
    """Removes things of one run, with one login for all that are in one place."""

    find: Find
    run: Ledger
    cwd: Path
    _clouds: dict[tuple[str, str | None], Cloud] = dataclasses.field(default_factory=dict)

    def remove(self, record: Record, *, last: bool = False) -> Removal:
        """Remove a resource; with ``last`` no resource of a cut-off create call is expected any more."""
        if record.kind not in ORDER:
            return _removal(record, State.LEFT, "this version does not know its kind; a newer version does")
        try:
            if record.kind in {"key", "tree"}:
                belonging.refuse_other_machine(self.run.machine())
            if record.kind == "key":
                remove_directory(self._inside(record.details["directory"]))
            elif record.kind == "tree":
                tree.remove(self._inside(record.details["directory"]))
            else:
                self.cloud(record).remove(record.kind, record.name, record.details)
        except DibctlError as error:
            return _removal(record, State.LEFT, error.message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # A damaged record must not hide the other records.
            lacks = f"its record lacks {error}"
            damaged = f"its record is damaged: {error}"
            return _removal(record, State.LEFT, lacks if isinstance(error, KeyError) else damaged)
        except OSError as error:
            return _removal(record, State.LEFT, str(error))
        if not (last or is_settled(record)):
            return _removal(record, State.MAY_APPEAR)
        record.done()
        return _removal(record, State.REMOVED)

    def close(self) -> None:
        for cloud in self._clouds.values():
            cloud.close()
        self._clouds.clear()

    def _inside(self, directory: str) -> Path:
        """Return a directory of the run's; raises DibctlError for any other."""
        path = Path(directory)
        if path.parent != self.run.directory:
            raise DibctlError(f"{path} is not in the run's directory, so it is left alone")
        return path

    def cloud(self, record: Record) -> Cloud:
        """Return a login to the very cloud of a record; raises DibctlError if its label leads elsewhere.

        That a resource is not in another cloud, project or region proves nothing.
        """
        recorded = belonging.cloud_of(record)
        label = str(record.details.get("environment"))
        endpoint = recorded.get("image_endpoint") or None
        place = (label, endpoint)
        if place not in self._clouds:
            engine = record.details.get("engine")
            with belonging.told(recorded, label):
                environment = built_in_environment(engine) if engine in LOCAL_ENGINES else self.find(label)
            self._clouds[place] = environments.open_environment(
                environment,
                run=self.run,
                cwd=self.cwd,
                deadlines=merge.environment_deadlines(environment),
                image_endpoint=endpoint,
            )
        cloud = self._clouds[place]
        belonging.refuse_other(recorded, cloud.identity(), label)
        return cloud


def is_settled(record: Record) -> bool:
    """Whether no create call of the thing can still be going on somewhere."""
    local = record.kind in {"key", "tree"} or record.details.get("engine") in LOCAL_ENGINES
    complete = bool(record.details.get("made"))
    return local or (complete and not any(key.startswith("snapshot") for key in record.details))


# -- what runs of other machines left --------------------------------------------------------------


def sweep_expired(
    selected: Iterable[Entry[TestEnvironment]], choice: Choice, *, cwd: Path, dry_run: bool = False
) -> Iterator[Swept]:
    """Remove marked resources whose time is over, of runs on any machine; kept ones stay.

    Living runs of this machine are left to their ledgers, and so are resources that a ledger calls kept. A
    resource that the ledger of a dead run could not remove, as after a damaged record, is found by its marks.
    """
    runs = [run for run in all_runs() if not run.machine() or run.is_of_this_machine()]
    living = {run.run_id for run in runs if run.is_alive()}
    kept = {record.name for run in runs for record in run.records() if record.kept is not None}

    def remove(cloud: Cloud) -> Iterator[Swept]:
        leaked = [resource for resource in cloud.leaked(spare=living) if resource.name not in kept]
        return _expired_in(cloud, choice, leaked, dry_run=dry_run)

    yield from in_clouds(selected, choice, remove, cwd=cwd)


def in_clouds(
    selected: Iterable[Entry[TestEnvironment]],
    choice: Choice,
    look: Callable[[Cloud], Iterator[Swept]],
    *,
    cwd: Path,
) -> Iterator[Swept]:
    """Yield the outcomes of ``look`` for each OpenStack environment, and one for each that fails."""
    for environment in selected:
        if choice.environment not in {None, environment.label} or environment.settings.is_local:
            continue
        try:
            cloud = environments.open_environment(
                environment,
                run=Ledger(directory=base_directory(make=False) / "00000000"),
                cwd=cwd,
                deadlines=merge.environment_deadlines(environment),
                image_endpoint=environment.settings.glance.endpoint,
            )
            with contextlib.closing(cloud):
                yield from look(cloud)
        except DibctlError as error:  # one cloud that cannot be looked into must not hide the others
            unseen = Removal(
                resource=Resource(kind="environment", name=environment.label),
                state=State.LEFT,
                reason=error.message,
                environment=environment.label,
            )
            yield Swept(run_id="?", what=f"what is in {environment.label}", removal=unseen)


def _expired_in(
    cloud: Cloud, choice: Choice, leaked: Iterable[LeakedResource], *, dry_run: bool
) -> Iterator[Swept]:
    for resource in leaked:
        if choice.run_id not in {None, resource.run_id}:
            continue
        yield Swept(
            run_id=resource.run_id or "?",
            what=f"{resource.kind} {resource.name} in {cloud.name}",
            removal=_expired(cloud, resource, dry_run=dry_run),
        )


def _expired(cloud: Cloud, leaked: LeakedResource, *, dry_run: bool) -> Removal:
    """Remove a resource whose time is over, unless ``dry_run``; return the outcome."""
    state, reason = State.PLANNED, leaked.why
    if not dry_run:
        try:
            cloud.remove_leaked(leaked)
            state = State.REMOVED
        except DibctlError as error:
            state, reason = State.LEFT, error.message
    resource = Resource(kind=leaked.kind, name=leaked.name, id=leaked.id)
    return Removal(resource=resource, state=state, reason=reason, environment=cloud.name)
