"""Removals that workers leave to their controller: shared test images, and a dead worker's resources.

The controller of an xdist run removes these while the run goes on, each in a thread, so that it can still
listen to its workers. When the workers are gone, it removes the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.clouds.protocols import Cloud, CloudImage
from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.run import environments, keeping, logs, serialization, uploading
from pytest_dibctl.run.ledger import Ledger, Record
from pytest_dibctl.run.ledger import load as load_record
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Removal, State, cleanup_command
from pytest_dibctl.run.run_state import POLL, RunState
from pytest_dibctl.run.targets import Target
from pytest_dibctl.system import processes
from pytest_dibctl.system.waiting import wait_until, wait_while

log = logging.getLogger(__name__)

WORKERS_END = 10.0
"""Seconds that workers have to end by themselves when the run is over, as xdist has it too."""
DEATH = 30.0
"""Seconds that a worker which was given up by xdist has to be really dead."""


@dataclasses.dataclass(kw_only=True)
class WorkerCleanup:
    """Removes leftovers of targets and of workers; ``failed`` says whether a target failed by now."""

    ledger: Ledger
    catalog: Catalog
    cwd: Path
    options: RunOptions
    targets: Sequence[Target]
    failed: Callable[[str, str], bool]
    removals: list[Removal] = dataclasses.field(default_factory=list)
    _threads: list[threading.Thread] = dataclasses.field(default_factory=list)

    def target_done(self, target: Target) -> None:
        """Remove a target's test image as soon as no worker uses it any more."""
        self._start(lambda: self._remove_image(target))

    def worker_died(self, pid: int) -> None:
        """Remove the resources of a dead worker at once, or with --dib-keep-on-kill mark them as kept."""
        self._start(lambda: self._remove_made_by(pid))

    def finish(self, told: Iterable[Removal] = (), *, workers: Iterable[int] = ()) -> list[Removal]:
        """Wait for the removals that go on, then remove all that is left.

        A resource that could not be removed and is ``told`` already is not tried again. ``workers`` are pids;
        xdist has waited for these, unless it was interrupted. The workers are gone when this begins:
        resources that they use or remove themselves cannot be removed here.
        """
        _see_off(workers)
        for thread in self._threads:
            thread.join()
        for target in self.targets:
            self._guarded(lambda target=target: self._remove_image(target, wait=False))  # type: ignore[misc]
        known = {removal.resource for removal in told}
        left = [record for record in self.ledger.records() if record.resource not in known]
        self._guarded(lambda: self._sweep(left))
        return self.removals

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # its record is still there: the end of the run, or `dibctl cleanup`, tries again
            log.debug("a removal failed", exc_info=True)

    # -- test images -----------------------------------------------------------------------------

    def _remove_image(self, target: Target, *, wait: bool = True) -> None:
        run_state = RunState(directory=self.ledger.directory)
        step = uploading.upload_step(target.image.label, target.environment.label)

        def is_done() -> bool:
            with run_state.claim(step) as made:
                if made:
                    self._remove_uploaded(target, made)
                return made is not None

        wait_until(is_done, timeout=None if wait else 0.0, poll=POLL)

    def _remove_uploaded(self, target: Target, made: dict[str, object]) -> None:
        image = CloudImage(**serialization.restored(CloudImage, made["image"]))  # type: ignore[arg-type]
        record = load_record(Path(str(made["record"])))
        label, environment = target.image.label, target.environment.label
        started, state, command = time.monotonic(), State.REMOVED, ""
        reason = uploading.keeps_image(self.options, failed=self.failed(label, environment))
        try:
            with self._opened(target) as cloud:
                if reason is not None:
                    state, command = State.KEPT, cleanup_command(self.ledger.run_id)
                    if record is not None:
                        keeping.keep(cloud, record, reason, seconds=self.options.keep_seconds(reason))
                else:
                    cloud.delete_image(image)
                    if record is not None:
                        record.done()
        except Exception as error:  # noqa: BLE001 -- it must be told, and must hide no other removal
            state, reason = State.LEFT, str(error)
        self.removals.append(
            Removal(
                resource=uploading.image_resource(image),
                state=state,
                reason=reason or "",
                seconds=time.monotonic() - started,
                image=label,
                environment=environment,
                command=command,
            )
        )

    @contextlib.contextmanager
    def _opened(self, target: Target) -> Iterator[Cloud]:
        cloud = environments.open_environment(
            target.environment,
            run=self.ledger,
            cwd=self.cwd,
            deadlines=merge.deadlines(target.image, target.environment),
            image_endpoint=merge.glance(target.image, target.environment).endpoint,
        )
        with contextlib.closing(cloud):
            yield cloud

    # -- what dead workers made ------------------------------------------------------------------

    def _remove_made_by(self, pid: int) -> None:
        if wait_while(lambda: processes.is_alive(pid), timeout=DEATH, poll=POLL):
            return
        records = [record for record in self.ledger.records() if record.pid == pid]
        if not self.options.keep_on_kill:
            self._sweep(records)
            return
        for record in records:
            if record.path not in self._shared_records():
                self._keep(record, "--dib-keep-on-kill")

    def _sweep(self, records: Iterable[Record]) -> None:
        shared = self._shared_records()
        mine = [record for record in records if record.kept is None and record.path not in shared]
        kept = [record for record in mine if self._keeps(record)]
        mine = [record for record in mine if record not in kept]
        for record in kept:
            self._guarded(lambda record=record: self._keep(record))  # type: ignore[misc]
        self._guarded(lambda: self._keep_consoles(mine))
        reported = {removal.resource for removal in self.removals if removal.failed}
        swept = sweep.sweep_records(self.catalog.environment, self.ledger, mine, cwd=self.cwd)
        self.removals += [removal for removal in swept if removal.failed and removal.resource not in reported]

    def _shared_records(self) -> set[Path]:
        """Return the records of whole test images, of all workers."""
        run_state = RunState(directory=self.ledger.directory)
        return {Path(made["record"]) for made in run_state.values() if "record" in made}

    def _keeps(self, record: Record) -> bool:
        if record.kind not in {"instance", "keypair", "key"} or not self.options.keep_failed_instance:
            return False
        return self.failed(record.details.get("image", ""), record.details.get("environment", ""))

    def _keep(self, record: Record, reason: str = "--dib-keep-failed-instance") -> None:
        record = record.keep(reason)  # first: no error of the cloud may lead to its removal
        target = self._target_of(record)
        if target is not None and record.kind != "key":
            with self._opened(target) as cloud:
                keeping.keep(cloud, record, reason, seconds=self.options.keep_seconds(reason))
        if record.kind == "instance":
            self.removals.append(
                Removal(
                    resource=record.resource,
                    state=State.KEPT,
                    reason=reason,
                    image=record.details.get("image", ""),
                    environment=record.details.get("environment", ""),
                    command=cleanup_command(self.ledger.run_id),
                )
            )

    def _target_of(self, record: Record) -> Target | None:
        names = (record.details.get("image"), record.details.get("environment"))
        return next(
            (target for target in self.targets if (target.image.label, target.environment.label) == names),
            None,
        )

    def _keep_consoles(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.kind == "instance" and self.options.logs is not None:
                environment = self.catalog.environment(record.details["environment"])
                logs.keep_console_of(
                    environment,
                    record.name,
                    run=self.ledger,
                    cwd=self.cwd,
                    logs=self.options.logs,
                )


def _see_off(workers: Iterable[int]) -> None:
    """Wait until child processes are gone; a process that takes longer than xdist would wait is killed."""
    deadline = time.monotonic() + WORKERS_END
    for pid in workers:
        # The id may belong to another process by now, which is neither waited for nor killed.
        is_ours = functools.partial(processes.is_child, pid)
        if wait_while(is_ours, timeout=deadline - time.monotonic(), poll=POLL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_while(is_ours, timeout=deadline + DEATH - time.monotonic(), poll=POLL)
