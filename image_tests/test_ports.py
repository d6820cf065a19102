"""The guest listens on the expected ports, and on no others.

What is expected stands in EXPECTED_PORTS in ``environment_variables`` of the image or the environment, for
example ``22 80 443/tcp 123/udp``; by default it is the port that ssh is used on. Listeners on loopback do not
count, nor do DHCP clients (68/udp and 546/udp).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

pytestmark = pytest.mark.usefixtures("instance")

DHCP_CLIENTS = frozenset({("udp", 68), ("udp", 546)})

STRANGERS_MAY_STAY = 30
"""Seconds after which an unexpected socket is no passing question to a name server."""

START_MAY_TAKE = 120
"""Seconds until a service that is expected listens."""

STATES = {"tcp": "0A", "udp": "07"}
"""What /proc/net calls a socket that waits for anybody: LISTEN, and an unconnected UDP socket."""

SOCKET = re.compile(
    r"^/proc/net/(tcp|udp)6?: *\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) ",
    re.MULTILINE,
)
"""A line of these files behind its file's name: kind, local address and port, state."""

Sockets = set[tuple[str, int]]


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address in a line of /proc/net: 32-bit words, each in the guest's byte order."""
    raw = bytes.fromhex(text)
    # All guests this project boots are little-endian, and so are the machines that run it.
    packed = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def listening(host: Host) -> Sockets:
    """Read /proc/net, which every Linux has; ss, netstat and root may all be missing."""
    found: Sockets = set()
    files = " ".join(f"/proc/net/{kind} /proc/net/{kind}6" for kind in STATES)
    # The name of its file precedes each line. One of them is the connection that this command came by.
    read = host.run(f"grep : {files}")
    sockets = SOCKET.findall(read.stdout)
    assert sockets, f"the guest's sockets cannot be read: {read.stderr.strip() or read.stdout.strip()}"
    for kind, where, port, state in sockets:
        if state == STATES[kind] and not address(where).is_loopback:
            found.add((kind, int(port, 16)))
    return found


@pytest.fixture
def expected(host: Host, variable: Callable[..., str]) -> Sockets:
    """What EXPECTED_PORTS says, else the port that sshd was reached on, as the guest sees it."""
    text = str(variable("EXPECTED_PORTS")).replace(",", " ")
    if not text:
        connection = host.check_output("echo $SSH_CONNECTION").split()
        if len(connection) != 4:
            pytest.skip(
                "the guest does not say which port ssh uses: set EXPECTED_PORTS in environment_variables"
            )
        text = connection[3]
    pairs = [word.partition("/") for word in text.split()]
    for port, _, kind in pairs:
        if not port.isdecimal() or kind not in ("", *STATES):
            pytest.fail(
                f"EXPECTED_PORTS is {text!r}; write numbers, such as 22 443/tcp 123/udp", pytrace=False
            )
    return {(kind or "tcp", int(port)) for port, _, kind in pairs}


def listed(sockets: Sockets) -> str:
    return ", ".join(f"{port}/{kind}" for kind, port in sorted(sockets)) or "nothing"


@pytest.fixture
def no_strangers(host: Host, expected: Sockets, settle: Callable[..., None]) -> Callable[[str], None]:
    """Fail when unexpected sockets of a kind stay open, and name their owners where possible."""

    def check(kind: str) -> None:
        __tracebackhide__ = True
        settle(lambda: problem(kind), STRANGERS_MAY_STAY)

    def problem(kind: str) -> str:
        strangers = {found for found in listening(host) - expected - DHCP_CLIENTS if found[0] == kind}
        if not strangers:
            return ""
        who = host.run("sudo -n ss -lntup 2>/dev/null || ss -lntu 2>/dev/null || netstat -lntu 2>&1").stdout
        return (
            f"nobody expects {listed(strangers)}; expected: {listed(expected)}; sockets of the guest:\n{who}"
        )

    return check


def test_only_expected_tcp_ports_listen(no_strangers: Callable[[str], None]) -> None:
    """No other TCP port is open to the network.

    If this fails, remove or disable the service, bind it to loopback, or add its port to EXPECTED_PORTS.
    """
    no_strangers("tcp")


def test_only_expected_udp_ports_listen(no_strangers: Callable[[str], None]) -> None:
    """No other UDP port is open to the network; sockets that exist for a moment are forgiven.

    If this fails, remove or disable the service, bind it to loopback, or add its port to EXPECTED_PORTS.
    """
    no_strangers("udp")


def test_expected_ports_listen(
    instance: Instance, host: Host, expected: Sockets, settle: Callable[..., None]
) -> None:
    """Each expected port is really open.

    If this fails, the service is not installed, not enabled, or listens on loopback only.
    """

    def problem() -> str:
        missing = expected - listening(host)
        return f"{instance.name} does not listen on {listed(missing)}" if missing else ""

    settle(problem, START_MAY_TAKE)
