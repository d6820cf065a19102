"""A local QEMU guest as an Instance."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.local_instance import LocalInstance, indented, remove_directory
from pytest_dibctl.clouds.qemu import guest, life, machine, network, png, qmp, warm
from pytest_dibctl.clouds.qemu.log import QemuLog
from pytest_dibctl.clouds.qemu.ready_store import About
from pytest_dibctl.clouds.qemu.snapshots import Snapshots, tag_of
from pytest_dibctl.clouds.qemu.state import State
from pytest_dibctl.errors import DibctlError, InstanceError
from pytest_dibctl.guest import renewal
from pytest_dibctl.guest.boot_causes import Proof
from pytest_dibctl.guest.renewal import Renewal
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.system.waiting import Every, wait_until

log = logging.getLogger(__name__)

SOFT_OFF: Mapping[str, float] = {"kvm": 60.0, "tcg": 120.0}
"""Seconds a guest has to power off after its power button was pressed, by accelerator; Nova waits 60."""
PRESS_AGAIN = 10.0
"""Seconds between two presses of the power button: a guest that is still booting misses the first."""
STATUS_INTERVAL = 2.0
"""Seconds between two queries of QEMU's status; every check reads the console."""
PICTURE = "screen"
LARGEST_PICTURE = 64 << 20
"""Bytes: a screen of 8 MiB as text of its pixels is smaller."""
QUIT_PATIENCE = 3.0
"""Seconds QEMU has to end after ``quit``, before it is killed."""
POWER_ON = "power-on"
"""The tag of the snapshot before the first boot: a blank overlay and reset devices. A rebuild loads it."""
READY = "ready"
"""The tag of the snapshot that a ready state is made of; names of users' snapshots have another beginning."""


class QemuInstance(LocalInstance[State]):
    """A guest: its QEMU process, and the directory that holds all its files.

    The instance owns the directory until ``delete``. ``process`` is None when QEMU has ended. A method that
    QEMU does not answer raises InstanceError; only ``check`` and ``delete`` go on.

    ``claim`` is its boot's part in a ready state, which the instance releases. ``origin`` names the ready
    state that it resumes.
    """

    def __init__(
        self,
        state: State,
        directory: Path,
        process: guest.Guest | None,
        *,
        claim: warm.Claim | None = None,
        origin: str = "",
    ) -> None:
        super().__init__(state, directory, vcpus=state.vcpus, console=machine.CONSOLE)
        self._process = process
        self._control = directory / machine.CONTROL
        self._log = QemuLog(directory)
        self._snapshots = Snapshots(name=state.name, directory=directory, memory=state.memory)
        self._network = network.of(directory, host_loopback=state.host_loopback)
        self._status_due = 0.0
        self._claim = claim
        self._origin = origin
        self._resumed = bool(origin)
        self._resumed_at: dict[str, bool] = {}
        """Whether the guest had been resumed, and not booted, when a snapshot was taken."""
        self._started = time.monotonic()
        self.waited = 0.0

    @property
    def facts(self) -> Mapping[str, str]:
        """Labels and values that a report shows of the instance."""
        return {
            "accelerator": f"{self._state.accelerator} ({self._state.reason})",
            "arch": self._state.arch,
            "process": str(self._process.pid) if self._process else "gone",
            "directory": str(self.directory),
            "console": str(self._console.path),
            **({"start": self._origin} if self._origin else {}),
        }

    def check(self) -> None:
        """Raise InstanceError if the guest will never be ready.

        That is so when QEMU has ended, when the guest is switched off or halted, and when its console shows a
        fatal message.
        """
        self._check_process()
        if self._process is not None and (helper := self._process.lost()):
            raise self._failure(
                f"{helper}, which its QEMU needs, has ended",
                f"{self.directory / slirp.LOG} may say why while the instance is kept",
            )
        if cause := self._console.trouble(self._bears_out):
            raise self._hopeless(cause)
        if time.monotonic() < self._status_due:
            return
        try:
            self._check_status(self._status())
        except qmp.QmpError as error:
            log.debug("%s: %s", self.name, error)  # QEMU is too busy to answer, or is ending
            self._check_process()
        self._status_due = time.monotonic() + STATUS_INTERVAL

    def reboot(self, *, hard: bool = False) -> None:
        """Reboot the guest: press its power button, then reset it.

        The reset comes once the guest is off, or after the deadline in ``SOFT_OFF``; at once if ``hard``.
        """
        if not hard:
            self._press_power_button()
        self._power_on()

    def stop(self) -> None:
        """Press the power button; pause the guest if it is not off by the deadline. Its disk stays."""
        self._stopped = True
        if not self._press_power_button():
            qmp.execute(self._control, "stop")

    def start(self) -> None:
        """Switch the guest on again."""
        self._power_on()

    @property
    def snapshots_memory(self) -> bool:
        """True: QEMU's snapshots include memory and devices."""
        return True

    def rebuild(self) -> None:
        """Discard all changes to the disk, and boot the guest as for the first time; snapshots stay.

        Raises InstanceError when the snapshot from before the first boot is missing or cannot be loaded.
        """
        self._load(POWER_ON, missing="QEMU could not save its state before the first boot")
        self._power_on()
        self._resumed = False

    def snapshot(self, name: str) -> str:
        """Save disk, memory and devices in the overlay, which grows by the memory in use; return the name.

        The guest is paused meanwhile. Raises InstanceError when the guest does not run, when ``name`` is not
        valid, and when QEMU cannot write the snapshot.
        """
        pid = self._check_process()
        status = self._status()
        if status != "running":
            raise InstanceError(
                f"{self.name}: no snapshot can be taken of a guest that does not run ({status})",
                hint="start it first",
            )
        self._snapshots.save(tag_of(name), pid=pid)
        self._resumed_at[name] = self._resumed
        return name

    def revert(self, name: str) -> None:
        """Go back to a snapshot; the guest continues from there, with its clock as it was.

        Raises InstanceError when there is no such snapshot, or QEMU cannot load it.
        """
        self._load(tag_of(name), missing=f"there is no snapshot {name}")
        self._stopped = False
        self._resumed = self._resumed_at.get(name, self._resumed)
        qmp.execute(self._control, "cont")

    def screenshot(self) -> bytes:
        """Return the guest's screen as a PNG; raises InstanceError without a screen, or without an answer."""
        if not machine.PLATFORMS[self._state.arch].screen:
            raise InstanceError(f"{self.name}: a guest for {self._state.arch} has no screen here")
        self._check_process()
        try:
            return self._picture(as_png=True)
        except qmp.QmpError as error:
            log.debug("%s: no PNG: %s", self.name, error)  # before QEMU 7.1, or built without libpng
            return png.from_ppm(self._picture(as_png=False))

    def _picture(self, *, as_png: bool) -> bytes:
        path = self.directory / PICTURE
        try:
            # For writing only: QEMU takes no other descriptor for it.
            picture = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                qmp.screendump(self._control, picture, png=as_png)
            finally:
                os.close(picture)
            with path.open("rb") as file:
                return file.read(LARGEST_PICTURE)
        except OSError as error:
            raise InstanceError(f"{self.name}: no picture: {error}") from None
        finally:
            path.unlink(missing_ok=True)

    # -- ready states ------------------------------------------------------------------------------

    @property
    def resumed(self) -> bool:
        """Whether the guest goes on from a ready state, and has not booted from its blank disk since."""
        return self._resumed

    @property
    def may_keep_ready(self) -> bool:
        """Whether ``keep_ready`` is wanted of this instance."""
        return self._claim is not None and self._claim.makes

    def give_up_ready(self) -> None:
        """Let another make the state, since this guest does not become ready."""
        if self._claim is not None:
            self._claim.release()

    def keep_ready(self, access: SshAccess) -> None:
        """Save the state of a guest that has just become ready, for boots to come; it is paused meanwhile.

        Raises DibctlError when the state cannot be saved; the guest goes on in any case, without the shared
        connection of ``access``.
        """
        claim = self._claim
        if claim is None or not claim.makes:
            return
        seconds = time.monotonic() - self._started
        line = warm.Line(directory=self.directory)
        try:
            renewal.prepare(access.run, public_key=access.key.public_key)
            try:
                access.disconnect()  # or guests would begin with a connection whose other end is gone
                renewal.ping(line.ask)
                self._save_ready(claim, access.key.public_key, seconds)
            finally:
                with contextlib.suppress(DibctlError):
                    renewal.dismiss(line.ask, now=time.time())
        finally:
            claim.release()

    def _save_ready(self, claim: warm.Claim, public_key: str, seconds: float) -> None:
        about = About(
            label=Path(self._state.image).name,
            uuid=self._state.id,
            name=self.name,
            mac=self._state.mac,
            public_key=public_key,
            made=time.time(),
            seconds=seconds,
        )
        pid = self._check_process()
        qmp.execute(self._control, "stop")
        try:
            self._snapshots.save(READY, pid=pid)
            try:
                warm.keep(claim, self.directory / machine.DISK, about)
            finally:
                self._snapshots.drop(READY)
        finally:
            qmp.execute(self._control, "cont")

    def go_on(self, timeout: float, change: Renewal, *, verify: Callable[[], None]) -> None:
        """Load the ready state that the disk holds, let the guest run and renew it; no port leads to it yet.

        ``verify`` raises DibctlError when the disk is not the saved one; the guest has run nothing then.
        Raises InstanceError as ``switch_on`` does, and DibctlError when the guest cannot be renewed.
        """
        self._await_qemu(timeout)
        self._snapshots.load(READY)
        verify()
        qmp.execute(self._control, "cont")
        line = warm.Line(directory=self.directory)
        renewal.renew(line.ask, change, now=time.time(), timeout=warm.RENEWAL_PATIENCE)

    def delete(self) -> None:
        """End QEMU and remove the directory; do nothing when both are gone already.

        Raises InstanceError when the directory cannot be removed.
        """
        self.give_up_ready()
        if self._process is not None and not self._process.ended():
            with contextlib.suppress(InstanceError):
                qmp.execute(self._control, "quit")
                self._process.wait(QUIT_PATIENCE)
        if self._process is not None:
            self._process.kill()
        remove_directory(self.name, self.directory)

    def switch_on(self, timeout: float, forwards: Sequence[machine.Forward] = ()) -> None:
        """Wait until QEMU is up, forward ports, take the snapshot that a rebuild needs, let the guest run.

        Raises InstanceError if QEMU ends, or is not up after ``timeout`` seconds, and when a port cannot be
        forwarded. Without the snapshot, only ``rebuild`` fails.
        """
        self._await_qemu(timeout)
        self.forward(forwards)
        try:
            self._snapshots.save(POWER_ON, pid=self._check_process())
        except InstanceError as error:
            log.debug("%s cannot be rebuilt: %s", self.name, error)
        qmp.execute(self._control, "cont")

    def forward(self, forwards: Sequence[machine.Forward]) -> None:
        """Make ports reachable on loopback; raises InstanceError when one cannot be forwarded."""
        for forward in forwards:
            self.publish(forward.guest, forward.host)

    def _published(self) -> dict[int, int]:
        return self._network.published()

    def _publish(self, port: int, host: int) -> None:
        self._network.publish(port, host)

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
        """Go back to a snapshot and leave the guest paused there; ``missing`` is the error without one."""
        self._check_process()
        if tag not in self._snapshots.tags():
            raise InstanceError(f"{self.name}: {missing}")
        qmp.execute(self._control, "stop")
        # QEMU cannot continue a guest that is switched off. The reset changes only what loading overwrites.
        qmp.execute(self._control, "system_reset")
        self._console.forget()
        self._snapshots.load(tag)

    def _press_power_button(self) -> bool:
        """Ask the guest to power off; return whether it is off by the deadline in ``SOFT_OFF``."""
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

    def _check_process(self) -> int:
        """Return QEMU's process id; raise InstanceError when it has ended."""
        ended = self._process.ended() if self._process else "is gone"
        if ended or self._process is None:
            raise self._failure(f"its QEMU process {ended}{self._log_lines()}", self._log.hint())
        return self._process.pid

    def _bears_out(self, proof: Proof) -> bool:
        return life.bears_out(self._control, self._state.arch, proof)

    def _check_status(self, status: str) -> None:
        if status == "shutdown" or (status == "paused" and self._stopped):
            cause = "it is switched off" if self._stopped else "the guest powered itself off"
            symptom = None if self._stopped else "powered-off"
            raise self._failure(cause, "the console's last lines may say why", symptom=symptom)
        if status == "io-error":
            raise self._failure(
                f"the guest was halted because its disk cannot be written to{self._log_lines()}",
                f"make room on the filesystem of {self.directory}, or set TMPDIR to a larger one",
            )
        if status in {"internal-error", "guest-panicked"}:
            raise self._failure(f"QEMU halted the guest ({status}){self._log_lines()}", self._log.hint())

    def _log_lines(self) -> str:
        return indented(self._log.last_lines())
