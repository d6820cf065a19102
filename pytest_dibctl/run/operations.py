"""Operations on a running guest: reboots, rebuilds, snapshots, a shell."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import time

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.errors import DibctlError, InstanceError, PortTimeoutError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import naming, readiness, warming
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import process, signals

SHELL_KEEPS = 42
"""Exit code of an interactive shell that asks for the instance to be kept."""
SHELL_GRACE = 5.0
"""Seconds that ssh has to end a shell."""
PRISTINE = "pristine"
"""The snapshot of an instance as it was when it first let us log in."""
OLD_BOOT_PATIENCE = 20.0
"""Seconds that a guest has to tell its boot id before it is thrown away; it may be broken."""
BOOT_POLL = 0.5
"""Seconds between two logins to a guest that has not rebooted yet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuestOperations:
    """Operations on a running instance; each returns when a login is possible again.

    All raise InstanceError, and PortTimeoutError where the guest does not come back. ``timeout`` is in
    seconds, the target's port deadline unless given.
    """

    target_run: TargetRun
    instance: Instance
    access: SshAccess

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<operations of {self.instance.name}>"

    def reboot(self, *, hard: bool = False, timeout: float | None = None) -> float:
        """Reboot the guest and wait until its *next* boot accepts a login; return the seconds it took.

        The kernel's boot id tells the old boot from the new one: a guest that is still shutting down answers
        ssh perfectly well.
        """
        before = self._boot_id()
        started = time.monotonic()
        naming.boot_begins(self.target_run, self.instance)
        self.instance.reboot(hard=hard)
        return self._await_boot(after=before, started=started, timeout=timeout)

    def rebuild(self, *, timeout: float | None = None) -> float:
        """Give the instance the image's root disk again and wait for a login; return the seconds it took.

        The guest need not work.
        """
        before = self._old_boot_id()
        started = time.monotonic()
        naming.boot_begins(self.target_run, self.instance)
        self.instance.rebuild()
        self.access.trust(self.instance.host_keys)
        return self._await_boot(after=before, started=started, timeout=timeout)

    def revert(self, name: str, *, timeout: float | None = None) -> float:
        """Go back to the snapshot of that name and wait for a login; return the seconds it took.

        A guest whose memory came back gets today's time, if its login may set the clock.
        """
        before = None if self.instance.snapshots_memory else self._old_boot_id()
        started = time.monotonic()
        self.instance.revert(name)
        self.access.trust(self.instance.host_keys)
        self._await_boot(after=before, started=started, timeout=timeout)
        if self.instance.snapshots_memory:
            self._set_clock()
        return time.monotonic() - started

    def require_first_boot(self) -> None:
        """Have an instance that was resumed boot from its blank disk, as for the first time."""
        if not warming.is_resumed(self.instance):
            return
        target_run = self.target_run
        target_run.progress("booting the resumed instance, for a test that needs a first boot")
        with target_run.phase("ready"):
            self._rebuild_to_ready()
        warming.note_start(target_run, self.instance)
        self.remember_pristine()

    def remember_pristine(self) -> None:
        """Note that the instance has just become ready, and take the snapshot that tests will ask for.

        No snapshot is taken of an instance that the run does not own, nor where it would hold no memory.
        """
        pristine = self.target_run.guest.pristine
        pristine.untouched, pristine.snapshot = True, False
        owned = self.target_run.options.existing_instance is None
        if not (owned and pristine.wanted and self.instance.snapshots_memory):
            return
        with self.target_run.phase("pristine"):
            self.access.disconnect()  # or the guest would come back with a connection whose other end is gone
            try:
                self.instance.snapshot(PRISTINE)
            except InstanceError as error:
                self.target_run.progress(f"instances will be rebuilt for dib_pristine tests: {error.message}")
            else:
                pristine.snapshot = True

    def restore_pristine(self) -> None:
        """Put the instance back to when it first accepted a login, unless nothing was done to it since.

        From a snapshot where that brings memory back, else by a rebuild.
        """
        target_run, pristine = self.target_run, self.target_run.guest.pristine
        if pristine.untouched:
            return
        with target_run.phase("pristine"):
            if pristine.snapshot:
                self.revert(PRISTINE)
            else:
                self._rebuild_to_ready()
        pristine.untouched = True

    def _rebuild_to_ready(self) -> None:
        """Rebuild the instance, and wait for the port that the image names within the same deadline."""
        left = self.target_run.deadlines.port - self.rebuild()
        readiness.wait_for_configured_port(self.target_run, self.instance, timeout=max(0.0, left))

    def _await_boot(self, *, after: str | None, started: float, timeout: float | None) -> float:
        """Wait for a login to a boot other than ``after`` (None: any); return seconds since ``started``."""
        limit = self.target_run.deadlines.port if timeout is None else timeout
        self.access.disconnect()
        while True:
            left = limit - (time.monotonic() - started)
            if left <= 0:
                raise PortTimeoutError(f"{self.instance.name} did not come back within {limit:g} s")
            try:
                self.access.wait_ready(
                    timeout=left,
                    check=self.instance.check,
                    progress=self.target_run.progress,
                    listening=after is None,
                )
            except (PortTimeoutError, InstanceError) as error:
                raise naming.explained(self.target_run, error, self.instance) from None
            with contextlib.suppress(DibctlError):
                if after is None or self._boot_id() != after:
                    self.target_run.guest.is_well()
                    return time.monotonic() - started
            self.access.disconnect()
            time.sleep(BOOT_POLL)

    def _boot_id(self, *, timeout: float = 60) -> str:
        result = self.access.run("cat /proc/sys/kernel/random/boot_id", timeout=timeout, check=True)
        return result.output.strip()

    def _old_boot_id(self) -> str | None:
        with contextlib.suppress(DibctlError):
            return self._boot_id(timeout=OLD_BOOT_PATIENCE)
        return None

    def _set_clock(self) -> None:
        """Set the clock of a guest that comes from a snapshot."""
        set_it = f"date -u -s @{time.time():.0f}"
        with contextlib.suppress(DibctlError):
            if self.access.run(f"sudo -n {set_it} || {set_it}", timeout=60).returncode == 0:
                return
        self.target_run.progress(
            "the guest's clock still shows the time of its snapshot: this login may not set it"
        )


def open_shell(target_run: TargetRun, access: SshAccess) -> int:
    """Give the terminal to a shell in the instance and return its exit code; 42 keeps the instance."""
    # The terminal is the point here: this one command keeps our session and process group.
    with subprocess.Popen(access.command_line(), env=process.environment()) as shell:
        try:
            with signals.at_once():
                shell.wait()
        finally:
            _end(shell)
    target_run.keep = target_run.keep or shell.returncode == SHELL_KEEPS
    return shell.returncode


def _end(shell: subprocess.Popen[bytes]) -> None:
    """End a shell that is still open; ssh makes the terminal usable again first."""
    if shell.poll() is None:
        shell.terminate()
        try:
            shell.wait(SHELL_GRACE)
        except subprocess.TimeoutExpired:
            shell.kill()
