"""What an image and an environment say together.

dibctl's rules: the larger of two deadlines or minimums counts, properties and tags are joined, the
environment decides about formats, endpoint and API version, the image about everything else.
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
QEMU_PORT_WAIT = 600.0
"""Seconds; a guest without KVM needs more than dibctl's 61 s to answer."""
DISK_FORMAT = "qcow2"
CONTAINER_FORMAT = "bare"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds each step may take; defaults are dibctl's."""

    upload: float = 360
    keypair: float = 10
    create: float = 10
    active: float = 360
    port: float = 61
    cleanup: float = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How an image gets into Glance: ``method`` None is a plain upload; ``stores`` are Glance's names.

    ``uri`` is where Glance itself fetches the file, for "web-download"; ``region`` and ``image_id`` are what
    it fetches, for "glance-download".
    """

    method: str | None = None
    uri: str | None = None
    region: str | None = None
    image_id: str | None = None
    stores: tuple[str, ...] = ()
    all_stores: bool = False

    @property
    def is_fetched(self) -> bool:
        """Whether Glance gets the bytes by itself."""
        return self.method in {"web-download", "glance-download"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergedGlance:
    """What Glance is told. ``upload_timeout`` in seconds, ``min_disk`` in GiB, ``min_ram`` in MiB.

    ``api_version`` is what the files ask for; version 2 is what is used. ``members`` are ids or names of
    projects.
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

    @property
    def public(self) -> bool:
        """Whether everybody sees the image."""
        return self.visibility == "public"


def deadlines(image: Entry[Image], environment: Entry[TestEnvironment]) -> Deadlines:
    """Return the deadline of each step: the largest that either file gives, else the default."""
    here = image.settings
    return _deadlines(environment, here.nova, here.glance.upload_timeout, here.tests.port_wait_timeout)


def environment_deadlines(environment: Entry[TestEnvironment]) -> Deadlines:
    """Return the deadlines that an environment gives whatever the image; for removals of dead runs."""
    return _deadlines(environment, NovaTimeouts(), None, None)


def _deadlines(
    environment: Entry[TestEnvironment],
    ours: NovaTimeouts,
    upload: float | None,
    port_wait: float | None,
) -> Deadlines:
    default = Deadlines()
    there = environment.settings
    theirs: NovaTimeouts = there.nova or there.qemu or NovaTimeouts()
    port = there.tests.port_wait_timeout
    if port is None and there.engine == "qemu":
        port = QEMU_PORT_WAIT
    return Deadlines(
        upload=_largest(upload, there.glance.upload_timeout, default=default.upload),
        keypair=_largest(ours.keypair_timeout, theirs.keypair_timeout, default=default.keypair),
        create=_largest(ours.create_timeout, theirs.create_timeout, default=default.create),
        active=_largest(ours.active_timeout, theirs.active_timeout, default=default.active),
        cleanup=_largest(ours.cleanup_timeout, theirs.cleanup_timeout, default=default.cleanup),
        port=_largest(port_wait, port, default=default.port),
    )


def glance(
    image: Entry[Image], environment: Entry[TestEnvironment] | Entry[UploadEnvironment]
) -> MergedGlance:
    """Return what Glance is told of ``image`` in ``environment``.

    In a test environment the image is private and not protected, whatever the files say: it must be
    deletable, and nobody else may boot it.
    """
    here, there = image.settings.glance, environment.settings.glance
    published = isinstance(environment.settings, UploadEnvironment)
    members = tuple(dict.fromkeys((*here.members, *there.members))) if published else ()
    return MergedGlance(
        name=here.name or there.name,
        disk_format=there.disk_format or here.disk_format or DISK_FORMAT,
        container_format=there.container_format or here.container_format or CONTAINER_FORMAT,
        visibility=_visibility(here, there, members) if published else "private",
        members=members,
        protected=published and bool(here.protected or there.protected),
        min_disk=max(here.min_disk or 0, there.min_disk or 0),
        min_ram=max(here.min_ram or 0, there.min_ram or 0),
        properties={**here.properties, **there.properties},
        tags=tuple(dict.fromkeys((*here.tags, *there.tags))),
        endpoint=there.endpoint or here.endpoint,
        upload_timeout=_largest(here.upload_timeout, there.upload_timeout, default=Deadlines.upload),
        api_version=there.api_version or here.api_version,
        importing=_importing(there if _says_import(there) else here) if published else ImportSettings(),
    )


def _visibility(here: Glance, there: Glance, members: tuple[str, ...]) -> Visibility:
    """Return who sees the image: what the image says, else the environment; members need a shared one."""
    for said in (here, there):
        if said.visibility is not None:
            return said.visibility
        if said.public is not None:
            return "public" if said.public else "shared" if members else "private"
    return "shared" if members else "private"


def _says_import(glance: Glance) -> bool:
    return bool(glance.import_method or glance.stores or glance.all_stores)


def _importing(glance: Glance) -> ImportSettings:
    method = glance.import_method
    if method is None and (glance.all_stores or len(glance.stores) > 1):
        method = "glance-direct"  # a plain upload reaches one store
    return ImportSettings(
        method=method, uri=glance.import_uri, stores=glance.stores, all_stores=glance.all_stores
    )


def test_variables(image: Entry[Image], environment: Entry[TestEnvironment]) -> dict[str, str]:
    """Return the ``environment_variables`` of both, the environment's winning; names as in the files."""
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


def _largest(*given: float | None, default: float) -> float:
    return max((value for value in given if value is not None), default=default)
