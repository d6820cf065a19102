"""What the cloud contains, by name: regions, zones, users, flavors, networks. Tests refer to these."""

from __future__ import annotations

import dataclasses

LANES = 4
"""How many test processes can work beside each other, each with users, projects and a network of its own.

One more than ``tox -e openstack`` starts: the test of lanes looks from one into another.
"""

REGION = "RegionOne"
REGION_TWO = "RegionTwo"
"""A second Glance, with the same Keystone; nothing else."""

ZONE_LIVE = "live"
"""Guests that really run, in QEMU. The zone of servers that name none."""
ZONE_FAKE = "fake"
"""Servers that are ACTIVE at once and exist only in Nova's records."""

STORE, STORE_SMALL = "file", "small"
"""Of each Glance; the second one is full after STORE_SIZE."""
STORE_SIZE = "4m"

ROLE_MUTE = "mute"
"""Nova's policy denies this role the console output."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class User:
    """A user, the project it works in, and its roles there."""

    name: str
    project: str
    roles: tuple[str, ...]


ADMIN = User(name="admin", project="admin", roles=("admin",))
USERS = (
    User(name="demo", project="demo", roles=("member",)),
    User(name="demo-reader", project="demo", roles=("reader",)),
    User(name="demo-mute", project="demo", roles=("member", ROLE_MUTE)),
    User(name="other", project="other", roles=("member",)),
    User(name="poor", project="poor", roles=("member",)),
)
PROJECT_POOR = "poor"
"""The project that may have no server at all."""


def in_lane(name: str, lane: int) -> str:
    """Return what a user, a project or a physical network is called in a lane; in the first, as it is."""
    return f"{name}-{lane}" if lane else name


def users(lane: int) -> tuple[User, ...]:
    """Return a lane's administrator and its users, as they are called in Keystone."""
    return tuple(
        User(name=in_lane(user.name, lane), project=in_lane(user.project, lane), roles=user.roles)
        for user in (ADMIN, *USERS)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavor:
    """A flavor: memory in MiB, disk in GiB."""

    name: str
    ram: int
    disk: int
    vcpus: int = 1
    extra_specs: tuple[tuple[str, str], ...] = ()


FLAVOR_NANO = Flavor(name="m1.nano", ram=128, disk=1, extra_specs=(("hw_rng:allowed", "True"),))
FLAVOR_SMALL = Flavor(name="m1.small", ram=1024, disk=5)
FLAVOR_HUGE = Flavor(name="m1.huge", ram=8 * 1024 * 1024, disk=1)
"""No host has so much memory, the fake one included."""
FLAVORS = (FLAVOR_NANO, FLAVOR_SMALL, FLAVOR_HUGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subnet:
    """A subnet without DHCP. ``host`` is this machine's address in it, and the gateway where there is one."""

    name: str
    cidr: str
    host: str
    pool: tuple[str, str]
    gateway: bool

    @property
    def host_with_prefix(self) -> str:
        """This machine's address as ``ip addr add`` wants it."""
        return f"{self.host}/{self.cidr.partition('/')[2]}"

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A flat network on a veth pair: ``host_link`` is this machine's end, guests sit on ``cloud_link``.

    The administrator's, for everybody to use, or the network of ``project``. Only members of the project
    that owns it may choose their address in it. ``physical`` is Neutron's name of the veth pair.
    """

    name: str
    physical: str
    subnets: tuple[Subnet, ...]
    project: str | None = None

    @property
    def host_link(self) -> str:
        """The interface that has this machine's addresses."""
        return f"dc-{self.physical}-h"

    @property
    def cloud_link(self) -> str:
        """The interface that guests' macvtap devices are made on."""
        return f"dc-{self.physical}-c"


EXT = Network(
    name="ext",
    physical="ext",
    subnets=(
        Subnet(
            name="ext4",
            cidr="192.168.222.0/24",
            host="192.168.222.1",
            pool=("192.168.222.10", "192.168.222.250"),
            gateway=True,
        ),
    ),
)


def inner(lane: int) -> Network:
    """Return the network that belongs to a lane's demo."""
    number = 223 + lane
    v4, v6 = f"192.168.{number}.", f"fd00:{number}::"
    return Network(
        name="inner",
        physical=in_lane("inner", lane),
        project=in_lane("demo", lane),
        subnets=(
            Subnet(
                name="inner4",
                cidr=f"{v4}0/24",
                host=f"{v4}1",
                pool=(f"{v4}10", f"{v4}250"),
                gateway=False,
            ),
            Subnet(
                name="inner6",
                cidr=f"{v6}/64",
                host=f"{v6}1",
                pool=(f"{v6}10", f"{v6}ffff"),
                gateway=False,
            ),
        ),
    )


NETWORKS = (EXT, *(inner(lane) for lane in range(LANES)))

PUBLIC = "public"
"""The external network that floating IPs are taken from."""
PUBLIC_SUBNET = Subnet(
    name="public4",
    cidr="198.51.100.0/24",
    host="198.51.100.1",
    pool=("198.51.100.10", "198.51.100.250"),
    gateway=True,
)
ROUTER = "ext-public"

APPLICATION_CREDENTIAL = "demo-app"
"""An application credential of demo, and the entry in clouds.yaml that uses it."""
