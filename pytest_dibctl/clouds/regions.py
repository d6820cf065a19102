"""The part of a cloud that publishing needs: the images of one project in one region, and their users.

``openstack.regions`` implements it. The policy, which image is made, renamed or deleted when, is in
``publish``; a region makes no decisions.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from pytest_dibctl.config.merge import ImportSettings

SNAPSHOT = "snapshot"
"""The ``image_type`` of images that users make of their servers."""


UNKNOWN = dt.datetime.max.replace(tzinfo=dt.UTC)
"""The time of an image that tells none: later than every other time, so the image is never too old."""


class LateError(Exception):
    """The time for sending a file is over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """An image's settings in Glance. ``min_disk`` in GiB, ``min_ram`` in MiB.

    ``owner`` is the id of another project than the login's; only an admin may name one. ``allow_unverified``
    accepts an image of which Glance tells no size or no digest that can be compared.
    """

    name: str
    disk_format: str
    container_format: str = "bare"
    visibility: str = "private"
    protected: bool = False
    hidden: bool = False
    owner: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    importing: ImportSettings = dataclasses.field(default_factory=ImportSettings)
    allow_unverified: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An image as Glance describes it. ``size`` is bytes; times are the server's, or ``UNKNOWN``."""

    id: str
    name: str
    owner: str
    status: str
    visibility: str
    hidden: bool
    protected: bool
    disk_format: str
    container_format: str
    size: int | None
    min_disk: int
    min_ram: int
    tags: frozenset[str]
    properties: Mapping[str, str]
    hash_algorithm: str | None
    hash_value: str | None
    checksum: str | None
    created: dt.datetime
    updated: dt.datetime

    @property
    def is_snapshot(self) -> bool:
        """Whether a user made it of a server or a volume; such an image is never ours to judge."""
        marks = {"block_device_mapping", "instance_uuid"}
        kinds = {SNAPSHOT, "backup"}
        return self.properties.get("image_type") in kinds or not marks.isdisjoint(self.properties)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A change of an image, made in one call; None leaves an attribute as it is.

    ``properties`` are set, those that are None removed.
    """

    name: str | None = None
    visibility: str | None = None
    hidden: bool | None = None
    protected: bool | None = None
    tags: frozenset[str] | None = None
    properties: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


DIGESTS = frozenset(name for name in hashlib.algorithms_available if not name.startswith("shake"))
"""Kinds of digests that can be computed here; those of shake have no length of their own."""


class Content(Protocol):
    """The bytes of an image to send: every iteration begins at the first byte.

    A request is sent again when its token was refused, or the connection broke.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...

    @property
    def sendings(self) -> int:
        """How often the bytes were asked for."""
        ...

    def digest(self, algorithm: str) -> str | None:
        """Return a digest, in hex, of the bytes as they have to arrive; None if it cannot be told."""
        ...

    def go_on(self) -> None:
        """Raise if the upload is to end; called while Glance processes the bytes."""
        ...

    def refuse_changed(self) -> None:
        """Raise ArtifactError if the bytes are no longer those that the digest is of."""
        ...


class Region(Protocol):
    """One project's images in one region. Not for two threads at a time."""

    @property
    def name(self) -> str:
        """The label of the environment."""
        ...

    @property
    def project_id(self) -> str:
        """The project logged in to."""
        ...

    def now(self) -> dt.datetime:
        """Return the server's time; raises ApiError where it tells none: this machine's may be another."""
        ...

    def images(
        self,
        *,
        name: str | None = None,
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        owner: str | None = None,
    ) -> Iterator[ImageRecord]:
        """Yield the project's own images, hidden ones too, filtered by the server, page by page.

        ``owner`` is the id of another project, whose images only an admin sees.
        """
        ...

    def image(self, image_id: str) -> ImageRecord:
        """Return an image, of this project or another; raises ImageNotFoundError."""
        ...

    def create(self, spec: ImageSpec, content: Content, *, timeout: float, properties_at: str) -> ImageRecord:
        """Make an image and return it active and verified; when anything fails it is removed again.

        ``timeout`` is seconds for all of it, ``properties_at`` the setting that holds the properties.
        """
        ...

    def download(self, image_id: str) -> Iterator[bytes]:
        """Yield an image's bytes, from the first; raises ApiError, transient when the connection broke."""
        ...

    def fetches_from(self, other: Region) -> str | None:
        """Return under which name this region's Glance can fetch images of ``other``, None if it cannot."""
        ...

    def change(self, image_id: str, change: Change) -> ImageRecord:
        """Change an image in one call, all of it or nothing. Repeating it is harmless."""
        ...

    def delete(self, image_id: str) -> None:
        """Delete an image and wait until it is gone; repeating it is harmless.

        Raises ApiError with status 409 when the store has it in use, 403 when it is protected.
        """
        ...

    def project(self, name_or_id: str) -> str:
        """Return a project's id; raises ApiError or NotInConfigError where it cannot be told."""
        ...

    def project_name(self, project_id: str) -> str | None:
        """Return a project's name, None where these credentials cannot tell it."""
        ...

    def members(self, image_id: str) -> Mapping[str, str]:
        """Return the ids of the projects that an image is shared with, and their answers."""
        ...

    def share(self, image_id: str, project_id: str) -> bool:
        """Let a project see an image, and accept it in its name; return whether that was possible."""
        ...

    def uses(self, image_ids: Collection[str]) -> Mapping[str, str]:
        """Return, for each of the images that is in use, a few words on its user.

        Users are servers of all projects, and volumes of all projects where there is Cinder. Raises
        NovaForbiddenError if these credentials may not see other projects' servers, ApiError if Nova cannot
        describe some of them now.
        """
        ...

    def use(self, image_id: str) -> str | None:
        """Return which server or volume uses one image by now, None if none does; raises as ``uses``."""
        ...

    def needed_by(self, image_id: str) -> str | None:
        """Return which image has this one as its kernel or initrd, None if none has."""
        ...

    def close(self) -> None: ...
