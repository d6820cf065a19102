"""Resources that runs left and no ledger records any more: found by their marks, once their time is over.

Each removal needs several proofs. The resource has a name of a test run and a mark that users' copies do not
inherit. Its lifetime and its lease are over by the cloud's clock. No other resource of its run lives, and no
mark says that it is kept. A resource in doubt stays.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterator
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.openstack import images, keypairs, networks, servers
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.leases import cloud_time
from pytest_dibctl.clouds.protocols import GRACE, LIFETIME, LeakedResource
from pytest_dibctl.errors import InstanceError

SNAPSHOT = "snapshot"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Marked:
    """A resource with a mark of ours. ``made``, ``end`` and ``kept`` are seconds since 1970, by the cloud.

    ``end`` is the later end of its lifetime and its lease; ``kept`` is None unless it is kept.
    """

    kind: str
    name: str
    id: str
    run_id: str
    made: float
    end: float
    kept: float | None
    parts: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()

    def is_kept(self, now: float) -> bool:
        return self.kept is not None and now <= self.kept + GRACE

    def is_over(self, now: float) -> bool:
        """Whether nothing of the resource itself says that it is still wanted."""
        return now > self.end + GRACE and not self.is_kept(now)

    def lives(self, now: float) -> bool:
        """Whether its run may live; what is kept outlives its run."""
        return self.kept is None and now <= self.end + GRACE

    def leaked(self, now: float) -> LeakedResource:
        why = f"made {(now - self.made) / 3600:.0f} hours ago"
        return LeakedResource(kind=self.kind, name=self.name, id=self.id, run_id=self.run_id, why=why)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """The resources of the project at one moment. ``servers`` are all of them, ours or not."""

    now: float
    servers: list[Any]
    marked: list[_Marked]


def _look(api: Api) -> _Seen:
    now = cloud_time(api)  # first: what is made or renewed from here on counts as alive
    listed = api.safely("compute", "list instances", lambda: list(api.compute.servers()))
    marked = [*_servers(listed, now), *_images(api, now), *_keypairs(api, now)]
    return _Seen(now=now, servers=listed, marked=marked)


def find(api: Api, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:
    """Return the project's leaked resources, instances first, without those of the runs in ``spare``.

    Raises ApiError and its like, also where the services do not tell the time.
    """
    seen = _look(api)
    now = seen.now
    living = {*spare, *(one.run_id for one in seen.marked if one.lives(now))}
    over = [one for one in seen.marked if one.is_over(now) and one.run_id not in living]
    old_servers = [one for one in over if one.kind == "instance"]
    gone = {one.id for one in old_servers}
    staying = [server for server in seen.servers if server.id not in gone]
    # By name too: a keypair is used by its name.
    used = {_image_of(server) for server in staying} | {server.key_name for server in staying}
    kept = [one for one in seen.marked if one.kind == "image" and (one.is_kept(now) or one.id in used)]
    needed = {part for one in kept for part in one.parts}
    rest = [one for one in over if one.kind != "instance" and one.id not in {*used, *needed}]
    described = _described(api, {server.name for server in staying}, now)
    return (
        *(one.leaked(now) for one in old_servers),
        *described,
        *(one.leaked(now) for one in sorted(rest, key=lambda one: one.kind)),
    )


def remove(api: Api, resource: LeakedResource, *, timeout: float) -> None:
    """Remove a leaked resource unless it is not leaked any more; ``timeout`` is seconds for each step.

    Raises DibctlError.
    """
    identity = (resource.kind, resource.id)
    if identity not in {(other.kind, other.id) for other in find(api, spare=())}:
        if _is_there(api, resource):
            raise InstanceError(
                f"{resource.kind} {resource.name} ({resource.id}) was kept meanwhile, or is in use, "
                "or its run lives, so it is left alone"
            )
        return
    _remove(api, resource, timeout=timeout)


def _remove(api: Api, resource: LeakedResource, *, timeout: float) -> None:
    if resource.kind == "instance":
        servers.remove(api, resource.name, run_id=str(resource.run_id), timeout=timeout)
    elif resource.kind == "image":
        images.delete(api, resource.id, timeout=timeout)
    elif resource.kind == "keypair":
        keypairs.remove(api, resource.name, timeout=timeout)
    else:
        networks.remove_one(api, resource.kind, resource.id, timeout=timeout)


def _is_there(api: Api, resource: LeakedResource) -> bool:
    if resource.kind == "instance":
        return servers.find(api, resource.id) is not None
    if resource.kind == "image":
        return images.find(api, resource.id) is not None
    if resource.kind == "keypair":
        return keypairs.find(api, resource.name) is not None
    return any(item.id == resource.id for item in networks.every(api, f"{resource.kind}s"))


# -- kept ------------------------------------------------------------------------------------------


def kept(api: Api) -> tuple[LeakedResource, ...]:
    """Return the images and instances of tests that any machine marked as kept."""
    return tuple(
        dataclasses.replace(resource.leaked(0.0), why=_until(resource.kept))
        for resource in _look(api).marked
        if resource.kept is not None
    )


def _until(moment: float) -> str:
    if moment == marks.ALWAYS:
        return "kept without an end"
    return f"kept until {dt.datetime.fromtimestamp(moment, dt.UTC):%Y-%m-%d %H:%M} UTC"


def remove_kept(api: Api, resource: LeakedResource, *, timeout: float) -> None:
    """Remove a kept resource, and the keypair that nothing else uses; raises DibctlError."""
    seen = _look(api)
    mine = [one for one in seen.marked if (one.kind, one.id) == (resource.kind, resource.id)]
    if not mine:
        if _is_there(api, resource):
            raise InstanceError(
                f"{resource.kind} {resource.name} ({resource.id}) no longer has the mark of a test run"
            )
        return
    _remove(api, resource, timeout=timeout)
    others = {server.key_name for server in seen.servers if server.id != resource.id}
    for one in seen.marked:
        if one.kind == "keypair" and one.id in mine[0].uses - others:
            keypairs.remove(api, one.name, timeout=timeout)


# -- kinds -----------------------------------------------------------------------------------------


def _moment(created: str | None, now: float) -> float:
    """Return when something was made, now where the cloud does not tell it, or not readably."""
    try:
        moment = dt.datetime.fromisoformat(str(created))
    except ValueError:
        return now
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _servers(listed: list[Any], now: float) -> Iterator[_Marked]:
    for server in listed:
        metadata = dict(server.metadata or {})
        run_id = marks.run_of_server(server.name, metadata)
        if run_id is None:
            continue
        made = _moment(server.created_at, now)
        yield _Marked(
            kind="instance",
            name=server.name,
            id=server.id,
            run_id=run_id,
            made=made,
            end=max(made + marks.lifetime_of(metadata), marks.lease_of(metadata)),
            kept=marks.kept_until(metadata),
            uses=frozenset({server.key_name} - {None}),
        )


def _described(api: Api, staying: Collection[str], now: float) -> Iterator[LeakedResource]:
    """Yield floating IPs and ports that were made for an instance which is not there any more."""
    if not api.has("network"):
        return
    for kind in ("ip", "port"):
        # An administrator would see other projects' too, whose servers are not in the list.
        for item in networks.every(api, f"{kind}s"):
            owner = marks.instance_of(item.description)
            age = now - _moment(item.created_at, now)
            if owner is None or owner in staying or age <= LIFETIME + GRACE:
                continue
            name = item.floating_ip_address if kind == "ip" else item.name
            why = f"made {age / 3600:.0f} hours ago"
            yield LeakedResource(kind=kind, name=str(name), id=item.id, run_id=None, why=why)


def _images(api: Api, now: float) -> Iterator[_Marked]:
    for image in (*images.every(api), *images.snapshots(api)):
        tags = image.get("tags", ())
        run_id = marks.run_of_snapshot(image) if _is_snapshot(image) else _run_of(image)
        if run_id is None:
            continue
        made = _moment(image.get("created_at"), now)
        yield _Marked(
            kind="image",
            name=image["name"],
            id=image["id"],
            run_id=run_id,
            made=made,
            end=max(made + marks.lifetime_of_tags(tags), marks.lease_of_tags(tags)),
            kept=marks.kept_until_of_tags(tags),
            parts=frozenset(str(image[key]) for key in BOOT_KEYS if image.get(key)),
        )


def _run_of(image: dict[str, Any]) -> str | None:
    run_id = marks.run_of_tags(image.get("tags", ()))
    return run_id if run_id == marks.run_of_name(str(image.get("name"))) else None


def _is_snapshot(image: dict[str, Any]) -> bool:
    return image.get("image_type") == SNAPSHOT


def _image_of(server: Any) -> str | None:
    return (server.image or {}).get("id") if server.image else None


def _keypairs(api: Api, now: float) -> Iterator[_Marked]:
    for key in api.safely("compute", "list keypairs", lambda: list(api.compute.keypairs())):
        run_id = marks.run_of_name(key.name)
        # The comment is part of the imported key: a user who only chose such a name has another comment.
        if run_id is None or not _bears_its_name(key):
            continue
        full = keypairs.find(api, key.name)
        made = _moment(full.created_at if full is not None else None, now)
        yield _Marked(
            kind="keypair",
            name=key.name,
            id=key.name,
            run_id=run_id,
            made=made,
            end=made + LIFETIME,
            kept=None,
        )


def _bears_its_name(key: Any) -> bool:
    return str(key.public_key or "").split()[2:] == [key.name]
