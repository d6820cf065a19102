"""The links between this machine and the guests, and what an L3 agent would do for floating IPs."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.system import process
from tests.openstack.cloud import names

SYSFS = Path("/sys/class/net")


def create(owner: Path) -> None:
    """Make the veth pairs and give this machine its addresses; ``owner`` is noted on the links.

    Raises CommandError when a link is there already.
    """
    for network in names.NETWORKS:
        host, cloud = network.host_link, network.cloud_link
        _ip("link", "add", host, "type", "veth", "peer", "name", cloud)
        _ip("link", "set", host, "alias", str(owner))
        for subnet in network.subnets:
            # Without duplicate address detection an IPv6 address can be used at once.
            options = ["nodad"] if subnet.version == 6 else []
            _ip("addr", "add", subnet.host_with_prefix, "dev", host, *options)
        for link in (host, cloud):
            _ip("link", "set", link, "up")
    # Floating IPs need a route for a packet to be made at all; translation then sends it elsewhere.
    _ip("addr", "add", names.PUBLIC_SUBNET.host_with_prefix, "dev", names.EXT.host_link)


def remove() -> None:
    """Remove the links that are there; what guests have on them goes too."""
    for link in present():
        # A cloud that stops at the same moment may have done it.
        process.run(["ip", "link", "delete", link], check=False)


def present() -> tuple[str, ...]:
    """Return the host ends that exist."""
    return tuple(network.host_link for network in names.NETWORKS if (SYSFS / network.host_link).exists())


def owner() -> Path | None:
    """Return which directory's cloud made the links that exist, None when there are none."""
    for link in present():
        if alias := (SYSFS / link / "ifalias").read_text().strip():
            return Path(alias)
    return None


@contextlib.contextmanager
def translated(floating: str, fixed: str) -> Iterator[None]:
    """Let this machine reach the address ``fixed`` as ``floating`` too, inside the block.

    Only what this machine itself sends is translated. Raises CommandError where nftables cannot.
    """
    target = ipaddress.IPv4Address(fixed)
    table = f"dibctl_floating_{int(ipaddress.IPv4Address(floating)):08x}"
    rules = (
        f"table ip {table} {{\n"
        "  chain output {\n"
        "    type nat hook output priority -100\n"
        f"    ip daddr {floating} dnat to {target}\n"
        "  }\n"
        "}\n"
    )
    process.run(["nft", "--file", "-"], stdin=rules)
    try:
        yield
    finally:
        process.run(["nft", "delete", "table", "ip", table])


def _ip(*arguments: str) -> None:
    process.run(["ip", *arguments])
