"""What the cloud contains: users and endpoints first, then flavors, networks and zones, all by API."""

from __future__ import annotations

import base64
import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.openstack.cloud import accounts, config, names
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud.services import CloudError, Supervisor

SERVICE_PROJECT = "service"
SERVICE_USERS = ("cinder", "glance", "neutron", "nova", "placement")

ENDPOINTS = (
    ("keystone", "identity", {names.REGION_TWO: ports.AUTH_URL}),  # RegionOne's is there from the beginning
    (
        "glance",
        "image",
        {
            names.REGION: f"http://127.0.0.1:{ports.PORT_GLANCE}",
            names.REGION_TWO: f"http://127.0.0.1:{ports.PORT_GLANCE_TWO}",
        },
    ),
    ("neutron", "network", {names.REGION: f"http://127.0.0.1:{ports.PORT_NEUTRON}"}),
    ("nova", "compute", {names.REGION: f"http://127.0.0.1:{ports.PORT_NOVA}/v2.1"}),
    ("cinder", "block-storage", {names.REGION: f"http://127.0.0.1:{ports.PORT_CINDER}/v3"}),
    ("placement", "placement", {names.REGION: f"http://127.0.0.1:{ports.PORT_PLACEMENT}"}),
)
"""Service, type, URL by region."""

FIRST_USER = names.User(name="bootstrap", project="admin", roles=("admin",))
"""Whom Keystone's databases are made with; it makes the others, the administrator too."""

HOSTS = {config.HOST_LIVE: names.ZONE_LIVE, config.HOST_FAKE: names.ZONE_FAKE}


def write_fernet_keys(run: Path) -> None:
    """Make Keystone's keys for tokens, receipts, credentials: 0 is the next one, 1 the current one."""
    for name in ("keystone-fernet", "keystone-receipts", "keystone-credential"):
        directory = run / name
        directory.mkdir(mode=0o700)
        for number in ("0", "1"):
            (directory / number).touch(mode=0o600)
            (directory / number).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Fills a new Keystone: projects, users, services, endpoints."""

    first_password: str
    service_password: str

    def fill(self) -> dict[str, Any]:
        """Do it, and return the contents of the first lane's clouds.yaml."""
        own = accounts.Accounts.random(0)
        with accounts.connect(accounts.auth_of(FIRST_USER, self.first_password)) as cloud:
            self._services(cloud)
            self._roles(cloud)
            own.make(cloud)
            accounts.make_users(
                cloud,
                [
                    names.User(name=name, project=SERVICE_PROJECT, roles=("admin", "service"))
                    for name in SERVICE_USERS
                ],
                dict.fromkeys(SERVICE_USERS, self.service_password),
            )
            # Its password is the same in every cloud from the same prepared databases.
            cloud.identity.delete_user(cloud.current_user_id)
        return own.clouds()

    def _services(self, cloud: Any) -> None:
        identity = cloud.identity
        existing = {service.name: service for service in identity.services()}
        for name, kind, urls in ENDPOINTS:
            service = existing.get(name) or identity.create_service(name=name, type=kind)
            for region, url in urls.items():
                if identity.find_region(region) is None:
                    identity.create_region(id=region)
                for interface in ("public", "internal", "admin"):
                    identity.create_endpoint(
                        service_id=service.id, interface=interface, region_id=region, url=url
                    )

    def _roles(self, cloud: Any) -> None:
        existing = {role.name for role in cloud.identity.roles()}
        for name in {names.ROLE_MUTE, "service"} - existing:
            cloud.identity.create_role(name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """Fills Nova and Neutron with what every test finds there."""

    admin: Mapping[str, Any]
    supervisor: Supervisor

    def fill(self) -> None:
        """Make flavors and networks, and the first lane's own."""
        with accounts.connect(self.admin["auth"]) as cloud:
            self._flavors(cloud)
            self._public(cloud, make_network(cloud, names.EXT))
            fill_lane(cloud, 0)

    def make_zones(self) -> None:
        """Put each compute host into its zone, once it has come up, and see both agents alive."""
        with accounts.connect(self.admin["auth"]) as cloud:
            self.supervisor.wait("nova-compute", "both hosts up", lambda: self._hosts_are_up(cloud))
            for host, zone in HOSTS.items():
                aggregate = cloud.compute.create_aggregate(name=zone, availability_zone=zone)
                self._add_host(cloud, aggregate, host)
            self.supervisor.wait("l2-agent", "an agent for each host", lambda: self._agents_are_alive(cloud))

    def _add_host(self, cloud: Any, aggregate: Any, host: str) -> None:
        import openstack.exceptions

        # The scheduler looks for new hosts every two seconds; until then Nova does not know this one.
        deadline = time.monotonic() + 60
        while True:
            try:
                cloud.compute.add_host_to_aggregate(aggregate, host)
            except openstack.exceptions.NotFoundException:
                if time.monotonic() > deadline:
                    raise CloudError(f"Nova has no host {host}") from None
                self.supervisor.check()
                time.sleep(0.2)
            else:
                return

    def _hosts_are_up(self, cloud: Any) -> bool:
        up = {
            service.host for service in cloud.compute.services(binary="nova-compute") if service.state == "up"
        }
        return up == HOSTS.keys()

    def _agents_are_alive(self, cloud: Any) -> bool:
        return {agent.host for agent in cloud.network.agents() if agent.is_alive} == HOSTS.keys()

    def _flavors(self, cloud: Any) -> None:
        for flavor in names.FLAVORS:
            made = cloud.compute.create_flavor(
                name=flavor.name, ram=flavor.ram, vcpus=flavor.vcpus, disk=flavor.disk
            )
            if flavor.extra_specs:
                cloud.compute.create_flavor_extra_specs(made, dict(flavor.extra_specs))

    def _public(self, cloud: Any, inside: Any) -> None:
        public = cloud.network.create_network(
            name=names.PUBLIC, is_router_external=True, provider_network_type="local"
        )
        _make_subnet(cloud, public, names.PUBLIC_SUBNET)
        router = cloud.network.create_router(
            name=names.ROUTER, external_gateway_info={"network_id": public.id}
        )
        subnet = next(cloud.network.subnets(network_id=inside.id))
        cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


def fill_lane(cloud: Any, lane: int) -> None:
    """Make what the projects of a lane have in Nova and Neutron, as an administrator."""
    poor = cloud.identity.find_project(names.in_lane(names.PROJECT_POOR, lane), ignore_missing=False)
    cloud.compute.update_quota_set(poor, instances=0, cores=1, ram=256)
    make_network(cloud, names.inner(lane))


def make_network(cloud: Any, network: names.Network) -> Any:
    """Make a network with its subnets and return it."""
    project = cloud.identity.find_project(network.project or names.ADMIN.project, ignore_missing=False)
    made = cloud.network.create_network(
        name=network.name,
        project_id=project.id,
        is_shared=network.project is None,
        provider_network_type="flat",
        provider_physical_network=network.physical,
    )
    for subnet in network.subnets:
        _make_subnet(cloud, made, subnet)
    return made


def _make_subnet(cloud: Any, network: Any, subnet: names.Subnet) -> None:
    cloud.network.create_subnet(
        network_id=network.id,
        project_id=network.project_id,
        name=subnet.name,
        ip_version=subnet.version,
        cidr=subnet.cidr,
        gateway_ip=subnet.host if subnet.gateway else None,
        is_dhcp_enabled=False,
        allocation_pools=[{"start": subnet.pool[0], "end": subnet.pool[1]}],
    )
