"""The fourth step of a target: an instance that runs, and a login to it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from pytest_dibctl.clouds.protocols import BootRequest, BootsEarly, Cloud, CloudImage, Instance
from pytest_dibctl.config import merge
from pytest_dibctl.errors import DibctlError, InstanceError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import logs, naming, readiness, warming
from pytest_dibctl.run.early import EarlyBoot
from pytest_dibctl.run.keeping import keep, keeps_instance
from pytest_dibctl.run.ledger import Record
from pytest_dibctl.run.operations import GuestOperations
from pytest_dibctl.run.removal import Resource, State
from pytest_dibctl.run.target_run import TargetRun, disk_errors, host_name
from pytest_dibctl.system import process


class Attempt:
    """An instance that is about to be made in ``cloud``, and on record from now on."""

    def __init__(self, target_run: TargetRun, cloud: Cloud, image: CloudImage, key: SshKey) -> None:
        # A host name has at most 63 characters and no underscore; guests take theirs from here.
        self.name = f"dibctl-{host_name(target_run.label)[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
        self.record = target_run.record(cloud, "instance", self.name, key=str(key.private_key_file))
        self._target_run = target_run
        self._cloud = cloud
        self._image = image
        self._early: EarlyBoot | None = None
        self._told: list[str] = []
        self.taken = False
        """Whether ``booted`` owns it, and removes it."""
        self._request = BootRequest(
            name=self.name,
            key=key,
            key_name=target_run.guest.key_name or key.name,
            deadlines=target_run.deadlines,
            username=merge.login(target_run.image)[0],
            keepable=target_run.options.may_keep_instance,
            warm=warming.kind_of_start(target_run),
            note=self.note,
        )

    def note(self, **details: Any) -> None:
        """Add the details for a later removal to the record."""
        self.record = self.record.update(**details)

    def begin(self, cloud: BootsEarly) -> None:
        """Begin to boot in the background; raises DibctlError and OSError."""
        # Progress is kept meanwhile: only the main thread writes to the terminal.
        rest = cloud.begin_boot(self._image, self._request, progress=self._told.append)
        self._early = EarlyBoot(rest)

    def instance(self) -> Instance:
        """Return the instance, which runs; raises DibctlError as the cloud's ``boot`` does."""
        progress = self._target_run.progress
        with disk_errors():
            try:
                if self._early is None:
                    return self._cloud.boot(self._image, self._request, progress=progress)
                instance = self._early.result()
            except InstanceError as error:
                raise naming.explained(self._target_run, error, None) from None
        for line in self._told:
            progress(line)
        return instance

    @property
    def seconds_before(self) -> float:
        """The seconds of the boot before a test needed the instance."""
        return self._early.seconds if self._early else 0.0

    def remove(self) -> None:
        """Remove the resources of the boot, where nothing uses the instance."""
        with self._target_run.removal(self.record.resource, self.record):
            instance = self._early.settled() if self._early else None
            if instance is not None:
                instance.delete()
            else:
                # boot removes what it began; an interruption may have come between its end and our knowing.
                self._cloud.remove("instance", self.name, self.record.details)


@contextlib.contextmanager
def begun(
    target_run: TargetRun, cloud: Cloud, image: CloudImage | None, key: SshKey
) -> Iterator[Attempt | None]:
    """Begin to boot the instance that ``booted`` will return, where that costs nothing.

    It is removed if nothing asks for it. An error of the boot is raised by ``booted``; raises DibctlError and
    OSError where it cannot be begun, and ``booted`` begins anew then.
    """
    if image is None or not isinstance(cloud, BootsEarly):
        yield None
        return
    attempt = Attempt(target_run, cloud, image, key)
    try:
        attempt.begin(cloud)
        target_run.guest.booted_early = True
        yield attempt
    finally:
        if not attempt.taken:
            attempt.remove()


@contextlib.contextmanager
def booted(
    target_run: TargetRun,
    cloud: Cloud,
    image: CloudImage | None,
    key: SshKey,
    attempt: Attempt | None = None,
) -> Iterator[Instance]:
    """Boot an instance of ``image``; it runs when the block begins, and may not be ready for a login yet.

    It is that of an ``attempt`` which ``begun`` yielded, unless that was used before. Without ``image`` it is
    the instance that ``RunOptions.existing_instance`` names, which is left alone.
    """
    if image is None:
        assert target_run.options.existing_instance is not None
        existing = cloud.existing(target_run.options.existing_instance)
        _note(target_run, existing)
        try:
            yield existing
        finally:
            logs.keep_console(target_run, existing)
        return
    attempt = attempt if attempt and not attempt.taken else Attempt(target_run, cloud, image, key)
    attempt.taken = True
    instance: Instance | None = None
    try:
        started = time.monotonic()
        with target_run.phase("boot"):
            instance = attempt.instance()
        _note(target_run, instance)
        target_run.guest.boot_seconds = max(attempt.seconds_before, time.monotonic() - started)
        warming.without_waiting(target_run, instance)
        warming.note_start(target_run, instance)
        with contextlib.suppress(DibctlError):  # it is on record by its name already
            attempt.note(id=instance.id, made=True)
        yield instance
    finally:
        target_run.guest.instance = None
        if instance is None:
            attempt.remove()
        else:
            logs.keep_console(target_run, instance)
            _release(target_run, cloud, instance, attempt.record)


def _release(target_run: TargetRun, cloud: Cloud, instance: Instance, record: Record) -> None:
    """Remove an instance that was used, unless it is to stay."""
    if keeps_instance(target_run):
        warming.give_up(instance)
        reason = "exit 42" if target_run.keep else "--dib-keep-failed-instance"
        keep(cloud, record, reason, seconds=target_run.options.keep_seconds(reason))
        resource = Resource(kind="instance", name=instance.name, id=instance.id)
        target_run.note(resource, State.KEPT, reason, login=target_run.guest.login)
    else:
        with target_run.removal(record.resource, record):
            instance.delete()


def _note(target_run: TargetRun, instance: Instance) -> None:
    guest = target_run.guest
    guest.begin(instance)
    if target_run.options.logs is not None:  # reports name the file before it is written
        guest.console_log = logs.console_file(target_run.options.logs, instance.name)


@contextlib.contextmanager
def reachable(target_run: TargetRun, instance: Instance, key: SshKey) -> Iterator[SshAccess]:
    """Wait until the instance accepts a login, and keep the connection open for the block.

    Raises PortTimeoutError with the last lines of the console, InstanceError if the guest dies.
    """
    username, port = merge.login(target_run.image)
    endpoint = instance.endpoint(port)
    with disk_errors():
        access = SshAccess(
            ip=endpoint.ip,
            port=endpoint.port,
            username=username,
            key=key,
            directory=target_run.ledger.directory,
            name=instance.name,
            host_keys=instance.host_keys,
        )
    target_run.guest.login = process.command_line(access.command_line())
    try:
        started = time.monotonic()
        with target_run.phase("ready"):
            try:
                readiness.wait_ready(target_run, instance, access, listening=warming.is_resumed(instance))
            except BaseException:
                warming.give_up(instance)
                raise
        target_run.guest.boot_seconds += time.monotonic() - started
        warming.keep_ready(target_run, instance, access)
        operations = GuestOperations(target_run=target_run, instance=instance, access=access)
        operations.remember_pristine()
        target_run.guest.access = access
        yield access
    finally:
        target_run.guest.access = None
        access.close(keep_files=keeps_instance(target_run))
