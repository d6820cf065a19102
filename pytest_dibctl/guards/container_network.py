"""A container's network: a pair of interfaces, routed to slirp4netns, and an answer to DHCP.

The guard's namespace stands between the container and slirp4netns. What its routes refuse, the container
cannot reach, whatever it writes into its packets.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from pathlib import Path
from typing import Final

from pytest_dibctl.guards import dhcp
from pytest_dibctl.system import process

DEVICE: Final = "eth0"
"""The container's interface."""
NEAR: Final = "gw0"
"""The guard's end of it."""
FAR: Final = "tap0"
"""The interface that slirp4netns serves."""
NETWORK, GUEST, GATEWAY, RESOLVER = "10.0.2.0/24", "10.0.2.15", "10.0.2.2", "10.0.2.3"
"""As in a QEMU guest's network."""
LONGEST: Final = 1500
"""Bytes of a packet."""


class ContainerNetwork:
    """The network of one container, whose interface has the address ``mac``."""

    def __init__(self, mac: str) -> None:
        self._mac = mac
        self._lease = dhcp.Lease(
            address=ipaddress.IPv4Address(GUEST),
            network=ipaddress.IPv4Network(NETWORK),
            router=ipaddress.IPv4Address(GATEWAY),
            resolver=ipaddress.IPv4Address(RESOLVER),
        )
        self.dhcp: socket.socket | None = None
        """Where the container's requests arrive, while there is a pair of interfaces."""

    def connect(self) -> None:
        """Make the pair of interfaces; an earlier one goes. Raises CommandError and OSError."""
        self._disconnect()
        batch = (
            f"link add {NEAR} type veth peer name {DEVICE} address {self._mac}\n"
            f"link set {NEAR} up\n"
            f"route add {GUEST}/32 dev {NEAR}\n"
        )
        process.run(["ip", "-batch", "-"], stdin=batch, timeout=30)
        settings = Path("/proc/sys/net/ipv4")
        (settings / "ip_forward").write_text("1")
        # Either side believes the other to be on its own wire, as a QEMU guest and its gateway are.
        for device in (NEAR, FAR):
            (settings / "conf" / device / "proxy_arp").write_text("1")
        (settings / "conf" / NEAR / "rp_filter").write_text("1")
        self.dhcp = dhcp.listening(NEAR)

    def answer(self) -> None:
        """Answer one request of the container; what is none is dropped."""
        if self.dhcp is None:
            return
        with contextlib.suppress(OSError):
            reply = dhcp.reply(self.dhcp.recv(LONGEST), self._lease)
            if reply is not None:
                self.dhcp.sendto(reply, ("255.255.255.255", dhcp.CLIENT_PORT))

    def _disconnect(self) -> None:
        if self.dhcp is not None:
            self.dhcp.close()
            self.dhcp = None
        process.run(["ip", "link", "del", NEAR], check=False, timeout=30)
