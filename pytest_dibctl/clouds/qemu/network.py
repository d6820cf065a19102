"""How a guest reaches the world and this machine reaches its ports.

By default QEMU is in a network namespace of its own. Its user-mode network maps 10.0.2.2, broadcasts and
whatever a hostile guest makes up to the loopback of that namespace, where nothing but the guest's own
forwarded ports listens. Connections to other machines leave through slirp4netns. It refuses this machine's
loopback, and routes of the namespace refuse this machine's other addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from pytest_dibctl.clouds.qemu import machine, qmp
from pytest_dibctl.errors import CommandError, InstanceError
from pytest_dibctl.system import bounded_log, process

API: Final = "net.sock"
LOG: Final = "network.log"
RESOLVER: Final = "10.0.2.3"
"""Where slirp4netns answers DNS queries, with the answers of this machine's resolver."""
INNER_IP: Final = "10.0.2.100"
"""QEMU's address in its namespace. The guest cannot name it: the range is also that of its own network."""
READY: Final = 20.0
"""Seconds that slirp4netns may take to configure the namespace; it takes 0.02."""
LOG_LIMIT: Final = 1 << 20
FREE_PORT_TRIES: Final = 20
"""A free port may be taken between the moment it is found and the moment it is used."""
TIMEOUT: Final = 15.0


class Network(Protocol):
    """The forwarded TCP ports of a guest."""

    def published(self) -> dict[int, int]:
        """Return the loopback port of each forwarded guest port; raises InstanceError without an answer."""
        ...

    def publish(self, port: int, host: int = 0) -> None:
        """Forward the loopback port ``host`` (0: a free one) to the guest's ``port``.

        Raises InstanceError when that is not possible.
        """
        ...


class HostNetwork:
    """QEMU in this machine's network: the guest reaches services that listen on loopback."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / machine.CONTROL

    def published(self) -> dict[int, int]:
        """Return QEMU's forwards."""
        return forwards(qmp.monitor(self._control, "info usernet"), machine.LOOPBACK)

    def publish(self, port: int, host: int = 0) -> None:
        """Have QEMU forward the port."""
        _forward(self._control, machine.Forward(guest=port, host=host))


class OwnNetwork:
    """QEMU in a namespace of its own; slirp4netns forwards a loopback port to QEMU, and QEMU to the guest."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / machine.CONTROL
        self._api = directory / API

    def published(self) -> dict[int, int]:
        """Return the forwards that lead through both."""
        inner = self._inner()
        entries = self._call("list_hostfwd").get("entries")
        outer = {
            entry["guest_port"]: entry["host_port"]
            for entry in (entries if isinstance(entries, list) else ())
            if entry["proto"] == "tcp"
        }
        return {port: outer[at] for port, at in inner.items() if at in outer}

    def publish(self, port: int, host: int = 0) -> None:
        """Forward the port through both."""
        if port not in self._inner():
            _forward(self._control, machine.Forward(guest=port, address=INNER_IP))
        at = self._inner()[port]
        for attempt in range(1, FREE_PORT_TRIES + 1):
            rule = {"proto": "tcp", "host_addr": machine.LOOPBACK, "host_port": host or _free_port()}
            try:
                self._call("add_hostfwd", {**rule, "guest_addr": INNER_IP, "guest_port": at})
            except InstanceError as error:
                if host:
                    raise InstanceError(
                        f"could not set up host forwarding rule 'tcp:{machine.LOOPBACK}:{host}-:{port}': "
                        f"{error.message}",
                        hint="another program has a port of this machine that qemu.forward_ports wants: "
                        "leave out host",
                    ) from None
                if attempt == FREE_PORT_TRIES:
                    raise
            else:
                return

    def _inner(self) -> dict[int, int]:
        return forwards(qmp.monitor(self._control, "info usernet"), INNER_IP)

    def _call(self, command: str, arguments: Mapping[str, object] | None = None) -> dict[str, Any]:
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            with qmp.connected(self._api) as connection:
                connection.settimeout(TIMEOUT)
                connection.sendall(json.dumps(request).encode())
                connection.shutdown(socket.SHUT_WR)
                answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        except (OSError, ValueError) as error:
            raise InstanceError(f"slirp4netns does not answer ({command}): {error}") from None
        if "error" in answer:
            raise InstanceError(f"slirp4netns refused {command}: {answer['error'].get('desc')}")
        returned = answer.get("return", answer)  # some versions answer a list without the envelope
        return returned if isinstance(returned, dict) else {}


def of(directory: Path, *, host_loopback: bool) -> Network:
    """Return the network of the instance in ``directory``."""
    return HostNetwork(directory) if host_loopback else OwnNetwork(directory)


def connect(pid: int, directory: Path, *, end: int) -> tuple[subprocess.Popen[str], ...]:
    """Give the new network namespace of process ``pid`` its way out; return the processes that serve it.

    They end by themselves when the last process ends that holds the other end of the pipe ``end``. The caller
    reaps them. Raises InstanceError when the network cannot be made.
    """
    ready, ready_end = os.pipe()
    options = ["--configure", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"]
    descriptors = ["--exit-fd", str(end), "--ready-fd", str(ready_end)]
    helpers: list[subprocess.Popen[str]] = []
    try:
        with (
            bounded_log.writer(directory / LOG, limit=LOG_LIMIT) as (sink, copier),
            os.fdopen(sink, "wb", closefd=False) as log,
        ):
            helpers.append(copier)
            helpers.append(
                process.start(
                    ["slirp4netns", *options, *descriptors, "--api-socket", API, str(pid), "tap0"],
                    cwd=directory,
                    stdout=log,
                    stderr=log,
                    pass_fds=(end, ready_end),
                    env={process.RUN: ""},
                )
            )
        os.close(ready_end)
        ready_end = -1
        _await_ready(ready, directory / LOG)
        _refuse_own_addresses(pid)
    except BaseException:
        for helper in reversed(helpers):
            process.stop(helper, grace=0)
        raise
    finally:
        os.close(ready)
        if ready_end >= 0:
            os.close(ready_end)
    return tuple(helpers)


def _await_ready(descriptor: int, log: Path) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(READY * 1000) and os.read(descriptor, 1) == b"1":
        return
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()[-5:]
    raise InstanceError(
        "slirp4netns gave the guest no network" + "".join(f"\n  {line}" for line in lines),
        hint="it needs /dev/net/tun; qemu.host_loopback: true does without, and lets the guest reach "
        "services of this machine",
    )


def _refuse_own_addresses(pid: int) -> None:
    """Keep the guest from this machine's addresses, at which services that listen on all of them answer."""
    enter = ["nsenter", "--target", str(pid), "--net"]
    if os.geteuid() != 0:
        enter += ["--user", "--preserve-credentials"]
    batch = "".join(f"route add unreachable {prefix}\n" for prefix in own_addresses())
    try:
        process.run([*enter, "--", "ip", "-batch", "-"], stdin=batch, timeout=READY)
    except CommandError as error:
        raise InstanceError(
            f"this machine's addresses cannot be closed to the guest: {error.message}"
        ) from None


def own_addresses() -> tuple[str, ...]:
    """Return the IPv4 addresses, and whole prefixes, that this machine takes for its own; not 127.0.0.0/8.

    Raises CommandError when they cannot be read.
    """
    command = ["ip", "-json", "-4", "route", "show", "table", "local", "type", "local"]
    routes = json.loads(process.run(command, timeout=READY).output or "[]")
    return tuple(dict.fromkeys(str(route["dst"]) for route in routes if not route["dst"].startswith("127.")))


def forwards(usernet: str, address: str) -> dict[int, int]:
    """Return the port at ``address`` of each forwarded guest port, from the output of ``info usernet``."""
    pattern = rf"TCP\[HOST_FORWARD\]\s+\S+\s+{re.escape(address)}\s+(\d+)\s+\S+\s+(\d+)"
    return {int(guest_port): int(host_port) for host_port, guest_port in re.findall(pattern, usernet)}


def _forward(control: Path, forward: machine.Forward) -> None:
    address = forward.address
    output = qmp.monitor(control, f"hostfwd_add net0 {forward.rule()}").strip()
    if forward.guest not in forwards(qmp.monitor(control, "info usernet"), address):
        raise InstanceError(f"port {forward.guest} could not be forwarded: {output or 'no reason given'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((machine.LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
