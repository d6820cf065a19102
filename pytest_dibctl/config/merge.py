"""The settings of an image and of an environment, merged.

dibctl's rules: the larger of two deadlines or minimums counts; properties and tags are joined; formats,
endpoint and API version come from the environment first, everything else from the image first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.instance import NovaTimeouts
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ConfigError

Visibility = Literal["public", "private", "shared", "community"]

SSH_PORT = 22
LOCAL_PORT_WAIT: Mapping[str, float] = {"qemu": 600.0, "nspawn": 120.0}
"""Seconds, by engine; a guest without KVM answers later than dibctl's 61 s allow."""
DISK_FORMAT = "qcow2"
CONTAINER_FORMAT = "bare"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds that each step may take; the defaults are dibctl's."""

    upload: float = 360
    keypair: float = 10
    create: float = 10
    active: float = 360
    port: float = 61
    cleanup: float = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How an image gets into Glance: ``method`` None is a plain upload; ``stores`` are Glance's names.

    With "web-download" Glance fetches the file from ``uri``; with "glance-download" it fetches the image
    ``image_id`` of ``region``.
    """

    method: str | None = None
    uri: str | None = None
    region: str | None = None
    image_id: str | None = None
    stores: tuple[str, ...] = ()
    all_stores: bool = False

    @property
    def is_fetched(self) -> bool:
        """Whether Glance fetches the bytes itself, so that none are sent."""
        return self.method in {"web-download", "glance-download"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergedGlance:
    """The settings for Glance. ``upload_timeout`` in seconds, ``min_disk`` in GiB, ``min_ram`` in MiB.

    ``api_version`` is the version in the files; version 2 is used in any case. ``members`` are ids or names
    of projects.
    """

    name: str | None
    disk_format: str
    container_format: str
    visibility: Visibility
    members: tuple[str, ...]
    protected: bool
    min_disk: int
    min_ram: int
    properties: Mapping[str, str]
    tags: tuple[str, ...]
    endpoint: str | None
    upload_timeout: float
    api_version: int | None
    importing: ImportSettings
    allow_unverified: bool = False

    @property
    def public(self) -> bool:
        """Whether every project sees the image."""
        return self.visibility == "public"


def deadlines(image: Entry[Image], environment: Entry[TestEnvironment]) -> Deadlines:
    """Return the deadline of each step: the largest that either file gives, else the default."""
    settings = image.settings
    return _deadlines(
        environment, settings.nova, settings.glance.upload_timeout, settings.tests.port_wait_timeout
    )


def environment_deadlines(environment: Entry[TestEnvironment]) -> Deadlines:
    """Return the deadlines of an environment without an image; for the removal of dead runs' resources."""
    return _deadlines(environment, NovaTimeouts(), None, None)


def _deadlines(
    environment: Entry[TestEnvironment],
    of_image: NovaTimeouts,
    image_upload: float | None,
    image_port: float | None,
) -> Deadlines:
    """Merge the deadlines of ``environment`` with those of an image, which are the other arguments."""
    default = Deadlines()
    settings = environment.settings
    of_engine: NovaTimeouts = settings.nova or settings.qemu or settings.nspawn or NovaTimeouts()
    return Deadlines(
        upload=_largest(image_upload, settings.glance.upload_timeout, default=default.upload),
        keypair=_largest(of_image.keypair_timeout, of_engine.keypair_timeout, default=default.keypair),
        create=_largest(of_image.create_timeout, of_engine.create_timeout, default=default.create),
        active=_largest(of_image.active_timeout, of_engine.active_timeout, default=default.active),
        cleanup=_largest(of_image.cleanup_timeout, of_engine.cleanup_timeout, default=default.cleanup),
        port=_largest(
            image_port,
            settings.tests.port_wait_timeout,
            default=LOCAL_PORT_WAIT.get(settings.engine, default.port),
        ),
    )


def glance(
    image: Entry[Image], environment: Entry[TestEnvironment] | Entry[UploadEnvironment]
) -> MergedGlance:
    """Return what Glance is told of ``image`` in ``environment``.

    In a test environment the image is private and not protected, in spite of the files: the run must be
    able to delete it, and no other project may boot it.
    """
    of_image, of_environment = image.settings.glance, environment.settings.glance
    published = isinstance(environment.settings, UploadEnvironment)
    importing = _importing(of_environment if _sets_import(of_environment) else of_image)
    members = tuple(dict.fromkeys((*of_image.members, *of_environment.members))) if published else ()
    return MergedGlance(
        name=of_image.name or of_environment.name,
        disk_format=of_environment.disk_format or of_image.disk_format or DISK_FORMAT,
        container_format=of_environment.container_format or of_image.container_format or CONTAINER_FORMAT,
        visibility=_visibility(of_image, of_environment, members) if published else "private",
        members=members,
        protected=published and bool(of_image.protected or of_environment.protected),
        allow_unverified=of_image.allow_unverified or of_environment.allow_unverified,
        min_disk=max(of_image.min_disk or 0, of_environment.min_disk or 0),
        min_ram=max(of_image.min_ram or 0, of_environment.min_ram or 0),
        properties={**of_image.properties, **of_environment.properties},
        tags=tuple(dict.fromkeys((*of_image.tags, *of_environment.tags))),
        endpoint=of_environment.endpoint or of_image.endpoint,
        upload_timeout=_largest(
            of_image.upload_timeout, of_environment.upload_timeout, default=Deadlines.upload
        ),
        api_version=of_environment.api_version or of_image.api_version,
        importing=importing if published else ImportSettings(),
    )


def _visibility(of_image: Glance, of_environment: Glance, members: tuple[str, ...]) -> Visibility:
    """Return the image's visibility, else the environment's; an image with members must be shared."""
    for section in (of_image, of_environment):
        if section.visibility is not None:
            return section.visibility
        if section.public is not None:
            return "public" if section.public else "shared" if members else "private"
    return "shared" if members else "private"


def _sets_import(glance: Glance) -> bool:
    """Return whether a section decides how the image gets into Glance."""
    return bool(glance.import_method or glance.stores or glance.all_stores)


def _importing(glance: Glance) -> ImportSettings:
    method = glance.import_method
    if method is None and (glance.all_stores or len(glance.stores) > 1):
        method = "glance-direct"  # a plain upload reaches one store
    return ImportSettings(
        method=method, uri=glance.import_uri, stores=glance.stores, all_stores=glance.all_stores
    )


def test_variables(image: Entry[Image], environment: Entry[TestEnvironment]) -> dict[str, str]:
    """Return the ``environment_variables`` of both; where both set one, the environment's counts."""
    return {
        **image.settings.tests.environment_variables,
        **environment.settings.tests.environment_variables,
    }


test_variables.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where it is imported


def login(image: Entry[Image]) -> tuple[str, int]:
    """Return the user name and the guest's ssh port.

    Raises ConfigError when the image has no ``tests.ssh``.
    """
    ssh = image.settings.tests.ssh
    if ssh is None:
        raise ConfigError(
            f"{image.at('tests.ssh')}: is missing, so there is no user name to log in with",
            hint="add to the image:\n  tests:\n    ssh:\n      username: NAME",
        )
    return ssh.username, ssh.port or SSH_PORT


def _largest(*values: float | None, default: float) -> float:
    return max((value for value in values if value is not None), default=default)
