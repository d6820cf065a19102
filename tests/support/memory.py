"""An in-memory cloud behind the Protocol, for tests of the plugin that must be quick.

Registered as a plugin after pytest-dibctl's own, it stands under the fixture ladder. Every operation is
appended to the JSON-lines file that $MEMORY_CLOUD_LOG names, so that a test can count what several
processes did together. ``$MEMORY_CLOUD_FAULTS`` (a JSON object) makes steps fail. ``install`` puts it in
the place of every configured cloud, for whoever opens one without fixtures: an xdist controller.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_dibctl.clouds.protocols import (
    Address,
    BootRequest,
    Cloud,
    CloudImage,
    Endpoint,
    Flavor,
    Instance,
    Interface,
    LeakedResource,
    Progress,
    UploadRequest,
)
from pytest_dibctl.config import engines
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import (
    DibctlError,
    ImageNotFoundError,
    InstanceError,
    NotInConfigError,
    PortTimeoutError,
)
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.run import environments
from pytest_dibctl.run.operations import GuestOperations
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import process


def log(operation: str, **details: Any) -> None:
    """Append one operation to the log; one write, so lines of several processes never mix."""
    line = json.dumps({"operation": operation, "pid": os.getpid(), **details}) + "\n"
    descriptor = os.open(os.environ["MEMORY_CLOUD_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def operations() -> list[dict[str, Any]]:
    """Return what was logged so far, by all processes."""
    try:
        return [json.loads(line) for line in Path(os.environ["MEMORY_CLOUD_LOG"]).read_text().splitlines()]
    except FileNotFoundError:
        return []


def running() -> set[str]:
    """Return the names of the instances that were booted and not deleted."""
    alive: set[str] = set()
    for operation in operations():
        if operation["operation"] == "boot":
            alive.add(operation["name"])
        elif operation["operation"] in {"remove_instance", "delete_instance"}:
            alive.discard(operation["name"])
    return alive


def install() -> None:
    """Make this the cloud of every test environment."""

    def open_environment(environment: Entry[TestEnvironment], **_others: Any) -> Cloud:
        return MemoryCloud(name=environment.label, capabilities=environment.settings.capabilities)

    environments.open_environment = open_environment


def faults() -> dict[str, Any]:
    """Return which steps shall fail, and how."""
    found: dict[str, Any] = json.loads(os.environ.get("MEMORY_CLOUD_FAULTS", "{}"))
    return found


FLAVOR = Flavor(id="42", name="m1.memory", ram=512, vcpus=2, disk=5, meta={"hw:numa": "1"})


@dataclasses.dataclass(kw_only=True)
class MemoryInstance:
    """An instance that exists only in the log."""

    id: str
    name: str
    flavor: Flavor = FLAVOR
    interfaces: tuple[Interface, ...] = (
        Interface(
            network="inside",
            mac="52:54:00:00:00:01",
            addresses=(
                Address(ip="192.0.2.10", prefix=24, gateway="192.0.2.1"),
                Address(ip="2001:db8::10", prefix=64),
            ),
            dns=("192.0.2.1",),
        ),
    )
    main_ip: str = "192.0.2.10"
    host_keys: HostKeyPolicy = dataclasses.field(
        default_factory=lambda: HostKeyPolicy(known=(), first_seen=True),
    )
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    boots: int = 1
    resumed: bool = False
    may_keep_ready: bool = False
    waited: float = 0.0
    snapshots: set[str] = dataclasses.field(default_factory=set)

    @property
    def snapshots_memory(self) -> bool:
        return "no_memory" not in faults()

    def endpoint(self, port: int) -> Endpoint:
        return Endpoint(ip="127.0.0.1", port=port)

    def check(self) -> None:
        if "dies" in faults():
            raise InstanceError(f"{self.name} died: kernel panic")

    def console_output(self) -> str:
        return f"{self.name} login:\n{faults().get('console', '')}"

    def recent_console(self) -> str:
        return self.console_output()

    def screenshot(self) -> bytes:
        raise InstanceError(f"{self.name} has no screen")

    def reboot(self, *, hard: bool = False) -> None:
        log("reboot", name=self.name, hard=hard)
        self.boots += 1

    def rebuild(self) -> None:
        log("rebuild", name=self.name)
        self.boots += 1
        self.resumed = False

    def snapshot(self, name: str) -> str:
        log("snapshot", name=self.name, snapshot=name)
        if "snapshot" in faults():
            raise InstanceError("no room")
        self.snapshots.add(name)
        return f"id-{self.name}-{name}"

    def revert(self, name: str) -> None:
        log("revert", name=self.name, snapshot=name)
        if name not in self.snapshots:
            raise InstanceError(f"there is no snapshot {name}")
        time.sleep(faults().get("revert_seconds", 0))
        if "revert" in faults():
            raise InstanceError("the snapshot is damaged")

    def give_up_ready(self) -> None:
        """No state is made here."""

    def keep_ready(self, access: SshAccess) -> None:
        raise AssertionError(f"{access.name} is in memory already")

    def stop(self) -> None:
        log("stop", name=self.name)

    def start(self) -> None:
        log("start", name=self.name)

    def delete(self) -> None:
        log("delete_instance", name=self.name)
        if "delete_instance" in faults():
            raise InstanceError("the hypervisor does not answer")


@dataclasses.dataclass(kw_only=True)
class MemoryCloud:
    """A cloud that boots at once."""

    name: str
    capabilities: frozenset[str] = frozenset(engines.CAPABILITIES)

    def identity(self) -> Mapping[str, str]:
        return {"engine": "memory", "project": self.name}

    def preflight(self) -> None:
        if self.name in faults().get("crash", ()):
            raise RuntimeError("a bug in the SDK")
        if self.name in faults().get("preflight", ()):
            log("refused", cloud=self.name)
            raise DibctlError(f"{self.name}: there is no flavor m1.gone", hint="use m1.memory")

    def check(self, artifact: Artifact, request: UploadRequest) -> None:
        del artifact, request

    def upload(self, artifact: Artifact, request: UploadRequest, *, progress: Progress) -> CloudImage:
        name = request.name
        log(
            "upload",
            name=name,
            cloud=self.name,
            file=artifact.path.name,
            exists=artifact.path.exists(),
        )
        time.sleep(faults().get("upload_seconds", 0))
        if "upload" in faults():
            raise DibctlError(f"{name}: the image store is full", hint="make room")
        progress("uploaded")
        return CloudImage(
            id=f"id-{name}",
            name=name,
            disk_format=artifact.disk_format,
            sha512=artifact.sha512,
            artifact=artifact,
        )

    def delete_image(self, image: CloudImage) -> None:
        log("delete_image", name=image.name, cloud=self.name)

    def existing_image(self, image_id: str) -> CloudImage:
        if image_id.startswith("no-"):
            raise ImageNotFoundError(f"there is no image {image_id}")
        return CloudImage(id=image_id, name=image_id, disk_format="qcow2", sha512="")

    def import_key(self, key: SshKey, *, name: str) -> None:
        log("import_key", name=name, fingerprint=key.nova_fingerprint)

    def delete_key(self, name: str, *, fingerprint: str) -> None:
        log("delete_key", name=name, fingerprint=fingerprint)

    def remove(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        log(f"remove_{kind}", name=name, details=dict(details))

    def keep(self, kind: str, name: str, details: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Nobody else looks."""

    def renew(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        log("renew", kind=kind, name=name, details=dict(details))

    def kept(self) -> tuple[LeakedResource, ...]:
        return ()

    def remove_kept(self, resource: LeakedResource) -> None:
        """There are none."""

    def leaked(self, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:
        del spare
        return ()

    def remove_leaked(self, resource: LeakedResource) -> None:
        """There are none."""

    def client(self, service: str) -> Any | None:
        del service
        return None

    def begin_boot(
        self, image: CloudImage, request: BootRequest, *, progress: Progress
    ) -> Callable[[], Instance]:
        return lambda: self.boot(image, request, progress=progress)

    def boot(self, image: CloudImage, request: BootRequest, *, progress: Progress) -> Instance:
        start = {} if request.warm == "no" else {"start": request.warm}
        log("boot", name=request.name, image=image.name, cloud=self.name, **start)
        progress("booting")
        time.sleep(faults().get("boot_seconds", 0))
        if "boot" in faults():
            why = faults()["boot"] if isinstance(faults()["boot"], str) else "no valid host"
            raise InstanceError(f"{request.name} went to ERROR: {why}", hint="use a smaller flavor")
        return MemoryInstance(id=f"id-{request.name}", name=request.name, resumed=request.warm == "resume")

    def existing(self, instance_id: str) -> Instance:
        if instance_id.startswith("dibctl-") and instance_id not in running():
            raise NotInConfigError(f"no instance {instance_id}")
        return MemoryInstance(id=instance_id, name=instance_id)

    def close(self) -> None:
        log("close")


@dataclasses.dataclass(kw_only=True)
class LocalAccess:
    """Looks like SshAccess and runs commands here."""

    ip: str
    port: int
    username: str
    key: SshKey
    name: str
    config_file: Path
    instance: MemoryInstance
    known_hosts: Path = Path("/dev/null")

    def command_line(self) -> list[str]:
        return ["env", f"GUEST={self.name}", "sh", "-c"]

    def run(self, command: str, *, timeout: float | None = None, check: bool = False) -> process.Result:
        # The guest's own user and boots, not ours; and nobody sets this machine's clock.
        guest = (
            f"id() {{ echo {self.username}; }}; cat() {{ case $1 in */boot_id) echo {self.instance.boots} ;; "
            '*) command cat "$@" ;; esac; }; sudo() { :; }; date() { :; }'
        )
        return process.run(["sh", "-c", f"{guest}; {command}"], timeout=timeout, check=check)

    def wait_ready(
        self,
        *,
        timeout: float,
        check: Callable[[], None],
        progress: Callable[[str], None],
        console: Callable[[], str] = str,
        listening: bool = False,
    ) -> float:
        del timeout, progress, console, listening
        check()
        return 0.0

    def trust(self, host_keys: HostKeyPolicy) -> None:
        """There is nobody to trust."""

    def disconnect(self) -> None:
        """There is no connection."""


class Mute:
    """The access of the look after the tests: this machine's journal and units are no guest's."""

    def run(self, command: str, **_others: object) -> process.Result:
        raise InstanceError(f"there is no guest to run {command[:20]} in")


@pytest.fixture(scope="session")
def ssh_access(
    dib_run: TargetRun,
    instance: MemoryInstance,
    keypair: SshKey,
) -> Iterator[LocalAccess]:
    """An access that needs no guest."""
    with dib_run.phase("ready"):
        if "port" in faults():
            raise PortTimeoutError("port 22 gave no ssh banner within 1 s")
        log("ready", name=instance.name)
    access = LocalAccess(
        ip="127.0.0.1",
        port=22,
        username="debian",
        key=keypair,
        name=instance.name,
        config_file=Path("/dev/null"),
        instance=instance,
    )
    GuestOperations(
        target_run=dib_run, instance=instance, access=cast("SshAccess", access)
    ).remember_pristine()
    dib_run.guest.access = cast("SshAccess", Mute())
    try:
        yield access
    finally:
        dib_run.guest.access = None
