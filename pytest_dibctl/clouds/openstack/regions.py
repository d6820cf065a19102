"""One project's images in one region of OpenStack, and who uses them: ``regions.Region`` for real."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from pytest_dibctl.clouds.openstack import images
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import CONFLICT, FORBIDDEN, raise_for_status
from pytest_dibctl.clouds.regions import Change, Content, ImageRecord, ImageSpec, Region
from pytest_dibctl.errors import ApiError, DibctlError, NotInConfigError, NovaForbiddenError

PAGE = 1000
"""Images or servers asked for at a time; a service may give fewer."""
DOWNLOAD = 3600.0
"""Seconds for which a token should be good when a download begins; it is asked for once only."""
MICROVERSION = "2.69"
"""Nova's version that names servers it cannot describe, because their cell is down, instead of none."""
PATCH = "application/openstack-images-v2.1-json-patch"
OWN = frozenset(
    {
        *images.RESERVED,
        *("self", "file", "schema", "direct_url"),
    }
)
"""What Glance shows of an image that is no property."""
ADMIN_HINT = (
    "whether an image is in use can be told only by whoever may list the servers of all projects: have an "
    "admin run this, or grant the role with `openstack role add --user USER --project PROJECT admin` "
    "(Nova's policy os_compute_api:servers:detail:get_all_tenants)"
)


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
        """Return the time of Glance's server, from the head of an answer."""
        answer = self.api.safely(
            "image",
            "ask for the time",
            lambda: raise_for_status(self.api.image.get("/images", params={"limit": "1"})),
        )
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return email.utils.parsedate_to_datetime(answer.headers["Date"]).astimezone(dt.UTC)
        return dt.datetime.now(dt.UTC)

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
        query = {**(properties or {}), "owner": owner, "limit": str(PAGE)}
        if tag is not None:
            query["tag"] = tag
        if name is not None:
            # Glance splits what stands behind "in:" at commas outside of quotes; a bare name it takes whole,
            # unless it looks like an operator.
            query["name"] = f'in:"{name}"' if name.startswith(("in:", "eq:", "neq:")) else name
        for hidden in ("false", "true"):
            for found in self._pages("image", "/images", {**query, "os_hidden": hidden}, "images"):
                named = name in {None, found.get("name")}
                tagged = tag is None or tag in found.get("tags", ())
                if found.get("owner") == owner and named and tagged:
                    yield record(found)

    def image(self, image_id: str) -> ImageRecord:
        """Return an image; raises ImageNotFoundError."""
        return record(images.get(self.api, image_id))

    def create(self, spec: ImageSpec, content: Content, *, timeout: float, properties_at: str) -> ImageRecord:
        """Make an image, verified; when anything fails it is removed again."""
        made = images.create_from(self.api, content, spec, timeout=timeout, properties_at=properties_at)
        return record(made)

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
            blocks = answer.iter_content(images.BLOCK)
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
                lambda: raise_for_status(self.api.image.get("/info/import")).json(),
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
            steps = list(_steps(present, change))
            if not steps:
                return present
            answer = self.api.image.patch(
                f"/images/{image_id}", json=steps, headers={"Content-Type": PATCH, "Accept": ""}
            )
            return raise_for_status(answer).json()

        return record(self.api.safely("image", doing, patch))

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
        """Yield what projects Keystone shows, whichever way it does."""
        with contextlib.suppress(DibctlError):
            yield self._identity("find a project", f"/projects/{quote(name_or_id, safe='')}", {})["project"]
        with contextlib.suppress(DibctlError):
            yield from self._identity("find projects", "/projects", {"name": name_or_id})["projects"]
        with contextlib.suppress(DibctlError):
            yield from self._identity("find one's projects", "/auth/projects", {})["projects"]

    def _identity(self, doing: str, url: str, params: Mapping[str, str]) -> Any:
        return self.api.safely(
            "identity",
            doing,
            lambda: raise_for_status(self.api.connection.identity.get(url, params=params)).json(),
        )

    def members(self, image_id: str) -> Mapping[str, str]:
        """Return the projects an image is shared with."""
        found = self.api.safely(
            "image",
            f"list the members of image {image_id}",
            lambda: raise_for_status(self.api.image.get(f"/images/{image_id}/members")).json(),
        )
        return {str(member["member_id"]): str(member["status"]) for member in found["members"]}

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
        with contextlib.suppress(Exception):  # whatever Keystone says: then it stays pending
            there = self.api.connection.connect_as_project(project_id)
            with contextlib.closing(there):
                return self._accept(there.image, image_id, project_id)
        return False

    @staticmethod
    def _accept(proxy: Any, image_id: str, project_id: str) -> bool:
        answer = proxy.put(f"/images/{image_id}/members/{project_id}", json={"status": "accepted"})
        return bool(answer.ok)

    # -- who uses what -------------------------------------------------------------------------

    def uses(self, image_ids: Collection[str]) -> Mapping[str, str]:
        """Return who uses which of the images; memory grows with these, not with what there is."""
        wanted = set(image_ids)
        users = _Users()
        for server in self._servers():
            users.add_server(server, wanted)
        if self.api.has("volume"):
            for volume in self._volumes():
                users.add_volume(volume, wanted)
        elif users.without_image:
            for image_id in wanted:
                users.note(image_id, f"perhaps {users.without_image}, which shows no image, and no Cinder")
        return users.told()

    def use(self, image_id: str) -> str | None:
        """Return which server uses an image by now."""
        for server in self._everybody(image=image_id, limit="1"):
            if _image_of(server) in {image_id, None}:
                return _server_words(server)
        return None

    def needed_by(self, image_id: str) -> str | None:
        """Return which image, of whomever these credentials can see, needs this one to boot."""
        for key in ("kernel_id", "ramdisk_id"):
            for hidden in ("false", "true"):
                query = {key: image_id, "limit": "1", "os_hidden": hidden}
                for found in self._pages("image", "/images", query, "images"):
                    return f"image {found.get('name')} ({found['id']}) needs it as its {key}"
        return None

    def _servers(self) -> Iterator[Mapping[str, Any]]:
        """Yield the servers of all projects; those whose cell is down come without an image."""
        yield from self._everybody()
        # Nova leaves these out otherwise, and they can be restored.
        yield from self._everybody(status="soft_deleted")

    def _everybody(self, **query: str) -> Iterator[Mapping[str, Any]]:
        everything = {"limit": str(PAGE), **query, "all_tenants": "1"}
        try:
            yield from self._pages("compute", "/servers/detail", everything, "servers")
        except NovaForbiddenError as error:
            raise NovaForbiddenError(
                f"{self._where}: {error.message}", status=error.status, hint=ADMIN_HINT
            ) from None

    def _volumes(self) -> Iterator[Mapping[str, Any]]:
        query = {"all_tenants": "1", "limit": str(PAGE)}
        for volume in self._pages("volume", "/volumes/detail", query, "volumes"):
            # Cinder does not refuse all_tenants to others than admins: it ignores it. Only they see the host.
            if "os-vol-host-attr:host" not in volume:
                raise NovaForbiddenError(
                    f"{self._where}: cannot list the volumes of all projects",
                    status=FORBIDDEN,
                    hint=ADMIN_HINT,
                )
            yield volume

    def _pages(
        self, service: Any, url: str, query: Mapping[str, str], key: str
    ) -> Iterator[Mapping[str, Any]]:
        options = {"microversion": MICROVERSION} if service == "compute" else {}
        following: str | None = f"{url}?{urlencode(query)}"
        while following:
            address = following
            page = self.api.safely(
                service,
                f"list {key}",
                lambda address=address: raise_for_status(  # type: ignore[misc]
                    getattr(self.api, service).get(address, **options)
                ).json(),
            )
            yield from page[key]
            following = _next(page, key, url)

    def close(self) -> None:
        """Close the login."""
        self.api.close()


class _Users:
    """Who uses which image, told in the first user's words and a number."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}
        self.without_image: str | None = None

    def note(self, image_id: str, who: str) -> None:
        self._first.setdefault(image_id, who)
        self._count[image_id] = self._count.get(image_id, 0) + 1

    def add_server(self, server: Mapping[str, Any], wanted: Collection[str]) -> None:
        if "image" not in server:
            raise ApiError(
                f"Nova cannot describe server {server.get('id')}: its cell is down",
                hint="try again when all cells are up",
            )
        image_id = _image_of(server)
        if image_id is None:
            self.without_image = self.without_image or _server_words(server)
        elif image_id in wanted:
            self.note(image_id, _server_words(server))

    def add_volume(self, volume: Mapping[str, Any], wanted: Collection[str]) -> None:
        image_id = (volume.get("volume_image_metadata") or {}).get("image_id")
        if image_id in wanted:
            attached = [str(one.get("server_id")) for one in volume.get("attachments") or ()]
            where = f", of server {attached[0]}" if attached else ""
            self.note(str(image_id), f"volume {volume.get('name') or volume['id']}{where}")

    def told(self) -> dict[str, str]:
        return {
            image_id: who if self._count[image_id] == 1 else f"{who} and {self._count[image_id] - 1} more"
            for image_id, who in self._first.items()
        }


def _image_of(server: Mapping[str, Any]) -> str | None:
    """Return the id of a server's image, None for one that is booted from a volume."""
    image = server.get("image")
    return str(image["id"]) if isinstance(image, Mapping) and image.get("id") else None


def _server_words(server: Mapping[str, Any]) -> str:
    return f"server {server.get('name') or server['id']} of project {server.get('tenant_id', '?')}"


def _next(page: Mapping[str, Any], key: str, url: str) -> str | None:
    """Return the address of the next page, relative to the service: a proxy may have been named otherwise."""
    following = page.get("next")
    if following is None:
        links = page.get(f"{key}_links") or ()
        following = next((link["href"] for link in links if link.get("rel") == "next"), None)
    if not following:
        return None
    return f"{url}?{str(following).partition('?')[2]}"


def record(found: Mapping[str, Any]) -> ImageRecord:
    """Return an image, as Glance describes it, in our words."""
    return ImageRecord(
        id=str(found["id"]),
        name=str(found.get("name") or ""),
        owner=str(found.get("owner") or ""),
        status=str(found.get("status")),
        visibility=str(found.get("visibility")),
        hidden=bool(found.get("os_hidden")),
        protected=bool(found.get("protected")),
        disk_format=str(found.get("disk_format")),
        container_format=str(found.get("container_format")),
        size=found.get("size"),
        min_disk=int(found.get("min_disk") or 0),
        min_ram=int(found.get("min_ram") or 0),
        tags=frozenset(found.get("tags") or ()),
        properties={key: str(value) for key, value in found.items() if _is_property(key, value)},
        hash_algorithm=found.get("os_hash_algo"),
        hash_value=found.get("os_hash_value"),
        checksum=found.get("checksum"),
        created=_time(found.get("created_at")),
        updated=_time(found.get("updated_at")),
    )


def _is_property(key: str, value: Any) -> bool:
    return value is not None and key not in OWN and not key.startswith("os_glance_")


def _time(text: Any) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(str(text)).astimezone(dt.UTC)
    except ValueError:
        return dt.datetime.fromtimestamp(0, dt.UTC)


def _steps(present: Mapping[str, Any], change: Change) -> Iterator[dict[str, Any]]:
    """Yield the JSON patch that makes ``present`` what ``change`` says."""
    wanted = {
        "name": change.name,
        "visibility": change.visibility,
        "os_hidden": change.hidden,
        "protected": change.protected,
        "tags": None if change.tags is None else sorted(change.tags),
    }
    for key, value in wanted.items():
        if value is not None and value != present.get(key):
            yield {"op": "replace" if key in present else "add", "path": f"/{key}", "value": value}
    for key, text in change.properties.items():
        path = "/" + key.replace("~", "~0").replace("/", "~1")
        if text is None:
            if key in present:
                yield {"op": "remove", "path": path}
        elif present.get(key) != text:
            yield {"op": "replace" if key in present else "add", "path": path, "value": text}


def _looks_like_id(text: str) -> bool:
    plain = text.replace("-", "")
    return len(plain) == 32 and all(letter in "0123456789abcdef" for letter in plain.lower())  # noqa: PLR2004
