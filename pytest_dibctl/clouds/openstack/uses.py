"""Servers and volumes of all projects, as far as they use images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.lists import MICROVERSIONS, pages
from pytest_dibctl.clouds.openstack.refusals import FORBIDDEN, raise_for_status
from pytest_dibctl.errors import ApiError, NovaForbiddenError

ADMIN_HINT = (
    "only a login that may list the servers of all projects can tell whether an image is in use: run this "
    "as an admin, or grant the role with `openstack role add --user USER --project PROJECT admin` (Nova's "
    "policy os_compute_api:servers:detail:get_all_tenants)"
)

IN_CREATION = ("creating", "downloading")
"""The states of a volume that Cinder fills, in their order; filled anew, it is "downloading" only."""
UNKNOWN_FILTER = {"all_tenants": "1", "limit": "1", "dibctl_sees_all_projects": "1"}
BAD_REQUEST = 400


class ImageUses:
    """The users of images. ``where`` is the place of the keystone section, for messages."""

    def __init__(self, api: Api, *, where: str) -> None:
        self._api = api
        self._where = where

    def of(self, image_ids: Collection[str]) -> Mapping[str, str]:
        """Return the users of the images; memory grows with these images, not with all servers."""
        ids = set(image_ids)
        users = _Users()
        for server in self._servers():
            users.add_server(server, ids)
        if self._api.has("volume"):
            for volume in self._volumes():
                users.add_volume(volume, ids)
        elif users.without_image:
            for image_id in ids:
                users.note(image_id, f"perhaps {users.without_image}, which shows no image, and no Cinder")
        return users.told()

    def user_of(self, image_id: str) -> str | None:
        """Return which server or volume uses an image by now."""
        for server in self._everybody(image=image_id, limit="1"):
            if _image_of(server) in {image_id, None}:
                return _server_words(server)
        return self._volume_of(image_id) if self._api.has("volume") else None

    def _volume_of(self, image_id: str) -> str | None:
        # In this order no volume goes unseen that passes from one list to the next meanwhile.
        lists: list[dict[str, str]] = [{"status": status} for status in IN_CREATION]
        lists.append({"glance_metadata": str({"image_id": image_id})})
        for query in lists:
            for volume in self._volumes(**query):
                if _is_in_creation(volume) or _volume_image(volume) == image_id:
                    return _volume_words(volume)
        return None

    def _servers(self) -> Iterator[Mapping[str, Any]]:
        """Yield the servers of all projects; those whose cell is down come without an image."""
        yield from self._everybody()
        # Nova leaves these out otherwise, and they can be restored.
        yield from self._everybody(status="soft_deleted")

    def _everybody(self, **query: str) -> Iterator[Mapping[str, Any]]:
        everything = {**query, "all_tenants": "1"}
        try:
            yield from pages(self._api, "compute", "/servers/detail", everything, "servers")
        except NovaForbiddenError as error:
            raise NovaForbiddenError(
                f"{self._where}: {error.message}", status=error.status, hint=ADMIN_HINT
            ) from None

    def _volumes(self, **filters: str) -> Iterator[Mapping[str, Any]]:
        self._check_sees_all_volumes()
        query = {**filters, "all_tenants": "1"}
        for volume in pages(self._api, "volume", "/volumes/detail", query, "volumes"):
            if "os-vol-host-attr:host" not in volume:  # by default only admins see it
                raise self._blind()
            yield volume

    def _check_sees_all_volumes(self) -> None:
        """Raise NovaForbiddenError unless Cinder proves that it heeds ``all_tenants`` of this login.

        Cinder does not refuse ``all_tenants`` to others than admins: it ignores it, so an empty list proves
        nothing. But it refuses a filter that it does not know, unless the login is an admin by the very rule
        (``context_is_admin``) by which it heeds ``all_tenants``; an admin gets an empty list.
        """
        version = MICROVERSIONS["volume"]

        def ask() -> bool:
            answer = self._api.volume.get(
                f"/volumes/detail?{urlencode(UNKNOWN_FILTER)}", microversion=version
            )
            if answer.status_code == BAD_REQUEST:
                return False
            document = raise_for_status(answer).json()
            # An older Cinder, or a proxy that drops the version, would drop the filter as well.
            heeded = answer.headers.get("OpenStack-API-Version", "").split() == ["volume", version]
            return bool(heeded and document["volumes"] == [])

        if not self._api.safely("volume", "ask whether all volumes can be seen", ask):
            raise self._blind()

    def _blind(self) -> NovaForbiddenError:
        return NovaForbiddenError(
            f"{self._where}: cannot list the volumes of all projects", status=FORBIDDEN, hint=ADMIN_HINT
        )


class _Users:
    """The users of each image, described by the first user and a number."""

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
        if _is_in_creation(volume):
            for image_id in wanted:
                self.note(image_id, _volume_words(volume))
        elif (made_of := _volume_image(volume)) is not None and made_of in wanted:
            self.note(made_of, _volume_words(volume))

    def told(self) -> dict[str, str]:
        return {
            image_id: who if self._count[image_id] == 1 else f"{who} and {self._count[image_id] - 1} more"
            for image_id, who in self._first.items()
        }


def _image_of(server: Mapping[str, Any]) -> str | None:
    """Return the id of a server's image, None for a server that is booted from a volume."""
    image = server.get("image")
    return str(image["id"]) if isinstance(image, Mapping) and image.get("id") else None


def _volume_image(volume: Mapping[str, Any]) -> str | None:
    """Return the id of the image that a volume was made of, None if it shows none."""
    image_id = (volume.get("volume_image_metadata") or {}).get("image_id")
    return str(image_id) if image_id else None


def _is_in_creation(volume: Mapping[str, Any]) -> bool:
    """Whether a volume is being filled: until the end it shows no image, or its former image."""
    return str(volume.get("status")).lower() in IN_CREATION


def _volume_words(volume: Mapping[str, Any]) -> str:
    words = f"volume {volume.get('name') or volume['id']}"
    if _is_in_creation(volume):
        return f"perhaps {words}, which is {volume['status']} and does not show its image"
    attached = [str(attachment.get("server_id")) for attachment in volume.get("attachments") or ()]
    return f"{words}, of server {attached[0]}" if attached else words


def _server_words(server: Mapping[str, Any]) -> str:
    return f"server {server.get('name') or server['id']} of project {server.get('tenant_id', '?')}"
