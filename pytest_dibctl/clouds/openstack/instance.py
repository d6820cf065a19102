"""A server in Nova as an Instance."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Mapping

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.console import Suspicion
from pytest_dibctl.clouds.openstack import images, networks, servers, shapes
from pytest_dibctl.clouds.openstack.api import CALL_TIMEOUT, Api
from pytest_dibctl.clouds.openstack.refusals import CONFLICT, FORBIDDEN, NOT_FOUND, raise_for_status
from pytest_dibctl.clouds.protocols import Endpoint, Flavor, Interface
from pytest_dibctl.errors import ApiError, InstanceError
from pytest_dibctl.guest import causes
from pytest_dibctl.guest.console import LAST_LINES, clean, excerpt, host_keys
from pytest_dibctl.guest.login import HostKeyPolicy

log = logging.getLogger(__name__)

STATUS_INTERVAL = 3.0
"""Seconds between two questions to Nova whether the instance still runs."""
CONSOLE_INTERVAL = 0.8
"""Seconds between two looks at the end of the console: a guest's last words are told within two of them."""
SUSPICIOUS_INTERVAL = 0.25
"""The same while the console shows a line that may be the guest's last."""
LOOKED_AT = 200
"""Lines of the console's end that such a look reads: a whole one, each second, is a load on a cloud."""
ENDED = frozenset({"SHUTOFF", "SUSPENDED", "PAUSED"})
DELETED = frozenset({"DELETED", "SOFT_DELETED"})
"""Nova shows a deleted server for a moment before it answers 404, and a soft-deleted one for days."""
NOT_IMPLEMENTED = 501
NO_CONSOLE = frozenset({FORBIDDEN, NOT_FOUND, NOT_IMPLEMENTED})
"""Nova's answers where the user may not read the console, or the hypervisor keeps none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """The unchanging facts of an instance. Timeouts are seconds."""

    id: str
    name: str
    flavor: Flavor
    interfaces: tuple[Interface, ...]
    main: Interface
    floating_ip: str | None
    image_id: str | None
    region: str
    first_seen: bool
    active_timeout: float
    cleanup_timeout: float
    run_id: str


class OpenStackInstance:
    """A server in Nova. Its owner calls ``delete``."""

    def __init__(
        self, api: Api, known: Known, *, note: Callable[..., None], tell: Callable[[str], None]
    ) -> None:
        self._api = api
        self._known = known
        self._note = note
        self._tell = tell
        self._status_due = 0.0
        self._console_due = 0.0
        self._stopped = False
        self._snapshots: dict[str, str] = {}
        self._titles: list[str] = []
        self._no_console = ""
        self._recent_console = ""
        self._suspicion = Suspicion(proven=False)

    @property
    def id(self) -> str:
        """Nova's id."""
        return self._known.id

    @property
    def name(self) -> str:
        """The server's name, which is the guest's hostname too."""
        return self._known.name

    @property
    def flavor(self) -> Flavor:
        """The flavor it was made with."""
        return self._known.flavor

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Its ports in Neutron, in the order of ``nova.nics``."""
        return self._known.interfaces

    @property
    def main_ip(self) -> str:
        """The fixed address of the main interface."""
        return networks.main_address(self._known.main)

    @property
    def host_keys(self) -> HostKeyPolicy:
        """The keys that the guest prints on its console; first-seen where that is asked for."""
        if self._known.first_seen:
            return HostKeyPolicy(first_seen=True)
        return HostKeyPolicy(learn=self._printed_keys)

    @property
    def facts(self) -> Mapping[str, str]:
        """Facts of the instance for reports."""
        facts = {
            "region": self._known.region,
            "flavor": self._known.flavor.name,
            "network": self._known.main.network,
            "address": self._known.floating_ip or self.main_ip,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def snapshots_memory(self) -> bool:
        """A Glance image holds the disk only."""
        return False

    def endpoint(self, port: int) -> Endpoint:
        """Return the address, the floating one if there is one, and the port itself."""
        return Endpoint(ip=self._known.floating_ip or self.main_ip, port=port)

    def check(self) -> None:
        """Raise InstanceError when the server is in ERROR, off or gone, or its console tells of its end."""
        try:
            if time.monotonic() >= self._status_due:
                self._check_status()
                self._status_due = time.monotonic() + STATUS_INTERVAL
            if time.monotonic() >= self._console_due:
                self._check_console()
                # A suspicion is settled by another look soon.
                pause = SUSPICIOUS_INTERVAL if self._suspicion.any else CONSOLE_INTERVAL
                self._console_due = time.monotonic() + pause
        except ApiError as error:
            if not error.transient:
                raise
            log.debug("%s", error.message)
            # A service that has trouble is left alone for longer.
            self._status_due = self._console_due = time.monotonic() + STATUS_INTERVAL

    def console_output(self) -> str:
        """Return the console output that Nova has; empty, with a reason in the log, where it gives none."""
        return self._readable_console(None)

    def recent_console(self) -> str:
        """Return the end of the console as ``check`` saw it last: Nova is not asked."""
        return self._recent_console

    def _readable_console(self, lines: int | None) -> str:
        try:
            return self._console(lines)
        except ApiError as error:
            if error.status not in {*NO_CONSOLE, CONFLICT}:
                raise
            log.debug("%s", error.message)
            return ""

    def screenshot(self) -> bytes:
        """Raise InstanceError: Nova gives no pictures."""
        raise InstanceError(
            f"{self.name}: Nova gives no picture of a server's screen",
            hint="`openstack console url show` opens it in a browser; a QEMU guest can be pictured",
        )

    def reboot(self, *, hard: bool = False) -> None:
        """Ask Nova for the reboot, and return once it has done its part."""
        kind = "HARD" if hard else "SOFT"
        self._api.repeat(
            "compute", f"reboot {self.name}", lambda: self._api.compute.reboot_server(self.id, kind)
        )
        self._await("ACTIVE")

    def stop(self) -> None:
        """Switch the guest off and return once it is."""
        self._api.repeat("compute", f"stop {self.name}", lambda: self._api.compute.stop_server(self.id))
        self._stopped = True
        self._await("SHUTOFF")

    def start(self) -> None:
        """Switch the guest on again and return once Nova has."""
        self._api.repeat("compute", f"start {self.name}", lambda: self._api.compute.start_server(self.id))
        self._await("ACTIVE")
        self._stopped = False

    def rebuild(self) -> None:
        """Make the root disk anew from the image the instance was booted from."""
        image_id = self._known.image_id
        if image_id is None:
            raise InstanceError(
                f"{self.name} has no image to be rebuilt from: it was booted from a volume",
                hint="leave out nova.volume in environments whose tests rebuild",
            )
        self._rebuild(image_id)

    def snapshot(self, name: str) -> str:
        """Make a Glance image of the instance and return its id; it goes when the instance is deleted."""
        # Only the title proves that an image of this server is this snapshot and not a user's.
        title = f"{self.name}-{name}-{uuid.uuid4().hex[:8]}"
        self._note(**{f"snapshot_{name}": title})
        self._titles.append(title)
        image_id = self._api.create(
            "compute",
            f"take a snapshot of {self.name}",
            lambda: self._take_snapshot(title),
            name=self.name,
            find=lambda: next((str(image["id"]) for image in images.named(self._api, [title], ())), None),
            timeout=CALL_TIMEOUT,
        )
        self._snapshots[name] = image_id
        self._await_snapshot(image_id, title)
        self._await("SHUTOFF" if self._stopped else "ACTIVE")
        return image_id

    def _take_snapshot(self, title: str) -> str:
        response = raise_for_status(
            self._api.compute.post(
                f"/servers/{self.id}/action",
                json={
                    "createImage": {
                        "name": title,
                        "metadata": marks.snapshot_properties(self._known.run_id, title),
                    }
                },
                microversion="2.45",
            )
        )
        return str(shapes.read(response, shapes.Snapshot)["image_id"])

    def revert(self, name: str) -> None:
        """Rebuild the instance from the snapshot of that name; raises InstanceError when there is none."""
        if name not in self._snapshots:
            known = ", ".join(self._snapshots) or "none"
            raise InstanceError(f"{self.name}: there is no snapshot {name!r}; there are {known}")
        self._rebuild(self._snapshots[name])

    def delete(self) -> None:
        """Remove the server and all that was made for it, and return when it is gone."""
        servers.remove(
            self._api,
            self.name,
            run_id=self._known.run_id,
            timeout=self._known.cleanup_timeout,
            snapshots=tuple(self._titles),
        )

    def _rebuild(self, image_id: str) -> None:
        self._api.repeat(
            "compute",
            f"rebuild {self.name}",
            lambda: raise_for_status(
                self._api.compute.post(f"/servers/{self.id}/action", json={"rebuild": {"imageRef": image_id}})
            ),
        )
        if self._stopped:  # and Nova leaves it so
            self._await("SHUTOFF")
            self.start()
        else:
            self._await("ACTIVE")

    def _await(self, status: str) -> None:
        self._suspicion.forget()
        servers.wait_for(
            self._api, self.id, status, timeout=self._known.active_timeout, tell=self._tell, name=self.name
        )
        self._status_due = self._console_due = 0.0

    def _await_snapshot(self, image_id: str, title: str) -> None:
        image = images.await_active(self._api, image_id, title, timeout=self._known.active_timeout)
        if image is None:
            raise InstanceError(
                f"snapshot {title} ({image_id}) was not ready within {self._known.active_timeout:g} s"
            )

    def _console(self, lines: int | None = None) -> str:
        return clean(servers.console_output(self._api, self.id, lines=lines).encode())

    def _printed_keys(self) -> tuple[str, ...] | None:
        """Return the host keys on the console so far, None where there is no console to be read."""
        try:
            return host_keys(self._console())
        except ApiError as error:
            if error.transient or error.status == CONFLICT:
                return ()
            if error.status not in NO_CONSOLE:
                raise
            if not self._no_console:
                self._no_console = error.message
                self._tell(
                    f"the console cannot be read ({error.status}), so the host key is trusted at first sight"
                )
            return None

    def _check_status(self) -> None:
        server = servers.find(self._api, self.id)
        if server is None or server.status in DELETED:
            raise InstanceError(f"{self.name} ({self.id}) was deleted, and not by this run")
        if server.status == "ERROR":
            raise self._with_console(servers.error_of(server))
        if server.status in ENDED and not server.task_state:
            how = "was stopped" if self._stopped else "stopped by itself"
            text = f"{self.name} ({self.id}) is {server.status}: it {how}"
            raise self._with_console(InstanceError(text, symptom=None if self._stopped else "powered-off"))

    def _check_console(self) -> None:
        text = self._readable_console(LOOKED_AT)
        if text != self._recent_console:
            self._recent_console = text
            self._suspicion.grown(text[-64 * 1024 :])
        # Nova does not tell what the processors do: the silence of the console has to do.
        if not self._suspicion.believed(lambda _proof: True):
            return
        if cause := causes.named_by_console(self.console_output()):
            error = self._with_console(InstanceError(f"{self.name}: {cause.lead}", hint=cause.hint))
            error.cause, error.console_line = cause.id, cause.line
            raise error

    def _with_console(self, error: InstanceError) -> InstanceError:
        return with_console(error, self.console_output())


def with_console(error: InstanceError, text: str) -> InstanceError:
    """Return ``error`` with the console's last lines."""
    last_lines = excerpt(text)
    tail = (
        LAST_LINES + "".join(f"\n  {line}" for line in last_lines.splitlines())
        if last_lines
        else "\nthe console is empty"
    )
    return InstanceError(error.message + tail, hint=error.hint, symptom=error.symptom)
