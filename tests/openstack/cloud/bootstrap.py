"""What the cloud contains: users and endpoints first, then flavors, networks and zones, all by API."""

from __future__ import annotations

import base64
import dataclasses
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.openstack.cloud import config, names
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
    passwords: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {user.name: secrets.token_urlsafe(16) for user in (names.ADMIN, *names.USERS)}
    )

    def fill(self) -> dict[str, Any]:
        """Do it, and return the contents of clouds.yaml."""
        with _connect(self._auth(FIRST_USER, self.first_password)) as cloud:
            self._services(cloud)
            self._users(cloud)
            # Its password is the same in every cloud from the same prepared databases.
            cloud.identity.delete_user(cloud.current_user_id)
        return self._clouds()

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

    def _users(self, cloud: Any) -> None:
        roles = {role.name: role for role in cloud.identity.roles()}
        for name in {names.ROLE_MUTE, "service"} - roles.keys():
            roles[name] = cloud.identity.create_role(name=name)
        services = [
            names.User(name=name, project=SERVICE_PROJECT, roles=("admin", "service"))
            for name in SERVICE_USERS
        ]
        projects = {project.name: project for project in cloud.identity.projects()}
        for user in (names.ADMIN, *names.USERS, *services):
            if user.project not in projects:
                projects[user.project] = cloud.identity.create_project(name=user.project, domain_id="default")
            created = cloud.identity.create_user(
                name=user.name,
                password=self.passwords.get(user.name, self.service_password),
                domain_id="default",
                default_project_id=projects[user.project].id,
            )
            for role in user.roles:
                cloud.identity.assign_project_role_to_user(projects[user.project], created, roles[role])

    def _clouds(self) -> dict[str, Any]:
        clouds = {user.name: self._entry(user) for user in (names.ADMIN, *names.USERS)}
        demo = next(user for user in names.USERS if user.name == "demo")
        clouds["admin-two"] = self._entry(names.ADMIN, names.REGION_TWO)
        clouds["demo-two"] = self._entry(demo, names.REGION_TWO)
        clouds[names.APPLICATION_CREDENTIAL] = self._application_credential(demo)
        return {"clouds": clouds}

    def _application_credential(self, user: names.User) -> dict[str, Any]:
        with _connect(self._auth(user)) as cloud:
            made = cloud.identity.create_application_credential(
                cloud.current_user_id, names.APPLICATION_CREDENTIAL
            )
        auth = {
            "auth_url": ports.AUTH_URL,
            "application_credential_id": made.id,
            "application_credential_secret": made.secret,
        }
        return {**self._entry(user), "auth_type": "v3applicationcredential", "auth": auth}

    def _entry(self, user: names.User, region: str = names.REGION) -> dict[str, Any]:
        return {"auth": self._auth(user), "region_name": region, "identity_api_version": 3}

    def _auth(self, user: names.User, password: str | None = None) -> dict[str, str]:
        return {
            "auth_url": ports.AUTH_URL,
            "username": user.name,
            "password": password or self.passwords[user.name],
            "project_name": user.project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        }


def write_clouds(path: Path, clouds: Mapping[str, Any]) -> None:
    """Write clouds.yaml, readable by its owner only."""
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(dict(clouds), sort_keys=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """Fills Nova and Neutron with what every test finds there."""

    admin: Mapping[str, Any]
    supervisor: Supervisor

    def fill(self) -> None:
        """Make quotas, flavors and networks."""
        with _connect(self.admin["auth"]) as cloud:
            self._flavors(cloud)
            self._quotas(cloud)
            networks = {network.name: self._network(cloud, network) for network in names.NETWORKS}
            self._public(cloud, networks[names.EXT.name])

    def make_zones(self) -> None:
        """Put each compute host into its zone, once it has come up, and see both agents alive."""
        with _connect(self.admin["auth"]) as cloud:
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

    def _quotas(self, cloud: Any) -> None:
        poor = cloud.identity.find_project(names.PROJECT_POOR, ignore_missing=False)
        cloud.compute.update_quota_set(poor, instances=0, cores=1, ram=256)

    def _network(self, cloud: Any, network: names.Network) -> Any:
        project = cloud.identity.find_project(network.project or names.ADMIN.project, ignore_missing=False)
        made = cloud.network.create_network(
            name=network.name,
            project_id=project.id,
            is_shared=network.project is None,
            provider_network_type="flat",
            provider_physical_network=network.name,
        )
        for subnet in network.subnets:
            self._subnet(cloud, made, subnet)
        return made

    def _subnet(self, cloud: Any, network: Any, subnet: names.Subnet) -> None:
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

    def _public(self, cloud: Any, inside: Any) -> None:
        public = cloud.network.create_network(
            name=names.PUBLIC, is_router_external=True, provider_network_type="local"
        )
        self._subnet(cloud, public, names.PUBLIC_SUBNET)
        router = cloud.network.create_router(
            name=names.ROUTER, external_gateway_info={"network_id": public.id}
        )
        subnet = next(cloud.network.subnets(network_id=inside.id))
        cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


def _connect(auth: Mapping[str, str]) -> Any:
    import openstack

    return openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        auth=dict(auth),
        region_name=names.REGION,
        identity_api_version="3",
    )
