"""One project's images in one region of OpenStack, and their users: the real ``regions.Region``."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from pytest_dibctl.clouds.file_body import BLOCK
from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.openstack import image_documents, image_upload, images, shapes
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.lists import pages
from pytest_dibctl.clouds.openstack.refusals import CONFLICT, raise_for_status
from pytest_dibctl.clouds.openstack.uses import ImageUses
from pytest_dibctl.clouds.regions import Change, Content, ImageRecord, ImageSpec, Region
from pytest_dibctl.errors import ApiError, DibctlError, NotInConfigError

DOWNLOAD = 3600.0
"""Seconds for which a token should be good when a download begins; it is asked for once only."""
PATCH = "application/openstack-images-v2.1-json-patch"


class OpenStackRegion:
    """A project in a region. ``where`` is the place of the keystone section, for messages."""

    def __init__(self, api: Api, *, name: str, where: str) -> None:
        self.api = api
        self._name = name
        self._where = where
        self._project: str | None = None

    @property
    def name(self) -> str:
        """The label of the environment."""
        return self._name

    @property
    def project_id(self) -> str:
        """The project logged in to."""
        if self._project is None:
            self._project = self.api.project_id
        return self._project

    def now(self) -> dt.datetime:
        """Return the time of Glance's server, from the head of an answer; raises ApiError without one."""
        answer = self.api.safely(
            "image",
            "ask for the time",
            lambda: raise_for_status(self.api.image.get("/images", params={"limit": "1"})),
        )
        with contextlib.suppress(KeyError, ValueError, TypeError):
            moment = email.utils.parsedate_to_datetime(answer.headers["Date"])
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
        raise ApiError(
            f"Glance of {self._name} does not tell its time, so the age of an image is not known",
            hint="configure the proxy in front of it to pass on the Date header",
        )

    def images(
        self,
        *,
        name: str | None = None,
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        owner: str | None = None,
    ) -> Iterator[ImageRecord]:
        """Yield the images of a project, the own one unless ``owner`` is given, hidden ones too."""
        owner = owner or self.project_id
        for image in images.listed(self.api, owner=owner, name=name, tag=tag, properties=properties):
            yield image_documents.record(image)

    def image(self, image_id: str) -> ImageRecord:
        """Return an image; raises ImageNotFoundError."""
        return image_documents.record(images.get(self.api, image_id))

    def create(self, spec: ImageSpec, content: Content, *, timeout: float, properties_at: str) -> ImageRecord:
        """Make an image, verified; when anything fails it is removed again."""
        made = image_upload.create(self.api, content, spec, timeout=timeout, properties_at=properties_at)
        return image_documents.record(made)

    def download(self, image_id: str) -> Iterator[bytes]:
        """Yield an image's bytes."""
        doing = f"download image {image_id}"
        url = f"/images/{image_id}/file"
        self.api.renew_token(DOWNLOAD)
        answer = self.api.once(
            "image",
            doing,
            lambda: raise_for_status(self.api.image.get(url, stream=True)),
        )
        with contextlib.closing(answer):
            blocks = answer.iter_content(BLOCK)
            while block := self.api.once("image", doing, lambda: next(blocks, b"")):
                yield block

    def fetches_from(self, other: Region) -> str | None:
        """Return the other region's name if it is one of the same Keystone, and Glance knows how."""
        if not isinstance(other, OpenStackRegion):
            return None
        (keystone, mine), (theirs, region) = self.place, other.place
        if keystone != theirs or region in {None, mine}:
            return None
        with contextlib.suppress(DibctlError):
            answer = self.api.safely(
                "image",
                "ask for import methods",
                lambda: shapes.read(
                    raise_for_status(self.api.image.get("/info/import")), shapes.ImportMethods
                ),
            )
            if "glance-download" in answer["import-methods"]["value"]:
                return region
        return None

    @property
    def place(self) -> tuple[str, str | None]:
        """The Keystone and the region."""
        config = self.api.connection.config
        return str(config.get_auth_args().get("auth_url")).rstrip("/"), config.get_region_name()

    def change(self, image_id: str, change: Change) -> ImageRecord:
        """Change an image by one PATCH, which Glance carries out whole or not at all."""
        doing = f"change image {image_id}"

        def patch() -> Any:
            # Read anew each time: after an answer that got lost, what was to be added is there already.
            present = images.get(self.api, image_id)
            steps = list(image_documents.patch(present, change))
            if not steps:
                return present
            answer = self.api.image.patch(
                f"/images/{image_id}", json=steps, headers={"Content-Type": PATCH, "Accept": ""}
            )
            return shapes.read(raise_for_status(answer), shapes.Image)

        return image_documents.record(self.api.safely("image", doing, patch))

    def delete(self, image_id: str) -> None:
        """Delete an image and wait until it is gone."""
        images.delete(self.api, image_id)

    # -- projects ------------------------------------------------------------------------------

    def project(self, name_or_id: str) -> str:
        """Return a project's id: of those the user may see, or of those it has a role in."""
        for project in self._projects(name_or_id):
            if name_or_id in {project["id"], project["name"]}:
                return str(project["id"])
        if _looks_like_id(name_or_id):
            return name_or_id
        raise NotInConfigError(
            f"{self._where}: there is no project {name_or_id!r} that these credentials can see",
            hint="give the project's id instead of its name",
        )

    def project_name(self, project_id: str) -> str | None:
        """Return a project's name, None where these credentials cannot tell it."""
        for project in self._projects(project_id):
            if project["id"] == project_id:
                return str(project["name"])
        return None

    def _projects(self, name_or_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield the projects that Keystone shows: by that id, by that name, and the user's own."""
        with contextlib.suppress(DibctlError):
            yield self._identity(
                "find a project", f"/projects/{quote(name_or_id, safe='')}", {}, shapes.OneProject
            )["project"]
        with contextlib.suppress(DibctlError):
            yield from self._identity("find projects", "/projects", {"name": name_or_id}, shapes.Projects)[
                "projects"
            ]
        with contextlib.suppress(DibctlError):
            yield from self._identity("find one's projects", "/auth/projects", {}, shapes.Projects)[
                "projects"
            ]

    def _identity(self, doing: str, url: str, params: Mapping[str, str], shape: Any) -> Any:
        return self.api.safely(
            "identity",
            doing,
            lambda: shapes.read(
                raise_for_status(self.api.connection.identity.get(url, params=params)), shape
            ),
        )

    def members(self, image_id: str) -> Mapping[str, str]:
        """Return the projects an image is shared with."""
        answer = self.api.safely(
            "image",
            f"list the members of image {image_id}",
            lambda: shapes.read(
                raise_for_status(self.api.image.get(f"/images/{image_id}/members")), shapes.Members
            ),
        )
        return {str(member["member_id"]): str(member["status"]) for member in answer["members"]}

    def share(self, image_id: str, project_id: str) -> bool:
        """Make a project a member of an image, and accept it for it if these credentials can."""
        try:
            self.api.safely(
                "image",
                f"share image {image_id} with project {project_id}",
                lambda: raise_for_status(
                    self.api.image.post(f"/images/{image_id}/members", json={"member": project_id})
                ),
            )
        except ApiError as error:
            if error.status != CONFLICT:  # it is a member already
                raise
        return self._accept(self.api.image, image_id, project_id) or self._accept_as(image_id, project_id)

    def _accept_as(self, image_id: str, project_id: str) -> bool:
        """Accept an image as the member itself, where the user has a role in that project too."""
        with contextlib.suppress(Exception):  # if Keystone refuses, it stays pending
            as_member = self.api.connection.connect_as_project(project_id)
            with contextlib.closing(as_member):
                return self._accept(as_member.image, image_id, project_id)
        return False

    @staticmethod
    def _accept(proxy: Any, image_id: str, project_id: str) -> bool:
        answer = proxy.put(f"/images/{image_id}/members/{project_id}", json={"status": "accepted"})
        return bool(answer.ok)

    # -- uses of images ------------------------------------------------------------------------

    def uses(self, image_ids: Collection[str]) -> Mapping[str, str]:
        """Return who uses which of the images."""
        return ImageUses(self.api, where=self._where).of(image_ids)

    def use(self, image_id: str) -> str | None:
        """Return which server or volume uses an image by now."""
        return ImageUses(self.api, where=self._where).user_of(image_id)

    def needed_by(self, image_id: str) -> str | None:
        """Return which image, of all that these credentials can see, needs this one to boot."""
        for key in BOOT_KEYS:
            for hidden in ("false", "true"):
                query = {key: image_id, "limit": "1", "os_hidden": hidden}
                for image in pages(self.api, "image", "/images", query, "images"):
                    return f"image {image.get('name')} ({image['id']}) needs it as its {key}"
        return None

    def close(self) -> None:
        """Close the login."""
        self.api.close()


def _looks_like_id(text: str) -> bool:
    plain = text.replace("-", "")
    return len(plain) == 32 and all(letter in "0123456789abcdef" for letter in plain.lower())  # noqa: PLR2004
