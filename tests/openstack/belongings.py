"""What this project can have made in the cloud, seen with an administrator's eyes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from tests.openstack.cloud import DevCloud, bootstrap, names, records
from tests.openstack.cloud.layout import Layout

PREFIX = "dibctl-"
ADMINS = ("admin", "admin-two")
"""The administrator's entries of clouds.yaml, one for each region."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Belongings:
    """A look at a lane's projects and at the services' own; other lanes are other tests' business.

    The connections stay open: a look is taken after every test, and logging in takes longer than looking.
    """

    layout: Layout
    admins: dict[str, Any]
    projects: frozenset[str]
    users: dict[str, str]
    _last: list[set[str]] = dataclasses.field(default_factory=list)

    def found(self) -> set[str]:
        """Return a line for everything in the lane, in any project, that this project can have made."""
        there = records.exist(self.layout, projects=self.projects, users=self.users.values())
        self._last[:] = [self._told() if there else set()]
        return self._last[0]

    def _told(self) -> set[str]:
        return {*self._images(), *self._servers(), *self._network(), *self._volumes(), *self._keypairs()}

    def known(self) -> set[str]:
        """Return what the last look found, a look if there was none: nobody else works in the lane."""
        return self._last[0] if self._last else self.found()

    def _images(self) -> Iterator[str]:
        for entry, admin in self.admins.items():
            for hidden in (False, True):
                for image in admin.image.images(is_hidden=hidden):
                    ours = str(image.name).startswith(PREFIX) or "dibctl-test" in image.tags
                    if ours and image.owner_id in self.projects:
                        yield f"{entry} image {image.name} ({image.status})"

    def _servers(self) -> Iterator[str]:
        for server in self.admins["admin"].compute.servers(all_projects=True):
            if server.name.startswith(PREFIX) and server.project_id in self.projects:
                yield f"server {server.name} ({server.status})"

    def _network(self) -> Iterator[str]:
        network = self.admins["admin"].network
        for port in network.ports():
            ours = port.device_owner.startswith("compute:") or PREFIX in f"{port.name} {port.description}"
            if ours and port.project_id in self.projects:
                yield f"port {port.name or port.id}"
        for ip in network.ips():
            if ip.project_id in self.projects:
                yield f"floating IP {ip.floating_ip_address}"

    def _volumes(self) -> Iterator[str]:
        for volume in self.admins["admin"].block_storage.volumes(all_projects=True):
            if volume.project_id in self.projects:
                yield f"volume {volume.name or volume.id} ({volume.status})"

    def _keypairs(self) -> Iterator[str]:
        for user, user_id in self.users.items():
            for key in self.admins["admin"].compute.keypairs(user_id=user_id):
                yield f"keypair {key.name} of {user}"


@contextlib.contextmanager
def looking(cloud: DevCloud) -> Iterator[Belongings]:
    """Return a look at the lane of ``cloud`` that can be repeated inside the block."""
    with contextlib.ExitStack() as stack:
        admins = {name: stack.enter_context(cloud.connected(name)) for name in ADMINS}
        identity: Any = admins["admin"].identity
        people = names.users(cloud.lane)
        projects = {*(user.project for user in people), bootstrap.SERVICE_PROJECT}
        yield Belongings(
            layout=Layout.at(cloud.directory),
            admins=admins,
            projects=frozenset(
                identity.find_project(name, ignore_missing=False).id for name in sorted(projects)
            ),
            users={user.name: identity.find_user(user.name, ignore_missing=False).id for user in people},
        )
