"""A local container as an Instance."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.local_instance import LocalInstance, indented, remove_directory
from pytest_dibctl.clouds.nspawn import launch, limits
from pytest_dibctl.clouds.nspawn.guard import Guard, Power
from pytest_dibctl.clouds.nspawn.state import State
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.boot_causes import Proof
from pytest_dibctl.system import user_network
from pytest_dibctl.system.waiting import Every, wait_until

SOFT_OFF: Final = 60.0
"""Seconds a container has to power off after it was asked to; Nova waits as long."""
PRESS_AGAIN: Final = 10.0
"""Seconds until it is asked again: an init that is still starting misses the first time."""
SETTLE: Final = 0.3
"""Seconds to wait for the rest of the console output after a fatal message."""


class NspawnInstance(LocalInstance[State]):
    """A container: its guard, and the directory that holds all its files.

    The instance owns the directory until ``delete``. ``guard`` is None when it has ended.
    """

    def __init__(self, state: State, directory: Path, guard: Guard | None) -> None:
        super().__init__(state, directory, vcpus=os.cpu_count() or 1, console=launch.CONSOLE)
        self._guard = guard

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
        # A container has no kernel and no firmware of its own: it cannot panic.
        if cause := self._console.trouble(lambda proof: proof is Proof.SHELL):
            raise self._hopeless(cause)

    def screenshot(self) -> bytes:
        """Raise InstanceError: a container has no screen."""
        raise InstanceError(f"{self.name}: a container has no screen", hint="a QEMU guest has one")

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
        """Copy the present disk; return the name. The container waits meanwhile when it writes.

        Raises InstanceError when ``name`` is not valid, and when there is not enough room.
        """
        self._order("snapshot", name)
        return name

    def revert(self, name: str) -> None:
        """Go back to a snapshot, and boot anew; raises InstanceError when there is none."""
        self._boot("revert", name)

    def delete(self) -> None:
        """End the container and remove its directory and control groups; do nothing when all are gone.

        Raises InstanceError when they cannot be removed.
        """
        if self._guard is not None:
            self._guard.kill()
        limits.remove(self.name)
        remove_directory(self.name, self.directory)

    def _published(self) -> dict[int, int]:
        return slirp.forwards(self.directory / slirp.API)

    def _publish(self, port: int, host: int) -> None:
        api = self.directory / slirp.API
        slirp.forward(api, port, address=user_network.GUEST, host=host, section="nspawn")

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
            symptom = None if self._stopped else "powered-off"
            return self._failure(cause, "the console's last lines may say why", symptom=symptom)
        if power.trouble is not None:
            return self._failure(f"it could not reboot: {power.trouble}", self._log_hint())
        return self._failure(f"systemd-nspawn exited with {power.code}{self._log_lines()}", self._log_hint())

    def _log_lines(self) -> str:
        return indented("\n".join(launch.last_lines(self.directory)))

    def _log_hint(self) -> str:
        return (
            f"systemd-nspawn's own messages are in {self.directory / launch.LOG} while the instance is kept"
        )
