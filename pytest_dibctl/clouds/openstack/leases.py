"""The marks that change while a resource lives: its run's lease, and that it is kept.

Times are the cloud's: each is asked for first, so that a machine with a wrong clock marks nothing wrongly.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack import images, run_images, servers
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.clouds.openstack.services import PROJECTS, Service
from pytest_dibctl.clouds.protocols import LIFETIME
from pytest_dibctl.errors import ApiError

_CHEAP: Mapping[Service, str] = {
    "image": "/images?limit=1",
    "compute": "/servers/detail?limit=1",
    "network": "/networks?limit=1",
}


def cloud_time(api: Api) -> float:
    """Return the seconds since 1970 by the cloud's clocks: the earliest, where its services disagree.

    Raises ApiError where a service tells no time: nothing can be judged then.
    """
    services = [service for service in _CHEAP if service != "network" or api.has(service)]
    return min(_time_of(api, service) for service in services)


def _time_of(api: Api, service: Service) -> float:
    def ask() -> str:
        return str(raise_for_status(getattr(api, service).get(_CHEAP[service])).headers.get("Date") or "")

    text = api.safely(service, "ask for the time", ask)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        raise ApiError(
            f"{PROJECTS[service]} does not say what time it is (its Date header is {text!r}), "
            "so no age can be judged"
        ) from None


def renew(api: Api, kind: str, name: str, details: Mapping[str, Any], *, run_id: str) -> None:
    """Have the lease of a recorded image or instance, with its parts, end ``LIFETIME`` from now."""
    until = cloud_time(api) + LIFETIME
    for image in _images(api, kind, name, details, run_id):
        images.tag(api, image["id"], marks.lease_tag(until))
        for tag in image.get("tags", ()):
            if marks.is_lease(tag) and tag != marks.lease_tag(until):
                images.untag(api, image["id"], tag)
    for server in _servers(api, kind, name, run_id):
        servers.annotate(api, server, marks.lease_metadata(until))


def keep(
    api: Api, kind: str, name: str, details: Mapping[str, Any], *, run_id: str, seconds: float | None
) -> None:
    """Mark a recorded image or instance, with its parts, as kept, for ``seconds`` (None: always)."""
    until = None if seconds is None else cloud_time(api) + seconds
    for image in _images(api, kind, name, details, run_id):
        for tag in marks.kept_tags(until):
            images.tag(api, image["id"], tag)
    for server in _servers(api, kind, name, run_id):
        servers.annotate(api, server, marks.kept_metadata(run_id, until))


def _images(api: Api, kind: str, name: str, details: Mapping[str, Any], run_id: str) -> list[dict[str, Any]]:
    if kind == "image":
        return images.named(api, run_images.names(name), marks.tags(run_id))
    titles = [str(title) for key, title in details.items() if key.startswith("snapshot")]
    return [image for image in images.named(api, titles, ()) if marks.run_of_snapshot(image) == run_id]


def _servers(api: Api, kind: str, name: str, run_id: str) -> list[Any]:
    if kind != "instance":
        return []
    named = servers.named(api, name)
    return [server for server in named if (server.metadata or {}).get(marks.RUN_KEY) == run_id]
