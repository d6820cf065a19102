"""Regions in memory, for tests of the policy: what is there, whoever uses it, and calls that fail."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping

from pytest_dibctl.clouds.regions import Change, Content, ImageRecord, ImageSpec, Region
from pytest_dibctl.errors import ApiError, ImageNotFoundError, NovaForbiddenError

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def record(image_id: str, **more: object) -> ImageRecord:
    """Return an image of project "ours" with usual values."""
    usual: dict[str, object] = {
        "name": "Debian",
        "owner": "ours",
        "status": "active",
        "visibility": "private",
        "hidden": False,
        "protected": False,
        "disk_format": "qcow2",
        "container_format": "bare",
        "size": 1,
        "min_disk": 0,
        "min_ram": 0,
        "tags": frozenset(),
        "properties": {},
        "hash_algorithm": "sha512",
        "hash_value": "0" * 128,
        "checksum": None,
        "created": START,
        "updated": START,
    }
    return ImageRecord(**{"id": image_id, **usual, **more})  # type: ignore[arg-type]


@dataclasses.dataclass(kw_only=True)
class Cloud:
    """What is there: images of all projects, and for each the servers and volumes that use it.

    ``fails`` is called before each call with its name, and may raise; ``answers`` after it, when everything
    is done, for answers that get lost. ``changed`` is called after each change.
    """

    images: dict[str, ImageRecord] = dataclasses.field(default_factory=dict)
    servers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    volumes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    in_store: set[str] = dataclasses.field(default_factory=set)
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    members: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    fails: Callable[[str], None] = lambda _call: None
    answers: Callable[[str], None] = lambda _call: None
    changed: Callable[[], None] = lambda: None
    made: int = 0

    def tick(self) -> dt.datetime:
        self.made += 1
        return START + dt.timedelta(days=2, seconds=self.made)


@dataclasses.dataclass(kw_only=True)
class MemoryRegion:
    """One project's view of a cloud."""

    cloud: Cloud
    name: str = "memory"
    project_id: str = "ours"
    admin: bool = True

    def now(self) -> dt.datetime:
        self.cloud.fails("now")
        return START + dt.timedelta(days=2)

    def images(
        self,
        *,
        name: str | None = None,
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        owner: str | None = None,
    ) -> Iterator[ImageRecord]:
        self.cloud.fails("images")
        wanted = (properties or {}).items()
        yield from [
            image
            for image in self.cloud.images.values()
            if image.owner == (owner or self.project_id)
            and name in {None, image.name}
            and (tag is None or tag in image.tags)
            and all(image.properties.get(key) == value for key, value in wanted)
        ]

    def image(self, image_id: str) -> ImageRecord:
        self.cloud.fails("image")
        if image_id not in self.cloud.images:
            raise ImageNotFoundError(f"there is no image {image_id}")
        return self.cloud.images[image_id]

    def create(self, spec: ImageSpec, content: Content, *, timeout: float, properties_at: str) -> ImageRecord:
        del timeout, properties_at
        self.cloud.fails("create")
        received = b"".join(content)
        moment = self.cloud.tick()
        image = record(
            f"new-{self.cloud.made}",
            name=spec.name,
            owner=spec.owner or self.project_id,
            visibility=spec.visibility,
            hidden=spec.hidden,
            protected=spec.protected,
            disk_format=spec.disk_format,
            container_format=spec.container_format,
            size=len(received),
            min_disk=spec.min_disk,
            min_ram=spec.min_ram,
            tags=frozenset(spec.tags),
            properties=dict(spec.properties),
            hash_value=hashlib.sha512(received).hexdigest(),
            created=moment,
            updated=moment,
        )
        self.cloud.contents[image.id] = received
        self._put(image)
        try:
            self.cloud.answers("create")
        except ApiError:
            del self.cloud.images[image.id]  # as the Protocol says: when anything fails it is removed again
            raise
        return image

    def change(self, image_id: str, change: Change) -> ImageRecord:
        self.cloud.fails("change")
        image = self._own(image_id)
        properties = {**image.properties, **change.properties}
        given = {
            key: getattr(change, key)
            for key in ("name", "visibility", "hidden", "protected", "tags")
            if getattr(change, key) is not None
        }
        image = dataclasses.replace(
            image,
            **given,
            properties={key: value for key, value in properties.items() if value is not None},
            updated=self.cloud.tick(),
        )
        self._put(image)
        self.cloud.answers("change")
        return image

    def delete(self, image_id: str) -> None:
        self.cloud.fails("delete")
        if image_id not in self.cloud.images:
            return
        if self._own(image_id).protected:
            raise ApiError(f"image {image_id} is protected", status=403)
        if image_id in self.cloud.in_store:
            raise ApiError(f"image {image_id} is in use", status=409)
        del self.cloud.images[image_id]
        self.cloud.changed()
        self.cloud.answers("delete")

    def project(self, name_or_id: str) -> str:
        return name_or_id

    def project_name(self, project_id: str) -> str | None:
        return project_id

    def download(self, image_id: str) -> Iterator[bytes]:
        self.cloud.fails("download")
        yield self.cloud.contents[image_id]

    def fetches_from(self, other: Region) -> str | None:
        del other
        return None

    def members(self, image_id: str) -> Mapping[str, str]:
        return self.cloud.members.get(image_id, {})

    def share(self, image_id: str, project_id: str) -> bool:
        self.cloud.fails("share")
        self.cloud.members.setdefault(image_id, {})[project_id] = "pending"
        return False

    def uses(self, image_ids: Collection[str]) -> Mapping[str, str]:
        self.cloud.fails("uses")
        if not self.admin:
            raise NovaForbiddenError("not an admin", status=403)
        users = (self.cloud.servers, self.cloud.volumes)
        return {one: f"{where[one][0]}" for where in users for one in image_ids if where.get(one)}

    def use(self, image_id: str) -> str | None:
        self.cloud.fails("use")
        users = (self.cloud.servers, self.cloud.volumes)
        return next((user for where in users for user in where.get(image_id, ())), None)

    def needed_by(self, image_id: str) -> str | None:
        self.cloud.fails("needed_by")
        for image in self.cloud.images.values():
            if image_id in {image.properties.get("kernel_id"), image.properties.get("ramdisk_id")}:
                return f"image {image.id}"
        return None

    def close(self) -> None:
        """There is no connection."""

    def _own(self, image_id: str) -> ImageRecord:
        image = self.cloud.images.get(image_id)
        if image is None:
            raise ImageNotFoundError(f"there is no image {image_id}")
        if image.owner != self.project_id:
            raise ApiError(f"image {image_id} belongs to {image.owner}", status=403)
        return image

    def _put(self, image: ImageRecord) -> None:
        self.cloud.images[image.id] = image
        self.cloud.changed()
