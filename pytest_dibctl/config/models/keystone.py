"""The ``keystone`` section and the many names of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, PrivateAttr

from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.section import Rule, Ruled
from pytest_dibctl.config.models.values import NonEmpty, Secret
from pytest_dibctl.config.yaml.scalars import as_text

IDENTITY_V2 = re.compile(r"/v2\.0/?$")
"""How ``auth_url`` ends in files written for Keystone v2; Keystone offers v3 only."""

KEYSTONE_ALIASES: Mapping[str, tuple[str, ...]] = {
    "username": ("user", "user_name", "os_username", "os_user_name", "os_user"),
    "password": ("pass", "os_password", "os_pass"),
    "project_name": (
        *("project", "projectname", "os_project", "os_project_name"),
        *("tenant", "tenant_name", "tenantname", "os_tenant_name", "os_tenantname"),
    ),
    "project_id": ("tenant_id", "os_project_id", "os_tenant_id"),
    "auth_url": ("url", "uri", "auth_uri", "os_auth_url", "os_auth_uri"),
    "user_domain": ("userdomain", "os_user_domain", "os_userdomain"),
    "user_domain_id": ("os_user_domain_id",),
    "user_domain_name": ("os_user_domain_name",),
    "project_domain": ("projectdomain", "os_project_domain", "os_projectdomain", "tenant_domain"),
    "project_domain_id": ("tenant_domain_id", "os_project_domain_id"),
    "project_domain_name": ("tenant_domain_name", "os_project_domain_name"),
    "region_name": ("region", "os_region_name"),
    "cloud": ("os_cloud",),
    "application_credential_id": ("os_application_credential_id",),
    "application_credential_name": ("os_application_credential_name",),
    "application_credential_secret": ("os_application_credential_secret",),
    "api_version": (),
}
"""The other names of each key of a keystone section, in lower case; the files may use any case."""

_FIELD_OF_KEY = {key: field for field, aliases in KEYSTONE_ALIASES.items() for key in (field, *aliases)}
_BESIDE_CLOUD = frozenset({"cloud", "region_name", "api_version"})
"""The fields that a section with ``cloud`` may have."""


def _any_case(name: str) -> str:
    """Return a regular expression that matches ``name`` in any case; JSON Schema has no flag for that."""
    letters = (f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in name)
    return f"^{''.join(letters)}$"


def _keystone_schema(schema: dict[str, Any]) -> None:
    """Add the aliases: as properties, which editors offer, and as patterns, which accept any case."""
    properties = schema["properties"]
    patterns = {_any_case(key): properties[field] for key, field in _FIELD_OF_KEY.items()}
    schema.setdefault("patternProperties", {}).update(patterns)
    schema["properties"] = {
        **properties,
        **{key: properties[field] for key, field in _FIELD_OF_KEY.items()},
    }


class Keystone(Ruled):
    """The address of Keystone and the login; variables of the environment may supply missing keys.

    ``cloud`` names an entry of clouds.yaml instead, which then says it all.
    """

    model_config = ConfigDict(json_schema_extra=_keystone_schema)

    api_version: Annotated[Literal[2, 3] | None, Key("Accepted for dibctl's files. Version 3 is used.")] = (
        None
    )
    cloud: Annotated[
        NonEmpty | None,
        Key("An entry of clouds.yaml, which then supplies everything but the region.", example="staging"),
    ] = None
    auth_url: Annotated[
        NonEmpty | None,
        Key(
            "The address of Keystone.", default="$OS_AUTH_URL", example="https://keystone.example.com:5000/v3"
        ),
    ] = None
    username: Annotated[
        NonEmpty | None, Key("The user's name.", default="$OS_USERNAME", example="image-tests")
    ] = None
    password: Annotated[
        Secret | None,
        Key("The user's password. Better leave it out and set `OS_PASSWORD`.", default="$OS_PASSWORD"),
    ] = None
    project_name: Annotated[
        NonEmpty | None, Key("The project's name.", default="$OS_PROJECT_NAME", example="images")
    ] = None
    project_id: Annotated[
        NonEmpty | None,
        Key("The project's id.", default="$OS_PROJECT_ID", example="0ee1ad4b9aab4a4c8a1a0c5c2e6ab9d1"),
    ] = None
    user_domain: Annotated[
        NonEmpty | None, Key("The user's domain, by name or id.", default="default", example="Default")
    ] = None
    user_domain_id: Annotated[NonEmpty | None, Key("The id of the user's domain.", example="default")] = None
    user_domain_name: Annotated[NonEmpty | None, Key("The name of the user's domain.", example="Default")] = (
        None
    )
    project_domain: Annotated[
        NonEmpty | None, Key("The project's domain, by name or id.", default="default", example="Default")
    ] = None
    project_domain_id: Annotated[
        NonEmpty | None, Key("The id of the project's domain.", example="default")
    ] = None
    project_domain_name: Annotated[
        NonEmpty | None, Key("The name of the project's domain.", example="Default")
    ] = None
    region_name: Annotated[
        NonEmpty | None, Key("The region.", default="$OS_REGION_NAME, else the only one", example="RegionOne")
    ] = None
    application_credential_id: Annotated[
        NonEmpty | None,
        Key(
            "The id of an application credential, instead of a user and password.",
            example="7a2d1c9e5b6f4a0d8c3e",
        ),
    ] = None
    application_credential_name: Annotated[
        NonEmpty | None,
        Key("The name of an application credential. It needs the user beside it.", example="image-tests"),
    ] = None
    application_credential_secret: Annotated[
        Secret | None,
        Key(
            "The secret of the application credential. Better leave it out and set "
            "`OS_APPLICATION_CREDENTIAL_SECRET`.",
            default="$OS_APPLICATION_CREDENTIAL_SECRET",
        ),
    ] = None

    _key_of_field: dict[str, str] = PrivateAttr(default_factory=dict)

    def key(self, field: str) -> str:
        """Return the key that the file uses for ``field``; the field's own name where it uses none."""
        return self._key_of_field.get(field, field)

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return every alias, in lower case."""
        return tuple(_FIELD_OF_KEY)

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two different values for one thing, and a ``cloud`` that is not alone."""
        key_of: dict[str, str] = {}
        for key, value in data.items():
            field = _FIELD_OF_KEY.get(key.lower())
            if field and field in key_of and as_text(value) != as_text(data[key_of[field]]):
                yield key, f"means the same as {key_of[field]}, which has another value"
            elif field:
                key_of.setdefault(field, key)
        excluded = [key for field, key in key_of.items() if field not in _BESIDE_CLOUD]
        if "cloud" in key_of and excluded:
            yield key_of["cloud"], f"with a cloud of clouds.yaml, {', '.join(excluded)} cannot be given here"

    @classmethod
    def rename_keys(cls, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Translate the aliases; of several keys of one field the first counts, an unknown key stays."""
        fields: dict[str, Any] = {}
        key_of_field: dict[str, str] = {}
        for key, value in data.items():
            field = _FIELD_OF_KEY.get(key.lower(), key)
            fields.setdefault(field, value)
            key_of_field.setdefault(field, key)
        return fields, key_of_field

    def remember_keys(self, key_of_field: Mapping[str, str]) -> None:
        """Keep the alias that the file uses for each field."""
        self._key_of_field.update(key_of_field)
