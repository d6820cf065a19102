"""An OpenStack project as the place where test images are booted.

``preflight`` finds every mistake that can be found without a build: wrong credentials, flavor, networks or
groups. Each resource that is made bears the run's mark (``marks``) and a name that the run's ledger records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack import (
    flavors,
    identity,
    keypairs,
    leaked,
    leases,
    networks,
    run_images,
    servers,
)
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.in_flight import undoing
from pytest_dibctl.clouds.openstack.instance import Known, OpenStackInstance, with_console
from pytest_dibctl.clouds.openstack.login import open_api
from pytest_dibctl.clouds.protocols import (
    BootRequest,
    CloudImage,
    Flavor,
    LeakedResource,
    Progress,
    UploadRequest,
    forget_note,
)
from pytest_dibctl.config import merge
from pytest_dibctl.config.credentials import resolve
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import read_user_data
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ApiError, ConfigError, InstanceError, NotInConfigError, NovaBadRequestError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.image.artifact import Artifact

__all__ = ["OpenStackCloud", "OpenStackInstance"]

GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The environment's nova section in this cloud: ids instead of names."""

    flavor: Flavor
    groups: tuple[str, ...]
    floating_network: str | None


class OpenStackCloud:
    """A test environment with ``keystone`` and ``nova``. The login happens at the first call.

    ``image_endpoint`` is the Glance that the image or the environment names, None for the catalog's.
    """

    def __init__(
        self,
        environment: Entry[TestEnvironment],
        *,
        run_id: str,
        cwd: Path,
        deadlines: merge.Deadlines,
        image_endpoint: str | None = None,
        progress: Progress = lambda _line: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        settings = environment.settings
        if settings.keystone is None or settings.nova is None:
            raise ConfigError(f"{environment.at()}: this test environment has no keystone and nova sections")
        self._environment = environment
        self._nova: Nova = settings.nova
        self._run_id = run_id
        self._cwd = cwd
        self._deadlines = deadlines
        self._progress = progress
        where = environment.at("keystone")
        self._environ = os.environ if environ is None else environ
        self._credentials = resolve(settings.keystone, self._environ, "test", where=where)
        self._api: Api | None = None
        self._place: Place | None = None
        self._identity: Mapping[str, str] | None = None
        self._image_endpoint = image_endpoint

    @property
    def name(self) -> str:
        """The label of the test environment."""
        return self._environment.label

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of instances here."""
        return self._environment.settings.capabilities

    @property
    def api(self) -> Api:
        """The login, opened at the first use."""
        if self._api is None:
            self._api = open_api(
                self._credentials,
                self._environment.settings,
                where=self._environment.at("keystone"),
                image_endpoint=self._image_endpoint,
                environ=self._environ,
            )
        return self._api

    def identity(self) -> Mapping[str, str]:
        """Return Keystone's URL, the region, and the ids of project and user; logs in."""
        if self._identity is None:
            self._identity = identity.of_login(self.api, image_endpoint=self._image_endpoint)
        return self._identity

    def preflight(self) -> None:
        """Log in; raise a DibctlError if the cloud lacks a name of the nova section."""
        self._user_data()
        self._resolved()
        if self.api.has("network"):
            for number, nic in enumerate(self._nova.nics):
                networks.check_nic(self.api, nic, at=self._environment.at(f"nova.nics[{number}].net_id"))

    def check(self, artifact: Artifact, request: UploadRequest) -> None:
        """Raise NovaBadRequestError if the image does not fit the flavor, ConfigError for a wrong format."""
        glance = merge.glance(request.image, self._environment)
        if self._environment.settings.preprocessing is None:  # its output is checked when it is uploaded
            run_images.format_of(artifact, request, self._environment)
        place = self._resolved()
        volume = self._nova.volume
        flavors.check_fit(
            place.flavor,
            disk=place.flavor.disk if volume is None else (volume.size or 0),
            min_disk=glance.min_disk,
            min_ram=glance.min_ram,
            virtual_size=artifact.virtual_size,
            at=self._environment.at("nova.flavor_id" if self._nova.flavor_id else "nova.flavor"),
            image_at=request.image.at("glance.min_disk" if glance.min_disk else "filename"),
        )

    def upload(self, artifact: Artifact, request: UploadRequest, *, progress: Progress) -> CloudImage:
        """Make a private image of the file, with its kernel and initrd if it needs them to boot.

        The caller owns it. Raises ApiError and its like, ConfigError, ArtifactError.
        """
        return run_images.upload(
            self.api,
            artifact,
            request,
            environment=self._environment,
            run_id=self._run_id,
            progress=progress,
        )

    def delete_image(self, image: CloudImage) -> None:
        """Remove the image, then its kernel and initrd."""
        run_images.delete(self.api, image, timeout=self._deadlines.cleanup)

    def existing_image(self, image_id: str) -> CloudImage:
        """Return an image of Glance; raises ImageNotFoundError."""
        return run_images.existing(self.api, image_id)

    def import_key(self, key: SshKey, *, name: str) -> None:
        """Give Nova the public half of ``key``."""
        keypairs.create(self.api, key, name=name, timeout=self._deadlines.keypair)

    def delete_key(self, name: str, *, fingerprint: str) -> None:
        """Remove the keypair if its fingerprint is ours; keypairs bear no other mark."""
        keypairs.delete(self.api, name, fingerprint=fingerprint, timeout=self._deadlines.cleanup)

    def boot(self, image: CloudImage, request: BootRequest, *, progress: Progress) -> OpenStackInstance:
        """Make a server and return once it is ACTIVE.

        Raises InstanceError, with Nova's fault and the console's last lines, when it does not get there.
        """
        place = self._resolved()
        spec = self._server(image, request, place)
        try:
            server_id = servers.create(
                self.api, spec, timeout=request.deadlines.create, at=self._environment.at
            )
            server = self._active(server_id, request, progress)
            known = self._known(server, place, image.id, owned=True)
            if place.floating_network is not None:
                progress("giving it a floating IP")
                address = networks.float_ip(
                    self.api, place.floating_network, known.main.mac, server_id, request.name, timeout=60
                )
                known = dataclasses.replace(known, floating_ip=address)
            return OpenStackInstance(self.api, known, note=request.note, tell=progress)
        except BaseException as error:
            with undoing(error, f"instance {request.name} could not be removed"):
                servers.remove(self.api, request.name, run_id=self._run_id, timeout=request.deadlines.cleanup)
            raise

    def existing(self, instance_id: str) -> OpenStackInstance:
        """Return the server of that id, else of that name; raises NotInConfigError when there is none."""
        server = self._found(instance_id)
        known = self._known(
            server, None, (server.image or {}).get("id") if server.image else None, owned=False
        )
        return OpenStackInstance(self.api, known, note=forget_note, tell=self._progress)

    def remove(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        """Remove an image, keypair or instance that a dead run recorded; raises DibctlError."""
        timeout = self._deadlines.cleanup
        if kind == "image":
            run_images.delete_named(self.api, name, self._run_id, timeout=timeout)
        elif kind == "keypair":
            self.delete_key(name, fingerprint=str(details.get("fingerprint")))
        elif kind == "instance":
            titles = tuple(str(title) for key, title in details.items() if key.startswith("snapshot"))
            servers.remove(self.api, name, run_id=self._run_id, timeout=timeout, snapshots=titles)

    def keep(self, kind: str, name: str, details: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Mark an image or instance as kept; a keypair stays while a server has it. Raises DibctlError."""
        leases.keep(self.api, kind, name, details, run_id=self._run_id, seconds=seconds)

    def renew(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        """Renew the lease of an image or instance; a keypair stays as long as its run has one of these."""
        leases.renew(self.api, kind, name, details, run_id=self._run_id)

    def kept(self) -> tuple[LeakedResource, ...]:
        """Return the project's images and instances that are marked as kept, those past their end too."""
        return leaked.kept(self.api)

    def remove_kept(self, resource: LeakedResource) -> None:
        """Remove a thing that ``kept`` found, with its keypair."""
        leaked.remove_kept(self.api, resource, timeout=self._deadlines.cleanup)

    def leaked(self, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:
        """Return the project's resources that bear our marks and are older than their time."""
        return leaked.find(self.api, spare=spare)

    def remove_leaked(self, resource: LeakedResource) -> None:
        """Remove a thing that ``leaked`` found."""
        leaked.remove(self.api, resource, timeout=self._deadlines.cleanup)

    def client(self, service: str) -> Any | None:
        """Return openstacksdk's proxy of a service, or the whole connection."""
        connection = self.api.connection
        return connection if service == "connection" else getattr(connection, service)

    def close(self) -> None:
        """Close the login; images, keys and instances stay their makers'."""
        if self._api is not None:
            self._api.close()
            self._api = None

    # -- what the settings mean ----------------------------------------------------------------

    def _resolved(self) -> Place:
        if self._place is None:
            self._place = self._resolve()
        return self._place

    def _resolve(self) -> Place:
        nova, at = self._nova, self._environment.at
        key = "flavor_id" if nova.flavor_id is not None else "flavor"
        flavor = flavors.find(self.api, flavor=nova.flavor, flavor_id=nova.flavor_id, at=at(f"nova.{key}"))
        groups = tuple(
            networks.find_by_name(
                self.api,
                "security_groups",
                group,
                at=at(f"nova.security_groups[{number}]"),
                project_id=self.api.project_id,
            )
            for number, group in enumerate(nova.security_groups)
        )
        floating = None
        if nova.floating_network is not None:
            floating = networks.find_by_name(
                self.api,
                "networks",
                nova.floating_network,
                at=at("nova.floating_network"),
                is_router_external=True,
            )
        return Place(flavor=flavor, groups=groups, floating_network=floating)

    def _user_data(self) -> str | None:
        return read_user_data(self._nova, self._environment, "nova", self._cwd)

    # -- servers -------------------------------------------------------------------------------

    def _server(self, image: CloudImage, request: BootRequest, place: Place) -> servers.ServerSpec:
        volume_size = None
        if self._nova.volume is not None:
            needed = math.ceil(image.artifact.virtual_size / GIB) if image.artifact is not None else 1
            least = max(needed, int(image.details.get("min_disk") or 0), place.flavor.disk)
            volume_size = self._nova.volume.size or least
        return servers.ServerSpec(
            name=request.name,
            image_id=image.id,
            flavor_id=place.flavor.id,
            key_name=request.key_name,
            settings=self._nova,
            groups=place.groups,
            metadata=marks.metadata(self._run_id),
            user_data=self._user_data(),
            volume_size=volume_size,
        )

    def _active(self, server_id: str, request: BootRequest, progress: Progress) -> Any:
        try:
            return servers.wait_for(
                self.api,
                server_id,
                "ACTIVE",
                timeout=request.deadlines.active,
                tell=progress,
                name=request.name,
            )
        except InstanceError as error:
            text = ""
            with contextlib.suppress(ApiError):
                text = servers.console_output(self.api, server_id)
            raise (with_console(error, text) if text else error) from None

    def _known(self, server: Any, place: Place | None, image_id: str | None, *, owned: bool) -> Known:
        interfaces = networks.interfaces(self.api, server.id, self._nova.nics if owned else ())
        main = networks.main_interface(
            interfaces, self._nova.main_nic_regexp, at=self._environment.at("nova.main_nic_regexp")
        )
        return Known(
            id=str(server.id),
            name=str(server.name),
            flavor=place.flavor if place is not None else flavors.of_server(self.api, server),
            interfaces=interfaces,
            main=main,
            floating_ip=None if owned else networks.floating_ip_of(self.api, server.id),
            image_id=None if self._nova.volume is not None else image_id,
            region=str(self.api.connection.config.region_name or ""),
            first_seen=self._nova.ssh_host_key == "first-seen",
            active_timeout=self._deadlines.active,
            cleanup_timeout=self._deadlines.cleanup,
            run_id=self._run_id,
        )

    def _found(self, instance_id: str) -> Any:
        with contextlib.suppress(NovaBadRequestError):
            server = servers.find(self.api, instance_id)
            if server is not None:
                return server
        named = servers.named(self.api, instance_id)
        if not named:
            raise NotInConfigError(f"there is no instance {instance_id} in environment {self.name}")
        if len(named) > 1:
            ids = ", ".join(server.id for server in named)
            raise NotInConfigError(f"several instances are called {instance_id}", hint=f"use the id: {ids}")
        return named[0]
