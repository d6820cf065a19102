"""The fourth step of a target: an instance that runs, and a login to it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from pytest_dibctl.clouds.protocols import BootRequest, Cloud, CloudImage, Instance
from pytest_dibctl.config import merge
from pytest_dibctl.errors import DibctlError, InstanceError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import logs, naming, readiness, warming
from pytest_dibctl.run.keeping import keep, keeps_instance
from pytest_dibctl.run.operations import GuestOperations
from pytest_dibctl.run.removal import Resource, State
from pytest_dibctl.run.target_run import TargetRun, disk_errors, host_name
from pytest_dibctl.system import process


@contextlib.contextmanager
def booted(target_run: TargetRun, cloud: Cloud, image: CloudImage | None, key: SshKey) -> Iterator[Instance]:
    """Boot an instance of ``image``; it runs when the block begins, and may not be ready for a login yet.

    Without ``image`` it is the instance that ``RunOptions.existing_instance`` names, which is left alone.
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
    # A host name has at most 63 characters and no underscore; guests take theirs from here.
    name = f"dibctl-{host_name(target_run.label)[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
    record = target_run.record(cloud, "instance", name, key=str(key.private_key_file))

    def note(**details: Any) -> None:
        nonlocal record
        record = record.update(**details)

    request = BootRequest(
        name=name,
        key=key,
        key_name=target_run.guest.key_name or key.name,
        deadlines=target_run.deadlines,
        username=merge.login(target_run.image)[0],
        keepable=target_run.options.may_keep_instance,
        warm=warming.kind_of_start(target_run),
        note=note,
    )
    instance: Instance | None = None
    try:
        started = time.monotonic()
        with target_run.phase("boot"), disk_errors():
            instance = _boot(target_run, cloud, image, request)
        _note(target_run, instance)
        target_run.guest.boot_seconds = time.monotonic() - started
        warming.without_waiting(target_run, instance)
        warming.note_start(target_run, instance)
        with contextlib.suppress(DibctlError):  # it is on record by its name already
            note(id=instance.id, made=True)
        yield instance
    finally:
        target_run.guest.instance = None
        if instance is not None:
            logs.keep_console(target_run, instance)
        if instance is None:
            # boot removes what it began; an interruption may have come between its end and our knowing.
            with target_run.removal(record.resource, record):
                cloud.remove("instance", name, record.details)
        elif keeps_instance(target_run):
            warming.give_up(instance)
            reason = "exit 42" if target_run.keep else "--dib-keep-failed-instance"
            keep(cloud, record, reason, seconds=target_run.options.keep_seconds(reason))
            resource = Resource(kind="instance", name=instance.name, id=instance.id)
            target_run.note(resource, State.KEPT, reason, login=target_run.guest.login)
        else:
            with target_run.removal(record.resource, record):
                instance.delete()


def _boot(target_run: TargetRun, cloud: Cloud, image: CloudImage, request: BootRequest) -> Instance:
    try:
        return cloud.boot(image, request, progress=target_run.progress)
    except InstanceError as error:
        raise naming.explained(target_run, error, None) from None


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
