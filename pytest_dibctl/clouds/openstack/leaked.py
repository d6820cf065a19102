"""Resources that runs left and no ledger records any more: found by their marks, once their time is over.

Each resource needs several proofs: a name of ours, a mark that users' copies do not inherit, an age by the
cloud's clock beyond its lifetime, and no mark that it was kept. A resource in doubt stays.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Collection, Iterator
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.openstack import images, keypairs, networks, servers
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.clouds.protocols import LIFETIME, LeakedResource
from pytest_dibctl.errors import InstanceError

SNAPSHOT = "snapshot"


def find(api: Api, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:
    """Return the project's leaked resources, instances first, without those of the runs in ``spare``.

    Raises ApiError and its like.
    """
    now = _server_time(api)
    listed = api.safely("compute", "list instances", lambda: list(api.compute.servers()))
    old_servers = [*_servers(listed, now, spare)]
    gone = {resource.id for resource in old_servers}
    staying = [server for server in listed if server.id not in gone]
    resources = [*old_servers, *_described(api, {server.name for server in staying}, now)]
    resources += _images(api, {_image_of(server) for server in staying}, now, spare)
    resources += _keypairs(api, {server.key_name for server in staying}, now, spare)
    return tuple(resources)


def remove(api: Api, resource: LeakedResource, *, timeout: float) -> None:
    """Remove a leaked resource; ``timeout`` is seconds for each step. Raises DibctlError."""
    if resource.kind == "instance":
        servers.remove(api, resource.name, run_id=str(resource.run_id), timeout=timeout)
    elif resource.kind == "image":
        _still_ours(api, resource)
        images.delete(api, resource.id, timeout=timeout)
    elif resource.kind == "keypair":
        keypairs.remove(api, resource.name, timeout=timeout)
    else:
        networks.remove_one(api, resource.kind, resource.id, timeout=timeout)


def _still_ours(api: Api, resource: LeakedResource) -> None:
    """Raise InstanceError if an image was kept, or became something else, since it was listed."""
    image = api.find("image", f"image {resource.id}", lambda: images.get(api, resource.id))
    if image is not None and (marks.KEPT in image.get("tags", ()) or _is_snapshot(image)):
        raise InstanceError(f"image {resource.name} ({resource.id}) was kept meanwhile, so it is left alone")


# -- clocks ----------------------------------------------------------------------------------------


def _server_time(api: Api) -> dt.datetime:
    """Return the time by the cloud's clock."""

    def ask() -> dt.datetime:
        response = raise_for_status(api.image.get("/images", params={"limit": "1"}))
        return email.utils.parsedate_to_datetime(response.headers["Date"])

    return api.safely("image", "ask for the time", ask)


def _age(created: str | None, now: dt.datetime) -> float:
    """Return the age in seconds, 0 where the cloud tells no time of creation."""
    if not created:
        return 0.0
    moment = dt.datetime.fromisoformat(created)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (now - moment).total_seconds()


def _why(age: float) -> str:
    return f"made {age / 3600:.0f} hours ago"


# -- kinds -----------------------------------------------------------------------------------------


def _servers(listed: list[Any], now: dt.datetime, spare: Collection[str]) -> Iterator[LeakedResource]:
    for server in listed:
        metadata = dict(server.metadata or {})
        run_id = marks.run_of_server(server.name, metadata)
        age = _age(server.created_at, now)
        if (
            run_id is None
            or run_id in spare
            or marks.KEPT_KEY in metadata
            or age <= marks.lifetime_of(metadata)
        ):
            continue
        yield LeakedResource(kind="instance", name=server.name, id=server.id, run_id=run_id, why=_why(age))


def _described(api: Api, staying: Collection[str], now: dt.datetime) -> Iterator[LeakedResource]:
    """Yield floating IPs and ports that were made for an instance which is not there any more."""
    if not api.has("network"):
        return
    for kind in ("ip", "port"):
        # An administrator would see other projects' too, whose servers are not in the list.
        for item in networks.every(api, f"{kind}s"):
            owner = marks.instance_of(item.description)
            age = _age(item.created_at, now)
            if owner is None or owner in staying or age <= LIFETIME:
                continue
            name = item.floating_ip_address if kind == "ip" else item.name
            yield LeakedResource(kind=kind, name=str(name), id=item.id, run_id=None, why=_why(age))


def _images(
    api: Api, used: Collection[str | None], now: dt.datetime, spare: Collection[str]
) -> Iterator[LeakedResource]:
    images_of_tests = list(images.every(api))
    needed = {part for image in images_of_tests if image["id"] in used for part in _parts(image)}
    kept = {
        part for image in images_of_tests if marks.KEPT in image.get("tags", ()) for part in _parts(image)
    }
    for image in images_of_tests:
        tags = image.get("tags", ())
        run_id = marks.run_of_tags(tags)
        age = _age(image.get("created_at"), now)
        if run_id is None or run_id in spare or run_id != marks.run_of_name(str(image.get("name"))):
            continue
        if marks.KEPT in tags or image["id"] in {*used, *needed, *kept} or _is_snapshot(image):
            continue
        if age > marks.lifetime_of_tags(tags):
            yield LeakedResource(
                kind="image", name=image["name"], id=image["id"], run_id=run_id, why=_why(age)
            )


def _parts(image: dict[str, Any]) -> set[str]:
    return {str(image[key]) for key in BOOT_KEYS if image.get(key)}


def _is_snapshot(image: dict[str, Any]) -> bool:
    return image.get("image_type") == SNAPSHOT


def _image_of(server: Any) -> str | None:
    return (server.image or {}).get("id") if server.image else None


def _keypairs(
    api: Api, used: Collection[str | None], now: dt.datetime, spare: Collection[str]
) -> Iterator[LeakedResource]:
    for key in api.safely("compute", "list keypairs", lambda: list(api.compute.keypairs())):
        run_id = marks.run_of_name(key.name)
        # The comment is part of the imported key: a user who only chose such a name has another comment.
        if run_id is None or run_id in spare or key.name in used or not _bears_its_name(key):
            continue
        full = keypairs.find(api, key.name)
        age = _age(full.created_at, now) if full is not None else 0.0
        if age > LIFETIME:
            yield LeakedResource(kind="keypair", name=key.name, id=key.name, run_id=run_id, why=_why(age))


def _bears_its_name(key: Any) -> bool:
    return str(key.public_key or "").split()[2:] == [key.name]
