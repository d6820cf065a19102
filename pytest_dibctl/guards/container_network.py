"""A container's network: a pair of interfaces, routed to slirp4netns, and an answer to DHCP.

The guard's namespace stands between the container and slirp4netns. The container cannot reach addresses that
these routes refuse, by no content of its packets.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final

from pytest_dibctl.guards import dhcp, namespace
from pytest_dibctl.system import process, user_network
from pytest_dibctl.system.waiting import wait_until

DEVICE: Final = "eth0"
"""The container's interface."""
NEAR: Final = "gw0"
"""The guard's end of it."""
FAR: Final = "tap0"
"""The interface that slirp4netns serves."""
LONGEST: Final = 1500
"""Bytes of a packet."""


class ContainerNetwork:
    """The network of one container, whose interface has the address ``mac``."""

    def __init__(self, mac: str) -> None:
        self._mac = mac
        self._lease = dhcp.Lease(
            address=ipaddress.IPv4Address(user_network.GUEST),
            network=ipaddress.IPv4Network(user_network.NETWORK),
            router=ipaddress.IPv4Address(user_network.GATEWAY),
            resolver=ipaddress.IPv4Address(user_network.RESOLVER),
        )
        self.dhcp: socket.socket | None = None
        """Where the container's requests arrive, while there is a pair of interfaces."""

    def connect(self) -> None:
        """Make the pair of interfaces; an earlier one goes. Raises CommandError and OSError."""
        self._disconnect()
        batch = (
            f"link add {NEAR} type veth peer name {DEVICE} address {self._mac}\n"
            f"link set {NEAR} up\n"
            f"route add {user_network.GUEST}/32 dev {NEAR}\n"
        )
        process.run(["ip", "-batch", "-"], stdin=batch, timeout=30)
        settings = Path("/proc/sys/net/ipv4")
        (settings / "ip_forward").write_text("1")
        # Either side believes the other to be on its own wire, as a QEMU guest and its gateway are.
        for device in (NEAR, FAR):
            (settings / "conf" / device / "proxy_arp").write_text("1")
        (settings / "conf" / NEAR / "rp_filter").write_text("1")
        self.dhcp = dhcp.listening(NEAR)

    def hasten(self, leader: int, *, timeout: float) -> None:
        """Let the container use an IPv6 address of its wire at once; it is alone there.

        Otherwise a systemd waits two seconds for that. ``leader`` is the container's init, which may be about
        to start; without success within ``timeout`` seconds the container waits.
        """
        interfaces = Path(f"/proc/{leader}/net/dev")

        def has_device() -> bool:
            with contextlib.suppress(OSError):
                return f"{DEVICE}:" in interfaces.read_text()
            return True

        wait_until(has_device, timeout=timeout, poll=0.01)
        helper = os.fork()
        if helper == 0:
            # os._exit: nothing of the guard's is to be flushed or removed by this copy of it.
            try:
                namespace.rejoin(os.open(f"/proc/{leader}/ns/net", os.O_RDONLY), namespace.NEW_NETWORK)
                for device in ("default", DEVICE):
                    Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
            finally:
                os._exit(0)
        os.waitpid(helper, 0)

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
