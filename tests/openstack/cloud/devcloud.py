"""The running cloud as tests see it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.openstack.cloud import layout, names, network

if TYPE_CHECKING:
    import openstack.connection


@dataclasses.dataclass(frozen=True, kw_only=True)
class DevCloud:
    """A cloud that answers, as one of its lanes sees it. Whoever started it stops it."""

    directory: Path
    clouds_yaml: Path
    lane: int = 0
    auth_url: str = layout.AUTH_URL

    region: str = names.REGION
    region_two: str = names.REGION_TWO
    zone_live: str = names.ZONE_LIVE
    zone_fake: str = names.ZONE_FAKE
    flavor_nano: str = names.FLAVOR_NANO.name
    flavor_small: str = names.FLAVOR_SMALL.name
    flavor_huge: str = names.FLAVOR_HUGE.name
    network_ext: str = names.EXT.name
    network_inner: str = names.inner(0).name
    network_public: str = names.PUBLIC
    router: str = names.ROUTER

    @property
    def regions(self) -> tuple[str, str]:
        """Both regions; the second has only Glance and the same Keystone."""
        return self.region, self.region_two

    @property
    def log_directory(self) -> Path:
        """The services' logs."""
        return self.directory / "run" / "log"

    def name_of(self, account: str) -> str:
        """Return what Keystone calls a user, or a project, of this lane: "demo", "demo-1" ..."""
        return names.in_lane(account, self.lane)

    def inner_address(self, version: int, number: str) -> str:
        """Return an address, IPv4 or IPv6, in the network that belongs to demo."""
        [subnet] = [subnet for subnet in names.inner(self.lane).subnets if subnet.version == version]
        return f"{subnet.host.removesuffix('1')}{number}"

    def entry(self, cloud: str) -> dict[str, Any]:
        """Return an entry of clouds.yaml; raises KeyError."""
        clouds: dict[str, dict[str, Any]] = yaml.safe_load(self.clouds_yaml.read_text())["clouds"]
        return clouds[cloud]

    def password(self, user: str) -> str:
        """Return a user's password in this cloud; raises KeyError."""
        return str(self.entry(user)["auth"]["password"])

    def network_id(self, name: str) -> str:
        """Return the id of a network that demo sees, looked up once."""
        return _network_id(self, name)

    def connect(self, cloud: str = "demo", **overrides: Any) -> openstack.connection.Connection:
        """Return a new connection as an entry of clouds.yaml says; the caller closes it."""
        import openstack

        return openstack.connect(
            load_envvars=False,
            load_yaml_config=False,
            **{**self.entry(cloud), **overrides},
        )

    @contextlib.contextmanager
    def connected(self, cloud: str = "demo", **overrides: Any) -> Iterator[openstack.connection.Connection]:
        """Lend a connection as an entry of clouds.yaml says; this process keeps it until ``close_all``.

        Logging in and finding the services takes longer than most of what is asked. A connection is for
        one thread, so others than the first one get a new one each time.
        """
        if threading.current_thread() is not threading.main_thread():
            with contextlib.closing(self.connect(cloud, **overrides)) as new:
                yield new
            return
        key = (self.clouds_yaml, cloud, repr(sorted(overrides.items())))
        if key not in _kept:
            _kept[key] = self.connect(cloud, **overrides)
        yield _kept[key]

    def floating_ip_reaches(self, floating: str, fixed: str) -> contextlib.AbstractContextManager[None]:
        """Play the L3 agent's part: inside the block, ``floating`` on this machine is ``fixed``."""
        return network.translated(floating, fixed)


def close_all() -> None:
    """Close the connections that this process has kept."""
    while _kept:
        _kept.popitem()[1].close()


_kept: dict[tuple[Path, str, str], openstack.connection.Connection] = {}


@functools.cache
def _network_id(cloud: DevCloud, name: str) -> str:
    with cloud.connected("demo") as connection:
        return str(connection.network.find_network(name, ignore_missing=False).id)
