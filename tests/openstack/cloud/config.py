"""The services' configuration files, rendered from what is the same for all and what is each one's own."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.openstack.cloud import layout as ports
from tests.openstack.cloud import names
from tests.openstack.cloud.layout import Layout

Sections = Mapping[str, Mapping[str, object]]
"""An ini file: options by section."""

HOST_LIVE = "live"
HOST_FAKE = "fake"
"""Nova's names of the two compute services' hosts, after their zones."""

DATABASE_GROUPS = ("database", "api_database")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Secrets:
    """Passwords of one cloud, not those of its users."""

    service: str
    rabbit: str
    metadata: str

    @classmethod
    def random(cls) -> Secrets:
        """Make new ones."""
        return cls(**{field.name: secrets.token_urlsafe(16) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Writes all configuration files of the cloud in ``layout``, for the services of ``venv``."""

    layout: Layout
    venv: Path
    secrets: Secrets

    def write_all(self) -> None:
        """Write every file, with the directories that the services expect."""
        self._directories()
        self._ini("keystone/keystone.conf", self._keystone())
        self._ini("placement/placement.conf", self._placement())
        self._ini("glance/glance-api.conf", self._glance("glance", ports.PORT_GLANCE))
        self._ini("glance-two/glance-api.conf", self._glance("glance-two", ports.PORT_GLANCE_TWO))
        nova = self._nova()
        self._ini("nova/nova.conf", nova)
        # A compute service refuses to start when it could see a database.
        compute = {name: options for name, options in nova.items() if name not in DATABASE_GROUPS}
        self._ini("nova/compute-live.conf", _merged(compute, self._compute_live()))
        self._ini("nova/compute-fake.conf", _merged(compute, self._compute_fake()))
        self._ini("neutron/neutron.conf", self._neutron())
        self._ini("cinder/cinder.conf", self._cinder())
        self._file("nova/policy.yaml", json.dumps(POLICY_NOVA))
        self._file("rabbitmq/rabbitmq.conf", self._rabbit())
        for target, source in PASTE_FILES.items():
            shutil.copyfile(self.venv / "etc" / source, self.layout.etc / target)

    def _directories(self) -> None:
        for name in (
            "keystone",
            "placement",
            "glance",
            "glance-two",
            "nova",
            "neutron",
            "cinder",
            "rabbitmq",
        ):
            (self.layout.etc / name).mkdir(parents=True, exist_ok=True)
        for name in (
            "log",
            "lock",
            "tmp",
            "rabbitmq",
            "neutron",
            "cinder/volumes",
            "nova-live/instances",
            "nova-fake/instances",
            "users",
        ):
            (self.layout.run / name).mkdir(parents=True, exist_ok=True)
        for glance in ("glance", "glance-two"):
            for name in ("images", "staging", "tasks", "cache"):
                (self.layout.run / glance / name).mkdir(parents=True, exist_ok=True)

    def _file(self, name: str, text: str) -> None:
        path = self.layout.etc / name
        path.write_text(text)
        path.chmod(0o600)

    def _ini(self, name: str, sections: Sections) -> None:
        self._file(name, render(sections))

    # What several services share.

    def database_url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"mysql+pymysql://root@localhost/{database}?unix_socket={self.layout.database_socket}&charset=utf8mb4"

    @property
    def _transport_url(self) -> str:
        return f"rabbit://openstack:{self.secrets.rabbit}@127.0.0.1:{ports.PORT_RABBIT}/"

    def _database(self, database: str) -> dict[str, object]:
        return {
            "connection": self.database_url(database),
            "max_pool_size": 5,
            "max_retries": 30,
            "retry_interval": 1,
        }

    def _credentials(self, user: str) -> dict[str, object]:
        return {
            "auth_url": ports.AUTH_URL,
            "auth_type": "password",
            "username": user,
            "password": self.secrets.service,
            "project_name": "service",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    def _client(self, user: str, region: str = names.REGION) -> dict[str, object]:
        return {**self._credentials(user), "region_name": region}

    def _common(self, user: str) -> dict[str, Mapping[str, object]]:
        return {
            "keystone_authtoken": {
                **self._credentials(user),
                "www_authenticate_uri": ports.AUTH_URL,
                # A token that was revoked is refused as soon as that.
                "token_cache_time": 2,
                "service_token_roles": "service",
                "service_token_roles_required": True,
            },
            "oslo_concurrency": {"lock_path": self.layout.run / "lock"},
            "oslo_messaging_notifications": {"driver": "noop"},
            "oslo_messaging_rabbit": {"rabbit_retry_interval": 1, "rabbit_retry_backoff": 0},
        }

    def _privsep(self, config: str) -> dict[str, object]:
        # Without sudo: the services are root.
        helper = self.venv / "bin" / "privsep-helper"
        return {"helper_command": f"{helper} --config-file {self.layout.etc / config}"}

    # One service each.

    def _keystone(self) -> Sections:
        run = self.layout.run
        return {
            "DEFAULT": {"log_file": self.layout.log / "keystone.log"},
            "database": self._database("keystone"),
            "token": {"provider": "fernet", "expiration": 86400},
            "fernet_tokens": {"key_repository": run / "keystone-fernet"},
            # Bootstrapping makes keys for receipts as well, by default in a folder under /etc.
            "fernet_receipts": {"key_repository": run / "keystone-receipts"},
            "credential": {"key_repository": run / "keystone-credential"},
            # As few rounds as it allows: logging in is on the way of everything.
            "identity": {"password_hash_rounds": 4},
            "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
            "oslo_messaging_notifications": {"driver": "noop"},
        }

    def _placement(self) -> Sections:
        return {
            "DEFAULT": {"log_file": self.layout.log / "placement.log"},
            "api": {"auth_strategy": "keystone"},
            "placement_database": {"connection": self.database_url("placement"), "max_pool_size": 5},
            **self._common("placement"),
        }

    def _glance(self, name: str, port: int) -> Sections:
        files = self.layout.run / name
        return {
            "DEFAULT": {
                "log_file": self.layout.log / f"{name}.log",
                "transport_url": self._transport_url,
                "enabled_backends": f"{names.STORE}:file,{names.STORE_SMALL}:file",
                "enabled_import_methods": "[glance-direct,web-download,copy-image,glance-download]",
                "worker_self_reference_url": f"http://127.0.0.1:{port}",
                "image_cache_dir": files / "cache",
            },
            "paste_deploy": {"flavor": "keystone"},
            "database": self._database(name.replace("-", "_")),
            "glance_store": {"default_backend": names.STORE},
            names.STORE: {"filesystem_store_datadir": files / "images"},
            names.STORE_SMALL: {"filesystem_store_datadir": files / names.STORE_SMALL},
            # Else nothing on loopback is fetched, the other region's images neither.
            "import_filtering_opts": {"allowed_hosts": "[127.0.0.1]", "allowed_ports": "[]"},
            "os_glance_staging_store": {"filesystem_store_datadir": files / "staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": files / "tasks"},
            **self._common("glance"),
        }

    def _nova(self) -> dict[str, Mapping[str, object]]:
        return {
            "DEFAULT": {
                "log_dir": self.layout.log,
                "state_path": self.layout.run / "nova-live",
                "transport_url": self._transport_url,
                "my_ip": "127.0.0.1",
                "concurrency_backend": "threading",
                "rootwrap_config": self.venv / "etc" / "nova" / "rootwrap.conf",
                "osapi_compute_workers": 1,
                "default_schedule_zone": names.ZONE_LIVE,
                # Otherwise a service first waits for up to a minute, so that not all begin at once.
                "periodic_fuzzy_delay": 0,
                "shutdown_timeout": 8,
            },
            "api": {"auth_strategy": "keystone"},
            "api_database": {"connection": self.database_url("nova_api"), "max_pool_size": 5},
            "database": self._database("nova"),
            **self._common("nova"),
            "placement": self._client("placement"),
            "glance": self._client("glance"),
            "neutron": {
                **self._client("neutron"),
                "service_metadata_proxy": True,
                "metadata_proxy_shared_secret": self.secrets.metadata,
            },
            "cinder": {**self._client("nova"), "catalog_info": "block-storage::publicURL"},
            "service_user": {**self._client("nova"), "send_service_user_token": True},
            "keystone": self._client("nova"),
            "conductor": {"workers": 1},
            "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 2},
            "quota": {"instances": 100, "cores": -1, "ram": -1},
            "oslo_policy": {"policy_file": self.layout.etc / "nova" / "policy.yaml"},
            "vnc": {"enabled": False},
            "spice": {"enabled": False},
        }

    def _compute(self, host: str, config: str) -> dict[str, Mapping[str, object]]:
        state = self.layout.run / f"nova-{host}"
        return {
            "DEFAULT": {
                "host": host,
                "state_path": state,
                "instances_path": state / "instances",
                "log_file": f"nova-compute-{host}.log",
                # There is no DHCP: guests learn their addresses from the drive.
                "force_config_drive": True,
                "config_drive_format": "iso9660",
                "vif_plugging_timeout": 10,
                "vif_plugging_is_fatal": False,
                "reserved_host_memory_mb": 0,
                "initial_ram_allocation_ratio": 4.0,
                "initial_cpu_allocation_ratio": 32.0,
                "initial_disk_allocation_ratio": 8.0,
            },
            **{group: self._privsep(config) for group in PRIVSEP_NOVA},
        }

    def _compute_live(self) -> Sections:
        return _merged(
            self._compute(HOST_LIVE, "nova/compute-live.conf"),
            {
                "DEFAULT": {
                    "compute_driver": "libvirt.LibvirtDriver",
                    "force_raw_images": False,
                    "use_cow_images": True,
                },
                "libvirt": {
                    # What runs everywhere, as machines for tests often have no (working) KVM.
                    "virt_type": "qemu",
                    "cpu_mode": "none",
                    "hw_machine_type": "x86_64=pc",
                    "images_type": "qcow2",
                    "inject_partition": -2,
                    "wait_soft_reboot_seconds": 5,
                },
            },
        )

    def _compute_fake(self) -> Sections:
        return _merged(
            self._compute(HOST_FAKE, "nova/compute-fake.conf"),
            {"DEFAULT": {"compute_driver": "fake.FakeDriver"}},
        )

    def _neutron(self) -> Sections:
        return {
            "DEFAULT": {
                "log_dir": self.layout.log,
                "state_path": self.layout.run / "neutron",
                "transport_url": self._transport_url,
                "auth_strategy": "keystone",
                "core_plugin": "ml2",
                "service_plugins": "router",
                "api_paste_config": self.layout.etc / "neutron" / "api-paste.ini",
                "host": HOST_LIVE,
                "rpc_workers": 1,
                "rpc_state_report_workers": 0,
                "api_workers": 1,
                "dhcp_agent_notification": False,
                "notify_nova_on_port_status_changes": True,
                "notify_nova_on_port_data_changes": True,
                # The fake host's agent reports once and must be believed for as long as the cloud lives.
                "agent_down_time": 20 * 86400,
            },
            "database": self._database("neutron"),
            **self._common("neutron"),
            "nova": self._client("nova"),
            "placement": self._client("placement"),
            "agent": {"root_helper": "env", "root_helper_daemon": "", "polling_interval": 1},
            "privsep": self._privsep("neutron/neutron.conf"),
            "ml2": {
                "type_drivers": "flat,local",
                "tenant_network_types": "local",
                "mechanism_drivers": "macvtap",
                "extension_drivers": "port_security",
                "path_mtu": 1500,
            },
            "ml2_type_flat": {"flat_networks": ",".join(network.physical for network in names.NETWORKS)},
            # The only one that the macvtap agent takes.
            "securitygroup": {"enable_security_group": True, "firewall_driver": "noop"},
            "macvtap": {
                "physical_interface_mappings": ",".join(
                    f"{network.physical}:{network.cloud_link}" for network in names.NETWORKS
                ),
            },
            "quotas": dict.fromkeys(("quota_security_group", "quota_security_group_rule", "quota_port"), -1),
        }

    def _cinder(self) -> Sections:
        state = self.layout.run / "cinder"
        return {
            "DEFAULT": {
                "log_dir": self.layout.log,
                "state_path": state,
                "transport_url": self._transport_url,
                "my_ip": "127.0.0.1",
                "host": HOST_LIVE,
                "auth_strategy": "keystone",
                "api_paste_config": self.layout.etc / "cinder" / "api-paste.ini",
                "resource_query_filters_file": self.layout.etc / "cinder" / "resource_filters.json",
                "glance_api_servers": f"http://127.0.0.1:{ports.PORT_GLANCE}",
                "image_conversion_dir": state / "conversion",
                "enabled_backends": "files",
                "default_volume_type": "__DEFAULT__",
                # Nova has no zones of these names for volumes.
                "storage_availability_zone": names.ZONE_LIVE,
                "allow_availability_zone_fallback": True,
                "osapi_volume_workers": 1,
                "periodic_fuzzy_delay": 0,
                "rootwrap_config": self.venv / "etc" / "cinder" / "rootwrap.conf",
            },
            "files": {
                "volume_driver": "file_driver.FileDriver",
                "volume_backend_name": "files",
                "volumes_directory": self.layout.volumes,
            },
            "database": self._database("cinder"),
            **self._common("cinder"),
            "nova": {**self._client("nova"), "interface": "public"},
            "service_user": {**self._client("cinder"), "send_service_user_token": True},
            "privsep": self._privsep("cinder/cinder.conf"),
            "privsep_osbrick": self._privsep("cinder/cinder.conf"),
            "cinder_sys_admin": self._privsep("cinder/cinder.conf"),
        }

    def _rabbit(self) -> str:
        return (
            f"listeners.tcp.1 = 127.0.0.1:{ports.PORT_RABBIT}\n"
            f"default_user = openstack\ndefault_pass = {self.secrets.rabbit}\n"
            "loopback_users = none\n"
        )


PRIVSEP_NOVA = ("nova_sys_admin", "privsep", "privsep_osbrick", "vif_plug_linux_bridge_privileged")

PASTE_FILES: Mapping[str, str] = {
    "glance/glance-api-paste.ini": "glance/glance-api-paste.ini",
    "glance-two/glance-api-paste.ini": "glance/glance-api-paste.ini",
    "nova/api-paste.ini": "nova/api-paste.ini",
    "neutron/api-paste.ini": "neutron/api-paste.ini",
    "cinder/api-paste.ini": "cinder/api-paste.ini",
    "cinder/resource_filters.json": "cinder/resource_filters.json",
}
"""Files that come with the services, and where they are expected."""

POLICY_NOVA = {
    "os_compute_api:os-console-output": f"rule:project_member_or_admin and not role:{names.ROLE_MUTE}",
}


def render(sections: Sections) -> str:
    """Return the text of an ini file as oslo.config reads it."""
    lines = []
    for name, options in sections.items():
        lines.append(f"[{name}]")
        for option, value in options.items():
            # oslo.config replaces $NAME by another option's value.
            lines.append(
                f"{option} = {os.fspath(value) if isinstance(value, Path) else value}".replace("$", "$$")
            )
        lines.append("")
    return "\n".join(lines)


def _merged(one: Sections, other: Sections) -> dict[str, Mapping[str, object]]:
    return {name: {**one.get(name, {}), **other.get(name, {})} for name in (*one, *other)}
