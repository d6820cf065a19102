"""How a guest reaches the world and this machine reaches its ports.

By default QEMU is in a network namespace of its own. Its user-mode network maps 10.0.2.2, broadcasts and any
address of a hostile guest to the loopback of that namespace, where only the guest's own forwarded ports
listen. Connections to other machines leave through slirp4netns. It refuses this machine's loopback, and
routes of the namespace refuse this machine's other addresses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Protocol

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.qemu import machine, qmp
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.system import user_network

INNER_IP: Final = "10.0.2.100"
"""QEMU's address in its namespace. The guest cannot name it: the range is also that of its own network."""


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
        return forwards(qmp.monitor(self._control, "info usernet"), user_network.LOOPBACK)

    def publish(self, port: int, host: int = 0) -> None:
        """Have QEMU forward the port."""
        _forward(self._control, machine.Forward(guest=port, host=host))


class OwnNetwork:
    """QEMU in a namespace of its own; slirp4netns forwards a loopback port to QEMU, and QEMU to the guest."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / machine.CONTROL
        self._api = directory / slirp.API

    def published(self) -> dict[int, int]:
        """Return the forwards that lead through both."""
        inner = self._inner()
        outer = slirp.forwards(self._api)
        return {port: outer[at] for port, at in inner.items() if at in outer}

    def publish(self, port: int, host: int = 0) -> None:
        """Forward the port through both."""
        if port not in self._inner():
            _forward(self._control, machine.Forward(guest=port, address=INNER_IP))
        slirp.forward(self._api, self._inner()[port], address=INNER_IP, host=host, section="qemu", named=port)

    def _inner(self) -> dict[int, int]:
        return forwards(qmp.monitor(self._control, "info usernet"), INNER_IP)


def of(directory: Path, *, host_loopback: bool) -> Network:
    """Return the network of the instance in ``directory``."""
    return HostNetwork(directory) if host_loopback else OwnNetwork(directory)


def forwards(usernet: str, address: str) -> dict[int, int]:
    """Return the port at ``address`` of each forwarded guest port, from the output of ``info usernet``."""
    pattern = rf"TCP\[HOST_FORWARD\]\s+\S+\s+{re.escape(address)}\s+(\d+)\s+\S+\s+(\d+)"
    return {int(guest_port): int(host_port) for host_port, guest_port in re.findall(pattern, usernet)}


def _forward(control: Path, forward: machine.Forward) -> None:
    address = forward.address
    output = qmp.monitor(control, f"hostfwd_add net0 {forward.rule()}").strip()
    if forward.guest not in forwards(qmp.monitor(control, "info usernet"), address):
        raise InstanceError(f"port {forward.guest} could not be forwarded: {output or 'no reason given'}")
