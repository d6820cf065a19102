"""Everything there is in a fake cloud, and what tests do to it without its API."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.messages import ADMIN, Document


@dataclasses.dataclass(kw_only=True)
class State:
    """What there is. ``lock`` guards it; calls of the API take it."""

    users: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"demo": "demo-id", "other": "other-id", ADMIN: "admin-id"}
    )
    """Names of users to ids of their projects, which are named after them."""
    passwords: set[str] = dataclasses.field(default_factory=lambda: {"secret"})
    """The passwords that Keystone takes, of every user."""
    regions: Sequence[str] = ("RegionOne",)
    """Each has images of its own, and all else together."""
    images: dict[str, dict[str, Document]] = dataclasses.field(default_factory=dict)
    """By region and id."""
    members: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """By image's id and project's id, the status of the membership."""
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    tasks: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    """Of imports, by image's id."""
    servers: dict[str, Document] = dataclasses.field(default_factory=dict)
    keypairs: dict[str, Document] = dataclasses.field(default_factory=dict)
    ports: dict[str, Document] = dataclasses.field(default_factory=dict)
    floating: dict[str, Document] = dataclasses.field(default_factory=dict)
    other_servers: Sequence[Mapping[str, Any]] = ()
    """Servers of other projects, as Nova shows them to admins: any number, made as they are asked for."""
    soft_deleted: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Mapping[str, Any]] | None = None
    """Volumes of all projects; None is a cloud without Cinder."""
    cinder_admins: set[str] = dataclasses.field(default_factory=lambda: {ADMIN})
    """Users for whom Cinder heeds all_tenants."""
    sees_hosts: set[str] = dataclasses.field(default_factory=set)
    """Other users whom a policy of Cinder's shows the hosts of volumes."""
    tells_time: bool = True
    """Whether answers have a Date."""
    in_use: set[str] = dataclasses.field(default_factory=set)
    """The ids of images that Glance's store refuses to delete."""
    import_fails: str = ""
    """What an import's task says when it fails; empty: it succeeds."""

    rate: float = 0.0
    """Bytes a second that an upload takes; 0: as fast as can be."""
    digest: str | None = None
    """The SHA-512 of all uploads, where computing it would disturb a measurement."""
    keep_contents: bool = True
    page: int = 1000
    """The most that a list has on one page."""
    builds: float = 0.0
    """Seconds for which a new server is in BUILD."""
    appears: float = 0.0
    """Seconds until a new server can be seen, as where requests queue."""
    clock: Callable[[], float] = time.time
    before: Callable[[str, str, Mapping[str, str]], None] = lambda _method, _path, _query: None
    """Called with the method, path and query of each request; it may raise Refusal."""

    url: str = ""
    """Of Keystone, while the cloud is served."""
    calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Method and path of each request."""
    made: list[str] = dataclasses.field(default_factory=list)
    """"kind name" of everything that was made through the API."""
    numbered: int = 0
    """How many addresses were given out."""
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    @property
    def project(self) -> str:
        """The id of the first user's project: the owner of what tests put there."""
        return next(iter(self.users.values()))

    def region(self, name: str = "RegionOne") -> dict[str, Document]:
        """Return the images of a region, by their ids."""
        return self.images.setdefault(name, {})

    def count(self, method: str, pattern: str) -> int:
        """Return how often a method was called at paths that match."""
        return sum(called == method and bool(re.search(pattern, path)) for called, path in self.calls)

    def now(self) -> dt.datetime:
        """Return the time by the cloud's clock, in whole seconds."""
        return dt.datetime.fromtimestamp(self.clock(), dt.UTC).replace(microsecond=0)

    def stamp(self) -> str:
        """Return the time by the cloud's clock, as documents have it."""
        return documents.stamp(self.now())

    def number(self) -> int:
        """Return a number that no address has yet."""
        self.numbered += 1
        return self.numbered

    def left(self) -> set[str]:
        """Return everything there is, as "kind name id"."""
        with self.lock:
            images = [image for region in self.images.values() for image in region.values()]
            return {
                *(f"image {image['name']} {image['id']}" for image in images),
                *(f"server {server['name']} {server['id']}" for server in self.servers.values()),
                *(f"keypair {name}" for name in self.keypairs),
                *(f"port {port['name']} {port['id']}" for port in self.ports.values()),
                *(f"floating {address['floating_ip_address']}" for address in self.floating.values()),
            }

    def clear(self) -> None:
        """Remove everything that was made."""
        with self.lock:
            for things in (self.images, self.servers, self.keypairs, self.ports, self.floating):
                things.clear()

    def add_image(
        self,
        name: str,
        *,
        region: str = "RegionOne",
        content: bytes = b"x",
        tags: Sequence[str] = (),
        **more: Any,
    ) -> str:
        """Put an active image there, as another client would have made it; return its id."""
        usual: Document = {"visibility": "private", "disk_format": "qcow2", "container_format": "bare"}
        usual |= {"status": "active", **documents.content(content)}
        more = {"owner": self.project, **usual, **more, "tags": list(tags)}
        image = documents.image(name, now=self.stamp(), **more)
        self.region(region)[image["id"]] = image
        if self.keep_contents:
            self.contents[image["id"]] = content
        return str(image["id"])

    def add_server(self, name: str, metadata: Mapping[str, str], **more: Any) -> str:
        """Put a server there, as another client would have made it; return its id."""
        server = documents.server(name, metadata, project=self.project, now=self.stamp(), since=self.clock())
        self.servers[server["id"]] = {**server, **more}
        return str(server["id"])

    def add_snapshot(self, server_id: str, name: str, **properties: str) -> str:
        """Make a snapshot of a server, with more properties; return its id."""
        base = self.region().get(self.servers[server_id]["image"]["id"], {})
        inherited: Document = {
            key: value
            for key, value in base.items()
            if isinstance(value, str) and key not in documents.NOT_INHERITED
        }
        inherited |= properties
        return self.add_image(name, **{**inherited, "image_type": "snapshot"}, instance_uuid=server_id)

    def add_keypair(self, name: str, public_key: str) -> None:
        """Put a keypair there."""
        self.keypairs[name] = documents.keypair(name, public_key, now=self.stamp())

    def add_port(self, name: str, **more: Any) -> Document:
        """Put a port there and return it."""
        more = {"project": self.project, **more}
        port = documents.port(self.number(), name=name, now=self.stamp(), **more)
        self.ports[port["id"]] = port
        return port
