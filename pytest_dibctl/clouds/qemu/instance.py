"""A local QEMU guest as an Instance."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from pytest_dibctl.clouds.protocols import Endpoint, Flavor, Interface
from pytest_dibctl.clouds.qemu import guest, machine, qmp
from pytest_dibctl.clouds.qemu.console import Console
from pytest_dibctl.clouds.qemu.log import QemuLog
from pytest_dibctl.clouds.qemu.snapshots import Snapshots, tag_of
from pytest_dibctl.clouds.qemu.state import State
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.system.waiting import Every, wait_until

log = logging.getLogger(__name__)

SOFT_OFF: Mapping[str, float] = {"kvm": 60.0, "tcg": 120.0}
"""Seconds a guest has to obey its power button before it is switched off, by accelerator; Nova's is 60."""
PRESS_AGAIN = 10.0
"""Seconds between two presses of the power button: a guest that is still booting does not hear the first."""
STATUS_INTERVAL = 2.0
"""Seconds between two questions to QEMU whether the guest still runs; the console is looked at each time."""
QUIT_PATIENCE = 3.0
POWER_ON = "power-on"
"""The snapshot of the blank disk and a machine that has not run yet, which a rebuild goes back to."""
SETTLE = 0.3
"""Seconds to let a dying guest finish its last words."""


class QemuInstance:
    """A guest: its QEMU process, and the directory that holds all its files."""

    def __init__(self, state: State, directory: Path, process: guest.Guest | None) -> None:
        self.directory = directory
        self._state = state
        self._process = process
        self._console = Console(directory / machine.CONSOLE)
        self._control = directory / machine.CONTROL
        self._log = QemuLog(directory)
        self._snapshots = Snapshots(name=state.name, directory=directory, memory=state.memory)
        self._forwards: dict[int, int] = {}
        self._stopped = False
        self._status_due = 0.0

    @property
    def id(self) -> str:
        """The uuid; the guest sees it as its instance-id and system uuid."""
        return self._state.id

    @property
    def name(self) -> str:
        """The name; also the guest's hostname and the name of the directory."""
        return self._state.name

    @property
    def flavor(self) -> Flavor:
        """The machine's size, under the label of the environment."""
        state = self._state
        return Flavor(
            id=state.environment,
            name=state.environment,
            ram=state.memory,
            vcpus=state.vcpus,
            disk=state.disk,
        )

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The one interface in QEMU's user-mode network."""
        return (machine.interface(self._state.mac),)

    @property
    def main_ip(self) -> str:
        """The guest's address in its own network; it is reached through ``endpoint`` only."""
        return machine.GUEST_IP

    @property
    def host_keys(self) -> HostKeyPolicy:
        """The key that was injected, or first-seen."""
        return HostKeyPolicy(known=self._state.host_keys, first_seen=self._state.first_seen)

    @property
    def private_key_file(self) -> Path:
        """The ssh key that the guest was booted for."""
        return Path(self._state.private_key_file)

    @property
    def facts(self) -> Mapping[str, str]:
        """What a report says of the instance."""
        return {
            "accelerator": f"{self._state.accelerator} ({self._state.reason})",
            "arch": self._state.arch,
            "process": str(self._process.pid) if self._process else "gone",
            "directory": str(self.directory),
            "console": str(self._console.path),
        }

    def endpoint(self, port: int) -> Endpoint:
        """Return where the guest's TCP port is reached on loopback; QEMU picks a free one if none is set.

        Raises InstanceError when QEMU cannot open one.
        """
        if port not in self._forwards:
            self._forwards = self._read_forwards()
        if port not in self._forwards:
            said = qmp.monitor(
                self._control, f"hostfwd_add net0 {machine.Forward(guest=port).rule()}"
            ).strip()
            self._forwards = self._read_forwards()
            if port not in self._forwards:
                raise InstanceError(
                    f"{self.name}: port {port} could not be forwarded: {said or 'no reason given'}"
                )
        return Endpoint(ip="127.0.0.1", port=self._forwards[port])

    def check(self) -> None:
        """Raise InstanceError if the guest will never be ready: QEMU ended, it is off, its console tells."""
        self._check_process()
        if cause := self._console.trouble():
            time.sleep(SETTLE)
            raise self._failure(cause.text, cause.hint)
        if time.monotonic() < self._status_due:
            return
        try:
            self._check_status(self._status())
        except qmp.QmpError as error:
            log.debug("%s: %s", self.name, error)  # too busy to answer, or just ending
            self._check_process()
        self._status_due = time.monotonic() + STATUS_INTERVAL

    def console_output(self) -> str:
        """Return all of the serial console so far, without escape sequences."""
        return self._console.text()

    def reboot(self, *, hard: bool = False) -> None:
        """Reboot: by the power button, or after a deadline (at once if ``hard``) by the reset button."""
        if not hard:
            self._press_power_button()
        self._power_on()

    def stop(self) -> None:
        """Switch the guest off: by the power button, after a deadline by force. Its disk stays."""
        self._stopped = True
        if not self._press_power_button():
            qmp.execute(self._control, "stop")

    def start(self) -> None:
        """Switch the guest on again."""
        self._power_on()

    @property
    def snapshots_memory(self) -> bool:
        """Yes: QEMU's snapshots are of disk, memory and devices."""
        return True

    def rebuild(self) -> None:
        """Throw away what the overlay holds, and switch the guest on as for the first time.

        Snapshots stay. Raises InstanceError.
        """
        self._load(POWER_ON, missing="QEMU could not remember how it was before its first boot")
        self._power_on()

    def snapshot(self, name: str) -> str:
        """Save disk, memory and devices in the overlay, which grows by the memory in use; return the name.

        The guest stands still meanwhile. Raises InstanceError when it does not run, or QEMU cannot write.
        """
        self._check_process()
        status = self._status()
        if status != "running":
            raise InstanceError(
                f"{self.name}: no snapshot can be taken of a guest that does not run ({status})",
                hint="start it first",
            )
        self._snapshots.save(tag_of(name))
        return name

    def revert(self, name: str) -> None:
        """Go back to a snapshot; the guest runs on from there, with the clock of then.

        Raises InstanceError.
        """
        self._load(tag_of(name), missing=f"there is no snapshot {name}")
        self._stopped = False
        qmp.execute(self._control, "cont")

    def delete(self) -> None:
        """End QEMU and remove the directory; harmless when both are gone already.

        Raises InstanceError when something of it cannot be removed.
        """
        if self._process is not None and not self._process.ended():
            with contextlib.suppress(InstanceError):
                qmp.execute(self._control, "quit")
                self._process.wait(QUIT_PATIENCE)
        if self._process is not None:
            self._process.kill()
        try:
            shutil.rmtree(self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InstanceError(f"{self.name}: {self.directory} cannot be removed: {error}") from None

    def switch_on(self, timeout: float) -> None:
        """Wait until QEMU is up and let the guest run, once its state of now is remembered.

        Raises InstanceError if QEMU ends, or is late (``timeout`` s).
        """
        self._await_qemu(timeout)
        try:
            self._snapshots.save(POWER_ON)
        except InstanceError as error:
            log.debug("%s cannot be rebuilt: %s", self.name, error)  # who never asks need not care
        qmp.execute(self._control, "cont")

    def _await_qemu(self, timeout: float) -> None:
        if not wait_until(self._is_before_launch, timeout=timeout, poll=0.05):
            raise InstanceError(f"{self.name}: QEMU did not start the guest within {timeout:g} s")

    def _is_before_launch(self) -> bool:
        ended = self._process.ended() if self._process else "was not started"
        if ended:
            raise InstanceError(
                f"{self.name}: QEMU {ended} before the guest was started{self._log_lines()}",
                hint=self._log.hint(),
            )
        with contextlib.suppress(InstanceError):
            return self._status() == "prelaunch"
        return False

    def _load(self, tag: str, *, missing: str) -> None:
        """Go back to a snapshot and leave the guest paused there; ``missing`` says that there is none."""
        self._check_process()
        if tag not in self._snapshots.tags():
            raise InstanceError(f"{self.name}: {missing}")
        qmp.execute(self._control, "stop")
        # A guest that is switched off could not be continued; what runs it now is overwritten anyway.
        qmp.execute(self._control, "system_reset")
        self._console.forget()
        self._snapshots.load(tag)

    def _press_power_button(self) -> bool:
        """Ask the guest to power off; return whether it did within the deadline."""
        press = Every(PRESS_AGAIN)

        def is_off() -> bool:
            if self._status() == "shutdown":
                return True
            if press.is_due():
                qmp.execute(self._control, "system_powerdown")
            return False

        return wait_until(is_off, timeout=SOFT_OFF[self._state.accelerator], poll=0.25)

    def _power_on(self) -> None:
        self._console.forget()
        self._stopped = False
        qmp.execute(self._control, "system_reset")
        qmp.execute(self._control, "cont")

    def _status(self) -> str:
        answer = qmp.execute(self._control, "query-status")
        return str(answer["status"]) if isinstance(answer, dict) else ""

    def _check_process(self) -> None:
        ended = self._process.ended() if self._process else "is gone"
        if ended:
            raise self._failure(f"its QEMU process {ended}{self._log_lines()}", self._log.hint())

    def _check_status(self, status: str) -> None:
        if status == "shutdown" or (status == "paused" and self._stopped):
            what = "it is switched off" if self._stopped else "the guest powered itself off"
            raise self._failure(what, "the console's last lines may say why")
        if status == "io-error":
            raise self._failure(
                f"the guest was halted because its disk cannot be written to{self._log_lines()}",
                f"make room on the filesystem of {self.directory}, or set TMPDIR to a larger one",
            )
        if status in {"internal-error", "guest-panicked"}:
            raise self._failure(f"QEMU halted the guest ({status}){self._log_lines()}", self._log.hint())

    def _log_lines(self) -> str:
        return _indented(self._log.last_lines())

    def _failure(self, cause: str, hint: str) -> InstanceError:
        said = self._console.excerpt()
        tail = f"\nlast lines of the console:{_indented(said)}" if said else "\nthe console is empty"
        return InstanceError(f"{self.name}: {cause}{tail}", hint=hint)

    def _read_forwards(self) -> dict[int, int]:
        return forwards(qmp.monitor(self._control, "info usernet"))


def forwards(usernet: str) -> dict[int, int]:
    """Return the loopback port of each forwarded guest port, from the monitor's ``info usernet``."""
    rows = re.findall(r"TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)", usernet)
    return {int(inside): int(outside) for outside, inside in rows}


def _indented(text: str) -> str:
    return "".join(f"\n  {line}" for line in text.splitlines())
