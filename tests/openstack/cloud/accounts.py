"""Users and projects in Keystone, and clients' configuration for them."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.openstack.cloud import layout as ports
from tests.openstack.cloud import names


def connect(auth: Mapping[str, str]) -> Any:
    """Return a connection to the first region; the caller closes it."""
    import openstack

    return openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        auth=dict(auth),
        region_name=names.REGION,
        identity_api_version="3",
    )


def auth_of(user: names.User, password: str) -> dict[str, str]:
    """Return the section of clouds.yaml by which a user logs in."""
    return {
        "auth_url": ports.AUTH_URL,
        "username": user.name,
        "password": password,
        "project_name": user.project,
        "user_domain_id": "default",
        "project_domain_id": "default",
    }


def make_users(cloud: Any, users: Iterable[names.User], passwords: Mapping[str, str]) -> None:
    """Make users with their projects; ``passwords`` are by the users' names, the roles must exist."""
    roles = {role.name: role for role in cloud.identity.roles()}
    projects = {project.name: project for project in cloud.identity.projects()}
    for user in users:
        if user.project not in projects:
            projects[user.project] = cloud.identity.create_project(name=user.project, domain_id="default")
        created = cloud.identity.create_user(
            name=user.name,
            password=passwords[user.name],
            domain_id="default",
            default_project_id=projects[user.project].id,
        )
        for role in user.roles:
            cloud.identity.assign_project_role_to_user(projects[user.project], created, roles[role])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accounts:
    """The users of a lane. Entries of clouds.yaml have the same names in every lane: demo, admin ..."""

    lane: int
    passwords: Mapping[str, str]

    @classmethod
    def random(cls, lane: int) -> Accounts:
        """Return accounts with new passwords."""
        return cls(
            lane=lane,
            passwords={user.name: secrets.token_urlsafe(16) for user in names.users(lane)},
        )

    def make(self, cloud: Any) -> None:
        """Make the users and their projects."""
        make_users(cloud, names.users(self.lane), self.passwords)

    def clouds(self) -> dict[str, Any]:
        """Return the contents of clouds.yaml; makes an application credential of demo."""
        entries = {
            plain.name: self._entry(user)
            for plain, user in zip(names.users(0), names.users(self.lane), strict=True)
        }
        for name in ("admin", "demo"):
            entries[f"{name}-two"] = {**entries[name], "region_name": names.REGION_TWO}
        entries[names.APPLICATION_CREDENTIAL] = self._application_credential(entries["demo"])
        return {"clouds": entries}

    def _entry(self, user: names.User) -> dict[str, Any]:
        auth = auth_of(user, self.passwords[user.name])
        return {"auth": auth, "region_name": names.REGION, "identity_api_version": 3}

    def _application_credential(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        with connect(entry["auth"]) as cloud:
            made = cloud.identity.create_application_credential(
                cloud.current_user_id, names.APPLICATION_CREDENTIAL
            )
        auth = {
            "auth_url": ports.AUTH_URL,
            "application_credential_id": made.id,
            "application_credential_secret": made.secret,
        }
        return {**entry, "auth_type": "v3applicationcredential", "auth": auth}


def write_clouds(path: Path, clouds: Mapping[str, Any]) -> None:
    """Write clouds.yaml, readable by its owner only, and never half of it."""
    building = path.with_name(f"{path.name}.building")
    building.touch(mode=0o600)
    building.write_text(yaml.safe_dump(dict(clouds), sort_keys=False))
    building.rename(path)
