"""The protocols of a cloud and an instance, and the values that they exchange.

``qemu``, ``nspawn`` and ``openstack`` implement them; each is imported only when an environment of its
kind is opened. Ownership: the caller of ``boot`` owns the instance and must ``delete`` it, the caller of
``upload`` owns the cloud image and must ``delete_image`` it. Only the steps of ``run`` call these two.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.artifact import Artifact

Progress = Callable[[str], None]
"""Called with a short line of progress for a waiting user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudImage:
    """An image a cloud can boot. ``sha512`` is the digest of the bytes that were tested.

    ``companions`` are the ids of its kernel and initrd, which are removed with it. ``details`` is the cloud's
    description of it, as plain data.
    """

    id: str
    name: str
    disk_format: str
    sha512: str
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    artifact: Artifact | None = None
    companions: tuple[str, ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<cloud image {self.name} ({self.id})>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavor:
    """The size of an instance: ``ram`` in MiB, ``disk`` in GiB."""

    id: str
    name: str
    ram: int
    vcpus: int
    disk: int
    meta: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A fixed address of an interface with the prefix length and gateway of its subnet."""

    ip: str
    prefix: int
    gateway: str | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.ip).version


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface as the cloud knows it; the guest must agree."""

    network: str
    mac: str
    addresses: tuple[Address, ...]
    dns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a port of the guest is reached from this machine."""

    ip: str
    port: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """The input of ``upload`` besides the file: ``name`` is the test image's, ``image`` its configuration."""

    name: str
    image: Entry[Image]
    deadlines: Deadlines


Warm = Literal["no", "leave", "resume"]

IN_FLIGHT = 15.0
"""Seconds in which a resource may still appear whose creation was cut off before it was answered."""
LIFETIME = 24 * 3600
"""Seconds after which a run's resources count as leaked, unless they were kept or their lease was renewed."""
GRACE = 1800
"""Seconds that a lifetime or lease must be over before anything is removed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakedResource:
    """A resource in a cloud that bears a mark of ours; ``why`` says why it is listed.

    That is past its lifetime (``leaked``), or kept (``kept``).
    """

    kind: str
    name: str
    id: str
    run_id: str | None
    why: str


def forget_note(**_details: Any) -> None:
    """Drop a note."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootRequest:
    """The input of ``boot`` besides the image.

    ``name`` is the instance's name and the guest's hostname; ``username`` is the login user. ``keepable``
    says that the instance may have to outlive this process (a keep option is on). ``warm`` says whether it
    may go on from a ready state instead of booting, or boots and may leave one for others, where the cloud
    has such states. ``note`` is called, with the details for a later removal, before a resource is made that
    cannot be found by the instance's name.
    """

    name: str
    key: SshKey
    key_name: str
    deadlines: Deadlines
    username: str = "root"
    keepable: bool = False
    warm: Warm = "no"
    note: Callable[..., None] = forget_note


class Instance(Protocol):
    """A running machine. Operations, not APIs."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def flavor(self) -> Flavor: ...
    @property
    def interfaces(self) -> tuple[Interface, ...]: ...
    @property
    def main_ip(self) -> str:
        """The address, inside the guest, of the main interface."""
        ...

    @property
    def host_keys(self) -> HostKeyPolicy:
        """How the guest's ssh host key can be known."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """Short facts for reports: accelerator, directory, process, region ..."""
        ...

    def endpoint(self, port: int) -> Endpoint:
        """Return where the guest's TCP ``port`` is reached from here, opening a way if need be."""
        ...

    def check(self) -> None:
        """Raise InstanceError, with a named cause and the console's last lines, if it will never be ready."""
        ...

    def console_output(self) -> str:
        """Return all of the serial console so far; empty when there was none."""
        ...

    def recent_console(self) -> str:
        """Return the end of the serial console as it was last looked at; it costs no call of a service."""
        ...

    def screenshot(self) -> bytes:
        """Return the machine's screen as a PNG; raises InstanceError where it has none (``screen``)."""
        ...

    def reboot(self, *, hard: bool = False) -> None:
        """Start the guest's reboot; the caller waits for readiness."""
        ...

    def stop(self) -> None: ...
    def start(self) -> None: ...

    @property
    def snapshots_memory(self) -> bool:
        """Whether ``snapshot`` remembers memory too, so that ``revert`` goes on from there at once.

        Where it does not, ``revert`` is a rebuild from another image, and the instance boots anew.
        """
        ...

    def rebuild(self) -> None:
        """Have the root disk be the image's again; the instance keeps its id, name, addresses and key.

        It boots anew, and the caller waits for readiness. QEMU: a fresh overlay and a reset; host key and
        seed are unchanged. Raises InstanceError.
        """
        ...

    def snapshot(self, name: str) -> str:
        """Remember the state under a name.

        QEMU: disk and memory, so that ``revert`` takes well under a second; the name is returned, and an
        older snapshot of that name is replaced. OpenStack: a Glance image, whose id is returned. Either goes
        with the instance. Raises InstanceError.
        """
        ...

    def revert(self, name: str) -> None:
        """Go back to the snapshot of that name.

        QEMU: memory comes back too. The guest's clock then shows the time of the snapshot. Connections since
        then, the shared ssh connection included, are dead: disconnect and log in again
        (``GuestOperations.revert`` does both and sets the clock). OpenStack: a rebuild from the snapshot's
        image; the caller waits for readiness. Raises InstanceError, before anything is changed if there is no
        such snapshot.
        """
        ...

    def delete(self) -> None:
        """Remove the instance and everything ``boot`` made for it. Repeating it is harmless.

        Its snapshots go along.
        """
        ...


@runtime_checkable
class ReadyStates(Protocol):
    """Further methods of instances in a cloud that saves the state of ready guests."""

    @property
    def resumed(self) -> bool:
        """Whether the guest goes on from such a state, and has not booted from its blank disk since."""
        ...

    @property
    def may_keep_ready(self) -> bool:
        """Whether ``keep_ready`` is wanted of this instance."""
        ...

    @property
    def waited(self) -> float:
        """Seconds that passed before this guest was started: with waiting for a state, or a useless one."""
        ...

    def give_up_ready(self) -> None:
        """Let another make the state, since this guest does not become ready."""
        ...

    def keep_ready(self, access: SshAccess) -> None:
        """Save the state of a guest that has just become ready.

        Raises DibctlError when that is not possible; the guest goes on in any case.
        """
        ...


@runtime_checkable
class BootsEarly(Protocol):
    """Further methods of a cloud whose instances boot in seconds and cost nothing: one may boot in vain."""

    def begin_boot(
        self, image: CloudImage, request: BootRequest, *, progress: Progress
    ) -> Callable[[], Instance]:
        """Start a boot without waiting; return a function for the rest, to be called once and in any thread.

        Both raise as ``boot`` does. If the rest is never done, the caller removes the instance of that name.
        """
        ...


class Cloud(Protocol):
    """A place where test images are booted."""

    @property
    def name(self) -> str:
        """The label of the test environment."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of instances here, out of ``config.engines.CAPABILITIES``."""
        ...

    def identity(self) -> Mapping[str, str]:
        """Return the identity of this cloud, project and user, independent of its label; no secrets.

        Two logins reach the same resources only if these are equal. Raises DibctlError without a login.
        """
        ...

    def preflight(self) -> None:
        """Raise PreflightError or ConfigError, in seconds, if nothing can be booted here."""
        ...

    def check(self, artifact: Artifact, request: UploadRequest) -> None:
        """Raise a DibctlError, in about a second, if ``artifact`` cannot be booted here."""
        ...

    def upload(self, artifact: Artifact, request: UploadRequest, *, progress: Progress) -> CloudImage:
        """Make a private test image of the file, and remove its parts if that fails. Raises DibctlError."""
        ...

    def delete_image(self, image: CloudImage) -> None:
        """Remove an image of ``upload`` and its companions. Repeating it is harmless."""
        ...

    def existing_image(self, image_id: str) -> CloudImage:
        """Return an image that is there already and that the caller does not own.

        Raises ImageNotFoundError.
        """
        ...

    def import_key(self, key: SshKey, *, name: str) -> None:
        """Make the public half of ``key`` known under ``name``; the caller must ``delete_key`` it."""
        ...

    def delete_key(self, name: str, *, fingerprint: str) -> None:
        """Forget the key of that name if it is that of ``fingerprint`` (MD5). Repeating it is harmless."""
        ...

    def boot(self, image: CloudImage, request: BootRequest, *, progress: Progress) -> Instance:
        """Create an instance and return once it runs (not once it is ready).

        Raises InstanceError after it has removed its resources.
        """
        ...

    def existing(self, instance_id: str) -> Instance:
        """Return an instance made by an earlier run, which the caller does not own.

        Raises NotInConfigError when there is none of that id or name.
        """
        ...

    def remove(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        """Remove a resource of a dead run's ledger: an "image", "keypair" or "instance", if it exists.

        Raises DibctlError when it is there and cannot be removed.
        """
        ...

    def keep(self, kind: str, name: str, details: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Mark a resource on record as kept for ``seconds`` (None: always), so that ``leaked`` leaves it out.

        Raises DibctlError.
        """
        ...

    def renew(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        """Mark a resource on record: its run lives for another ``LIFETIME``; raises DibctlError."""
        ...

    def kept(self) -> tuple[LeakedResource, ...]:
        """Return the resources, of all runs and machines, that bear a mark as kept; raises DibctlError."""
        ...

    def remove_kept(self, resource: LeakedResource) -> None:
        """Remove a thing that ``kept`` found; raises DibctlError when it cannot be removed."""
        ...

    def leaked(self, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:
        """Return the resources with our marks, of all runs, that the cloud's clock says are past their time.

        Left out are those that were kept, and those of the runs in ``spare``. Raises DibctlError.
        """
        ...

    def remove_leaked(self, resource: LeakedResource) -> None:
        """Look once more at a thing that ``leaked`` found, and remove it; raises DibctlError."""
        ...

    def client(self, service: str) -> Any | None:
        """Return a client of an API ("compute", "image", "network", "connection"), None if there is none."""
        ...

    def close(self) -> None: ...
