"""A local container as an Instance."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.console import Console
from pytest_dibctl.clouds.nspawn import launch, limits
from pytest_dibctl.clouds.nspawn.guard import Guard, Power
from pytest_dibctl.clouds.nspawn.state import State
from pytest_dibctl.clouds.protocols import Address, Endpoint, Flavor, Interface
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guards import container_network
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.system.waiting import Every, wait_until

SOFT_OFF: Final = 60.0
"""Seconds a container has to power off after it was asked to; Nova waits as long."""
PRESS_AGAIN: Final = 10.0
"""Seconds until it is asked again: an init that is still starting misses the first time."""
SETTLE: Final = 0.3
"""Seconds to wait for the rest of the console output after a fatal message."""


class NspawnInstance:
    """A container: its guard, and the directory that holds all its files.

    The instance owns the directory until ``delete``. ``guard`` is None when it has ended.
    """

    def __init__(self, state: State, directory: Path, guard: Guard | None) -> None:
        self.directory = directory
        self._state = state
        self._guard = guard
        self._console = Console(directory / launch.CONSOLE)
        self._forwards: dict[int, int] = {}
        self._stopped = False

    @property
    def id(self) -> str:
        """The uuid, which the container sees as its instance-id and machine id."""
        return self._state.id

    @property
    def name(self) -> str:
        """The name, which is also the container's hostname and the name of the directory."""
        return self._state.name

    @property
    def flavor(self) -> Flavor:
        """The container's size, named like the test environment: ``ram`` in MiB, ``disk`` in GiB."""
        state = self._state
        return Flavor(
            id=state.environment,
            name=state.environment,
            ram=state.memory,
            vcpus=os.cpu_count() or 1,
            disk=state.disk,
        )

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The container's only interface, addressed like that of a QEMU guest."""
        prefix = int(container_network.NETWORK.split("/")[1])
        address = Address(ip=container_network.GUEST, prefix=prefix, gateway=container_network.GATEWAY)
        return (
            Interface(
                network="user",
                mac=self._state.mac,
                addresses=(address,),
                dns=(container_network.RESOLVER,),
            ),
        )

    @property
    def main_ip(self) -> str:
        """The address in the container's own network; this machine reaches it only through ``endpoint``."""
        return container_network.GUEST

    @property
    def host_keys(self) -> HostKeyPolicy:
        """The host key that the seed gave; without one, the first key seen is accepted."""
        return HostKeyPolicy(known=self._state.host_keys, first_seen=self._state.first_seen)

    @property
    def private_key_file(self) -> Path:
        """The private half of the ssh key that the container accepts."""
        return Path(self._state.private_key_file)

    @property
    def facts(self) -> Mapping[str, str]:
        """Labels and values that a report shows of the instance."""
        return {
            "engine": "systemd-nspawn (this machine's kernel)",
            "limits": self._state.limits,
            "process": str(self._guard.pid) if self._guard else "gone",
            "directory": str(self.directory),
            "console": str(self._console.path),
        }

    def endpoint(self, port: int) -> Endpoint:
        """Return the address and port on loopback that lead to the container's TCP port.

        A free port is picked unless the configuration sets one. Raises InstanceError when the port cannot be
        forwarded.
        """
        if port not in self._forwards:
            self._forwards = self._published()
        if port not in self._forwards:
            self.publish(port)
        return Endpoint(ip=slirp.LOOPBACK, port=self._forwards[port])

    def publish(self, port: int, host: int = 0) -> None:
        """Make a port of the container reachable on loopback, at the port ``host`` or a free one.

        Raises InstanceError when that is not possible.
        """
        api = self.directory / slirp.API
        try:
            slirp.forward(api, port, address=container_network.GUEST, host=host, section="nspawn")
        except InstanceError as error:
            raise InstanceError(f"{self.name}: {error.message}", hint=error.hint) from None
        self._forwards = self._published()

    def check(self) -> None:
        """Raise InstanceError if the container will never be ready.

        That is so when it has ended, and when its console shows a fatal message.
        """
        guard = self._living_guard()
        if helper := guard.lost():
            raise self._failure(
                f"{helper}, which its network needs, has ended",
                f"{self.directory / slirp.LOG} may say why while the instance is kept",
            )
        power = guard.order("status")
        if power.state in {"off", "failed"}:
            time.sleep(SETTLE)
            raise self._down(power)
        if cause := self._console.trouble():
            time.sleep(SETTLE)
            raise self._failure(cause.text, cause.hint)

    def console_output(self) -> str:
        """Return the console's whole output so far, without escape sequences."""
        return self._console.text()

    def reboot(self, *, hard: bool = False) -> None:
        """Ask the container's init to power off, and start it again; ``hard`` does not ask.

        It is ended once it is off, or after the deadline in ``SOFT_OFF``.
        """
        if not hard:
            self._press()
        self._order("kill")
        self._boot("start")

    def stop(self) -> None:
        """Have the container power off; end it if it is not off by the deadline. Its files stay."""
        self._stopped = True
        self._press()
        self._order("kill")

    def start(self) -> None:
        """Start the container again."""
        self._boot("start")

    @property
    def snapshots_memory(self) -> bool:
        """False: a snapshot is a copy of the disk."""
        return False

    def rebuild(self) -> None:
        """Discard all that was written, and boot as for the first time; snapshots stay."""
        self._boot("rebuild")

    def snapshot(self, name: str) -> str:
        """Copy what was written so far; return the name. The container waits meanwhile when it writes.

        Raises InstanceError when ``name`` is not valid, and when there is not enough room.
        """
        self._order("snapshot", name)
        return name

    def revert(self, name: str) -> None:
        """Go back to what a snapshot holds, and boot anew; raises InstanceError when there is none."""
        self._boot("revert", name)

    def delete(self) -> None:
        """End the container and remove its directory and control groups; do nothing when all are gone.

        Raises InstanceError when they cannot be removed.
        """
        if self._guard is not None:
            self._guard.kill()
        limits.remove(self.name)
        try:
            shutil.rmtree(self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InstanceError(f"{self.name}: {self.directory} cannot be removed: {error}") from None

    def _published(self) -> dict[int, int]:
        return slirp.forwards(self.directory / slirp.API)

    def _press(self) -> bool:
        """Ask the container to power off; return whether it is off by the deadline."""
        press = Every(PRESS_AGAIN)

        def is_off() -> bool:
            if self._order("status").state in {"off", "failed"}:
                return True
            if press.is_due():
                self._order("press")
            return False

        return wait_until(is_off, timeout=SOFT_OFF, poll=0.05)

    def _boot(self, order: str, name: str | None = None) -> None:
        self._console.forget()
        self._stopped = False
        self._order(order, name)

    def _order(self, order: str, name: str | None = None) -> Power:
        return self._living_guard().order(order, name)

    def _living_guard(self) -> Guard:
        ended = self._guard.ended() if self._guard else "is gone"
        if ended or self._guard is None:
            raise self._failure(f"its guard {ended}{self._log_lines()}", self._log_hint())
        return self._guard

    def _down(self, power: Power) -> InstanceError:
        if power.state == "off":
            cause = "it is switched off" if self._stopped else "the container powered itself off"
            return self._failure(cause, "the console's last lines may say why")
        if power.trouble is not None:
            return self._failure(f"it could not reboot: {power.trouble}", self._log_hint())
        return self._failure(f"systemd-nspawn exited with {power.code}{self._log_lines()}", self._log_hint())

    def _log_lines(self) -> str:
        return "".join(f"\n  {line}" for line in launch.last_lines(self.directory))

    def _log_hint(self) -> str:
        return (
            f"systemd-nspawn's own messages are in {self.directory / launch.LOG} while the instance is kept"
        )

    def _failure(self, cause: str, hint: str) -> InstanceError:
        lines = self._console.excerpt().splitlines()
        tail = "".join(f"\n  {line}" for line in lines)
        shown = f"\nlast lines of the console:{tail}" if tail else "\nthe console is empty"
        return InstanceError(f"{self.name}: {cause}{shown}", hint=hint)
