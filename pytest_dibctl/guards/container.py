"""The process that holds a container: its root, its network, its power; when it ends, nothing is left.

It is the first process of a pid namespace, in mount and network namespaces of its own, and starts
systemd-nspawn there. The kernel ends it with the run, and with it systemd-nspawn, the container's init, which
would outlive a systemd-nspawn that is killed, and all mounts and interfaces. A socket takes its orders, one
line of JSON for each connection.

``namespace`` starts it, and says what it may import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from pytest_dibctl.errors import ArtifactError, DibctlError, InstanceError
from pytest_dibctl.guards import container_limits, container_machine, namespace
from pytest_dibctl.guards.container_network import ContainerNetwork
from pytest_dibctl.guards.container_root import ContainerRoot
from pytest_dibctl.guards.namespace import MachineProc
from pytest_dibctl.system.waiting import wait_until

SPEC: Final = "container.json"
"""The description of the container, in the instance's directory; it holds secrets."""
KILLED: Final = 10.0
"""Seconds until what was killed has to be gone."""
ORDER: Final = 5.0
"""Seconds in which a connection has to say what it wants."""
LONGEST: Final = 65536
"""Bytes of an order."""
STILL: Final = "TtZX"
"""States of a process that is stopped, or dead."""
IN_KERNEL: Final = 0.5
"""Seconds that the kernel may take for what a process asked of it before it is stopped."""
STARTED: Final = 2.0
"""Seconds that are waited for systemd-nspawn to start the container's init; it takes 0.05."""
REBOOT: Final = 133
"""How systemd-nspawn ends when the container asks for a reboot and the caller is to start it again."""
REBOOT_PAUSE: Final = 0.2
"""Seconds before that, so that an init that only reboots does not keep a processor busy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sockets:
    """Descriptors that the guard inherits: the listening socket for orders, the console's pipe, the log's."""

    control: int
    console: int
    log: int


def command(directory: Path, uuid: str, sockets: Sockets) -> list[str]:
    """Return the argv of the guard of the instance ``uuid``, whose files are in ``directory``."""
    options = [f"--directory={directory}", instance_option(uuid)]
    options += [f"--{field.name}={getattr(sockets, field.name)}" for field in dataclasses.fields(sockets)]
    private = ["--mount", "--pid", "--net", "--fork", "--kill-child=KILL"]
    return namespace.command(__name__, options, namespaces=private)


def instance_option(uuid: str) -> str:
    """Return the argument of a guard that tells it from others."""
    return f"--instance={uuid}"


def main() -> NoReturn:
    """Open the image, say so as one line of JSON, and follow orders until the kernel ends this process."""
    parser = namespace.parser(required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--instance", required=True)
    for field in dataclasses.fields(Sockets):
        parser.add_argument(f"--{field.name}", type=int, required=True)
    options = parser.parse_args()
    answer: dict[str, Any]
    guard = None
    try:
        if namespace.is_missing(options):
            raise ArtifactError("the guard has no mount namespace of its own; nothing was mounted")
        sockets = Sockets(control=options.control, console=options.console, log=options.log)
        # This /proc is still that of the namespace outside, and tells this process's id there.
        pid = int(Path("/proc/self").readlink().name)
        guard = ContainerGuard.opened(options.directory, sockets)
        answer = {"pid": pid, "notes": guard.root.notes}
    except DibctlError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        answer = {"error": f"{error.filename or 'the container'}: {error.strerror}", "hint": None}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if guard is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        guard.follow_orders()
    sys.exit(0)


class ContainerGuard:
    """The container as its guard has it; ``spec`` is what ``SPEC`` says."""

    def __init__(
        self, spec: dict[str, Any], root: ContainerRoot, network: ContainerNetwork, sockets: Sockets
    ) -> None:
        self.spec = spec
        self.root = root
        self._network = network
        self._sockets = sockets
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._state = "off"
        self._code = 0
        self._trouble: str | None = None
        self._boots = 0
        self._restart_at: float | None = None
        self._proc = MachineProc()
        # Processes that exist now belong to the guard; all later ones will be the container's.
        self._residents = set(self._pids())

    @classmethod
    def opened(cls, directory: Path, sockets: Sockets) -> ContainerGuard:
        """Mount the image, with room to write laid over it; raises DibctlError and OSError."""
        spec = json.loads((directory / SPEC).read_text())
        container_machine.prepare()
        root = ContainerRoot.opened(directory, spec)
        return cls(spec, root, ContainerNetwork(spec["mac"]), sockets)

    def follow_orders(self) -> NoReturn:
        """Follow orders, answer the container's DHCP, and note when it ends."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        reader, writer = os.pipe()
        for descriptor in (reader, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer)
        listener = socket.socket(fileno=self._sockets.control)
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ, lambda: self._serve(listener))
            selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 4096))
            registered = None
            while True:
                dhcp = self._network.dhcp
                if dhcp is not registered:
                    if registered is not None:
                        selector.unregister(registered)
                    if dhcp is not None:
                        selector.register(dhcp, selectors.EVENT_READ, self._network.answer)
                    registered = dhcp
                for key, _ in selector.select(REBOOT_PAUSE if self._restart_at else None):
                    key.data()
                self._reap()
                if self._restart_at is not None and time.monotonic() >= self._restart_at:
                    self._start_again()

    # -- orders ------------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(ORDER)
            with connection.makefile("rb") as file:
                order = json.loads(file.readline(LONGEST) or b"{}")
            connection.sendall(json.dumps(self._obey(order)).encode() + b"\n")

    def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        orders: dict[str, Callable[..., None]] = {
            "status": lambda: None,
            "start": self.start,
            "press": self.press,
            "kill": self.kill,
            "rebuild": self.rebuild,
            "snapshot": lambda: self.snapshot(order["name"]),
            "revert": lambda: self.revert(order["name"]),
        }
        try:
            orders[order["execute"]]()
        except DibctlError as error:
            return {"error": error.message, "hint": error.hint}
        except OSError as error:
            return {"error": f"{error.filename or order['execute']}: {error.strerror}", "hint": None}
        except (KeyError, TypeError) as error:
            return {"error": f"not an order: {error}", "hint": None}
        self._reap()
        return {"state": self._state, "code": self._code, "boots": self._boots, "trouble": self._trouble}

    def start(self) -> None:
        """Boot the container; do nothing if it runs."""
        if self._state == "running":
            return
        self._restart_at = None
        self.root.prepare(first=self._boots == 0)
        self._network.connect()
        argv = container_machine.argv(self.spec, self.root.path, systemd=self.root.has_systemd())
        self._nspawn = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._sockets.console,
            stderr=self._sockets.log,
            env=container_machine.environment(),
            preexec_fn=lambda: container_limits.enter(self.spec),  # noqa: PLW1509 -- there is one thread
        )
        self._state, self._code, self._trouble = "running", 0, None
        self._boots += 1
        leader = wait_until(self._leader, timeout=STARTED, poll=0.01)
        if leader is not None:
            self._network.hasten(leader, timeout=STARTED)

    def _start_again(self) -> None:
        """Boot the container as it asked to be; what is in the way of that is told with its state."""
        try:
            self.start()
        except DibctlError as error:
            self._state, self._trouble = "failed", error.message
        except OSError as error:
            self._state, self._trouble = "failed", str(error)
        self._restart_at = None

    def press(self) -> None:
        """Ask the container's init to power off."""
        leader = self._leader()
        if self._state == "running" and leader is not None:
            with contextlib.suppress(OSError):
                os.kill(leader, container_machine.power_signal(leader))

    def kill(self) -> None:
        """End the container at once; raises InstanceError when it does not end."""
        self._restart_at = None
        deadline = time.monotonic() + KILLED
        while strangers := self._strangers():
            if time.monotonic() > deadline:
                raise InstanceError(f"{len(strangers)} processes of the container do not end")
            # The container's init first: systemd-nspawn then ends by itself, in order.
            leader = self._leader()
            for pid in [leader] if leader is not None else strangers:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            self._reap()
        self._reap()
        self._restart_at = None
        self._state, self._code = "off", 0

    def rebuild(self) -> None:
        """Boot anew from the image's files alone."""
        self.kill()
        self.root.renew()
        self._boots = 0
        self.start()

    def snapshot(self, name: str) -> None:
        """Remember the files of a container, which stands still meanwhile."""
        self._halt()
        try:
            self.root.snapshot(name)
        finally:
            for pid in self._strangers():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)

    def revert(self, name: str) -> None:
        """Boot anew from a snapshot's files."""
        self.root.require_snapshot(name)
        self.kill()
        self.root.renew(name)
        self.start()

    # -- processes ---------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Wait for children that have ended: orphans of the container's start, and systemd-nspawn."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._nspawn is not None and pid == self._nspawn.pid:
                self._nspawn.returncode = os.waitstatus_to_exitcode(status)
                self._ended(self._nspawn.returncode)

    def _ended(self, code: int) -> None:
        self._nspawn = None
        self._state, self._code = ("off" if code == 0 else "failed"), code
        if code == REBOOT:
            self._restart_at = time.monotonic() + REBOOT_PAUSE
            self._state, self._code = "rebooting", 0

    def _leader(self) -> int | None:
        """Return the container's init."""
        if self._nspawn is None:
            return None
        for pid in self._pids():
            stat = self._proc.read(f"{pid}/stat").rpartition(")")[2].split()
            if len(stat) > 1 and int(stat[1]) == self._nspawn.pid and self._proc.is_apart(pid):
                return pid
        return None

    def _halt(self) -> None:
        """Stop all processes of the container; raises InstanceError where they go on.

        A process that waits in the kernel stops when the wait is over; a parent in vfork(2) stops only after
        its child.
        """
        started = time.monotonic()
        still = STILL
        while moving := [pid for pid in self._strangers() if self._state_of(pid) not in still]:
            waited = time.monotonic() - started
            if waited > KILLED:
                raise InstanceError(f"{len(moving)} processes of the container do not stand still")
            if waited > IN_KERNEL:
                still = f"{STILL}D"
            for pid in moving:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.002)

    def _state_of(self, pid: int) -> str:
        return self._proc.read(f"{pid}/stat").rpartition(")")[2].strip()[:1] or "X"

    def _strangers(self) -> list[int]:
        """Return the container's processes, systemd-nspawn among them."""
        return [pid for pid in self._pids() if pid not in self._residents]

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
