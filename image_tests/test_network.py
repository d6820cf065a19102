"""Every interface that the cloud gave the instance works with the addresses that the cloud meant for it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

CONFIGURING_MAY_TAKE = 60
"""Seconds; IPv6 addresses come with router advertisements, some time after ssh answers."""

Names = dict[str, str]
"""Interface name in the guest by MAC address in lower case."""


@pytest.fixture
def names(host: Host) -> Names:
    """Interfaces that the cloud gave: hardware, and in a container an end of a pair that leads out of it.

    A bond, bridge or VLAN has a MAC too, that of one of its parts, and so is left out.
    """
    return {mac: card.name for mac, card in cards_of(host).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """An interface in the guest; its carrier is ``1`` where it has one, ``unknown`` where it is down."""

    name: str
    carrier: str


# The shell's own `read`: each process costs a guest without KVM some 10 ms. The other end of a pair is in
# another namespace: it has a number here, and no name. For a carrier the kernel answers with an error while
# the interface is down. All is one line, since csh ends a quoted text at the end of its line.
CARDS = """\
cd /sys/class/net && for name in *; do \
    given=; \
    test -e "$name/device" && given=yes; \
    read -r link < "$name/iflink" && read -r index < "$name/ifindex" || continue; \
    if [ "$link" != "$index" ]; then \
        set -- "$name"/lower_*; \
        test -e "$1" || test -L "$1" || given=yes; \
    fi; \
    if [ "$given" ]; then \
        read -r mac < "$name/address"; \
        read -r carrier 2>/dev/null < "$name/carrier" || carrier=unknown; \
        echo "$name $carrier $mac"; \
    fi; \
done"""


def cards_of(host: Host) -> dict[str, Card]:
    """Return the interfaces that the cloud gave, by MAC address in lower case."""
    cards: dict[str, Card] = {}
    for line in host.check_output("sh -c %s", CARDS).splitlines():
        name, carrier, mac = (*line.split(), "", "", "")[:3]
        if mac:  # an interface of a kind that has none, such as a modem's, is not the cloud's
            cards[mac.lower()] = Card(name=name, carrier=carrier)
    return cards


def addresses(host: Host, ip: str) -> dict[str, set[str]]:
    """Return the addresses with prefix length, such as ``192.0.2.7/24``, by interface name."""
    found: dict[str, set[str]] = {}
    for line in host.check_output("%s -o addr show", ip).splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] in ("inet", "inet6"):
            found.setdefault(fields[1].partition("@")[0], set()).add(fields[3])
    return found


def routes(host: Host, ip: str, version: int) -> str:
    return str(host.check_output("%s -%s route show", ip, str(version)))


@pytest.mark.dib_needs("kernel", "modules")
def test_every_interface_is_there(instance: Instance, names: Names) -> None:
    """The guest has a network card for each MAC address that the cloud lists.

    If this fails, the image lacks the driver (virtio_net?) or the card was plugged in too late.
    """
    missing = [f"{nic.mac} ({nic.network})" for nic in instance.interfaces if nic.mac.lower() not in names]
    assert not missing, f"not in the guest: {', '.join(missing)}; the guest has {names}"


def test_every_interface_is_up(instance: Instance, host: Host) -> None:
    """Each interface is up and has a carrier.

    If this fails for the second interface only, the image configures just the first: look at what
    cloud-init wrote (/etc/netplan, /etc/network/interfaces.d, /etc/systemd/network, NetworkManager).
    """
    cards = cards_of(host)
    down = []
    for nic in instance.interfaces:
        card = cards.get(nic.mac.lower(), Card(name=nic.mac, carrier="no such card"))
        if card.carrier != "1":
            why = "unknown, the interface is down" if card.carrier == "unknown" else card.carrier
            down.append(f"{card.name} ({nic.network}): carrier {why}")
    assert not down, "; ".join(down)


def test_every_interface_has_its_addresses(
    instance: Instance,
    host: Host,
    names: Names,
    tool: Callable[..., str],
    settle: Callable[..., None],
) -> None:
    """Each interface has all addresses that the cloud reserved for it, with the right prefix length.

    If this fails with another address, DHCP was asked on the wrong network; with none, nothing configures
    this interface: see ``networkctl``, ``nmcli`` or ``ifquery --state`` and cloud-init's network-config.
    """
    ip = tool("ip")
    wanted = {
        (nic.mac.lower(), f"{address.ip}/{address.prefix}")
        for nic in instance.interfaces
        for address in nic.addresses
    }
    if not wanted:
        pytest.skip(f"the cloud lists no address for {instance.name}")

    def problem() -> str:
        have = {
            (mac, str(ipaddress.ip_interface(address)))
            for mac, name in names.items()
            for address in addresses(host, ip).get(name, ())
        }
        # A leased IPv6 address is a /128 in the guest, for any prefix length of the subnet.
        missing = [
            f"{address} on {names.get(mac, 'a missing card')} ({mac})"
            for mac, address in sorted(wanted - have)
            if ":" not in address or (mac, f"{address.partition('/')[0]}/128") not in have
        ]
        return f"missing: {', '.join(missing)}; the guest has {sorted(have)}" if missing else ""

    settle(problem, CONFIGURING_MAY_TAKE)


def test_default_route_is_there(
    instance: Instance, host: Host, tool: Callable[..., str], settle: Callable[..., None]
) -> None:
    """There is a default route for each IP version for which the cloud names a gateway.

    If this fails, the guest reaches only its own subnet: no packages, no time, no answers to far clients.
    """
    ip = tool("ip")
    versions = {a.version for nic in instance.interfaces for a in nic.addresses if a.gateway}
    if not versions:
        pytest.skip(f"the cloud names no gateway for {instance.name}")

    def problem() -> str:
        without = [v for v in sorted(versions) if "default " not in routes(host, ip, v)]
        return "".join(f"no default route for IPv{v}; routes:\n{routes(host, ip, v)}" for v in without)

    settle(problem, CONFIGURING_MAY_TAKE)


def test_default_route_uses_the_gateway(instance: Instance, host: Host, tool: Callable[..., str]) -> None:
    """The IPv4 default route goes through a gateway that the cloud named.

    If this fails, a static configuration from the build is left in the image, or with several interfaces
    the wrong one wins: compare the metrics in ``ip route``.
    """
    gateways = {
        a.gateway for nic in instance.interfaces for a in nic.addresses if a.gateway and a.version == 4
    }
    if not gateways:
        pytest.skip(f"the cloud names no IPv4 gateway for {instance.name}")
    defaults = [line for line in routes(host, tool("ip"), 4).splitlines() if line.startswith("default ")]
    assert any(gateway in line.split() for line in defaults for gateway in gateways), (
        f"gateways of the cloud: {sorted(gateways)}; default routes of the guest: {defaults or 'none'}"
    )
