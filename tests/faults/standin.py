"""An OpenStack in memory that speaks HTTP's words: as much of four services as our engine asks for.

It knows nothing of sockets: ``Cloud.handle`` turns a request into an answer, so that the same services can
stand behind a server (``server.serving``) or behind an adapter of requests (``adapter.CloudAdapter``). Its
clock is the caller's; things it was asked to make can appear late, as they do where requests queue.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime as dt
import email.utils
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

Document = dict[str, Any]
PROJECT = "0" * 31 + "1"
USER = "0" * 31 + "2"
NETWORK = "10000000-0000-0000-0000-000000000001"
EXTERNAL = "10000000-0000-0000-0000-000000000002"
SUBNET = "20000000-0000-0000-0000-000000000001"
SUBNET_V6 = "20000000-0000-0000-0000-000000000002"
FLAVOR = {"id": "1", "name": "nano", "ram": 512, "vcpus": 1, "disk": 5, "extra_specs": {}}
PASSWORD = "planted-password-9f2c"
"""A value that must turn up in no log, report or file."""
CONSOLE = "booting\nready login:\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked; ``path`` without its query."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    base: str
    """The URL under which the client reaches the services."""
    token: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw_query: str = ""

    @property
    def data(self) -> Document:
        """The body as JSON."""
        return json.loads(self.body) if self.body else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service says; a dict becomes JSON."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def answer(status: int, document: Document | None = None, **headers: str) -> Answer:
    """Return an answer in JSON."""
    content = json.dumps(document).encode() if document is not None else b""
    return Answer(status=status, content=content, headers={"Content-Type": "application/json", **headers})


def refused(status: int, message: str) -> Answer:
    """Return a refusal."""
    return answer(status, {"error": {"code": status, "message": message}})


Handler = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return add


@dataclasses.dataclass(kw_only=True)
class Cloud:
    """All services of one project. ``appears`` are seconds until a new server can be seen."""

    clock: Callable[[], float] = time.time
    builds: float = 0.0
    appears: float = 0.0
    images: dict[str, Document] = dataclasses.field(default_factory=dict)
    servers: dict[str, Document] = dataclasses.field(default_factory=dict)
    keypairs: dict[str, Document] = dataclasses.field(default_factory=dict)
    ports: dict[str, Document] = dataclasses.field(default_factory=dict)
    floating: dict[str, Document] = dataclasses.field(default_factory=dict)
    deleted: list[str] = dataclasses.field(default_factory=list)
    """The ids of everything that was removed through the API."""
    made: list[str] = dataclasses.field(default_factory=list)
    """"kind name" of everything that was made through the API."""
    passwords: set[str] = dataclasses.field(default_factory=lambda: {PASSWORD})
    refuses_deletes: bool = False
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    def handle(self, request: Request) -> Answer:
        """Return the services' answer."""
        with self.lock:
            now = email.utils.format_datetime(self.now(), usegmt=True)
            if self.refuses_deletes and request.method == "DELETE":
                return refused(403, "Policy doesn't allow it.")
            for method, pattern, handler in ROUTES:
                if method == request.method and (found := pattern.fullmatch(request.path)):
                    said = handler(self, request, *found.groups())
                    return dataclasses.replace(said, headers={"Date": now, **said.headers})
            return refused(404, f"nothing at {request.method} {request.path}")

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.clock(), dt.UTC).replace(microsecond=0)

    def stamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def left(self) -> set[str]:
        """Return everything there is, as "kind name"."""
        with self.lock:
            return {
                *(f"image {one['name']} {one['id']}" for one in self.images.values()),
                *(f"server {one['name']} {one['id']}" for one in self.servers.values()),
                *(f"keypair {name}" for name in self.keypairs),
                *(f"port {one['name']} {one['id']}" for one in self.ports.values()),
                *(f"floating {one['floating_ip_address']}" for one in self.floating.values()),
            }

    def forget(self, store: dict[str, Document], identity: str) -> None:
        del store[identity]
        self.deleted.append(identity)

    # -- what tests do without the API -------------------------------------------------------------

    def add_image(self, name: str, *, tags: tuple[str, ...] = (), **properties: Any) -> str:
        """Put an image there as somebody else would have made it; return its id."""
        identity = str(uuid.uuid4())
        self.images[identity] = {
            **_image_frame(self, identity, name, tags),
            "status": "active",
            "size": 1,
            **properties,
        }
        return identity

    def add_server(self, name: str, metadata: Mapping[str, str], **more: Any) -> str:
        """Put a server there as somebody else would have made it; return its id."""
        identity = str(uuid.uuid4())
        self.servers[identity] = {**_server_frame(self, identity, name, metadata), **more}
        return identity

    def add_keypair(self, name: str, public_key: str) -> None:
        """Put a keypair there."""
        self.keypairs[name] = _keypair(self, name, public_key)

    def add_port(self, name: str, *, description: str) -> None:
        """Put a port there."""
        port = _port(self, name=name, network=NETWORK, device="", description=description)
        self.ports[port["id"]] = port

    def add_snapshot(self, server_id: str, name: str) -> str:
        """Make a user's snapshot of a server, which inherits its image's properties, and not its tags."""
        base = self.images.get(self.servers[server_id]["image"]["id"], {})
        inherited: Document = {
            key: value for key, value in base.items() if isinstance(value, str) and key not in _NOT_INHERITED
        }
        return self.add_image(name, **inherited, image_type="snapshot", instance_uuid=server_id)


_NOT_INHERITED = frozenset(
    {"id", "name", "status", "owner", "created_at", "updated_at", "self", "file", "checksum", "visibility"}
    | {"os_hash_algo", "os_hash_value", "disk_format", "container_format"}
)


# -- Keystone --------------------------------------------------------------------------------------


def _catalog(base: str) -> list[Document]:
    services = {"identity": "/identity", "image": "/image", "compute": "/compute/v2.1", "network": "/network"}
    return [
        {
            "type": kind,
            "name": kind,
            "id": kind,
            "endpoints": [
                {
                    "interface": face,
                    "url": base + path,
                    "region": "one",
                    "region_id": "one",
                    "id": f"{kind}{face}",
                }
                for face in ("public", "internal", "admin")
            ],
        }
        for kind, path in services.items()
    ]


@route("GET", r"/identity(/v3)?/?")
def _identity(cloud: Cloud, request: Request, version: str | None) -> Answer:
    one = {
        "id": "v3.14",
        "status": "stable",
        "links": [{"rel": "self", "href": f"{request.base}/identity/v3/"}],
        "media-types": [],
    }
    return answer(200, {"version": one}) if version else answer(300, {"versions": {"values": [one]}})


@route("POST", r"/identity/v3/auth/tokens")
def _token(cloud: Cloud, request: Request) -> Answer:
    user = request.data["auth"]["identity"]["password"]["user"]
    if user["password"] not in cloud.passwords:
        return refused(401, "The request you have made requires authentication.")
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=365)  # by the client's clock
    document = {
        "token": {
            "methods": ["password"],
            "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            "issued_at": cloud.now().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            "project": {"id": PROJECT, "name": "p", "domain": {"id": "default", "name": "Default"}},
            "user": {"id": USER, "name": user["name"], "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "member", "name": "member"}],
            "catalog": _catalog(request.base),
            "is_domain": False,
        }
    }
    return answer(201, document, **{"X-Subject-Token": f"planted-token-{uuid.uuid4().hex}"})


# -- Glance ----------------------------------------------------------------------------------------


@route("GET", r"/image(/v2)?/?")
def _glance(cloud: Cloud, request: Request, version: str | None) -> Answer:
    one = {
        "id": "v2.16",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": f"{request.base}/image/v2/"}],
    }
    return answer(300, {"versions": [one]})


def _image_frame(cloud: Cloud, identity: str, name: str, tags: tuple[str, ...]) -> Document:
    return {
        "id": identity,
        "name": name,
        "tags": list(tags),
        "status": "queued",
        "owner": PROJECT,
        "visibility": "private",
        "os_hidden": False,
        "protected": False,
        "min_disk": 0,
        "min_ram": 0,
        "disk_format": "qcow2",
        "container_format": "bare",
        "created_at": cloud.stamp(),
    }


@route("POST", r"/image/v2/images")
def _image_create(cloud: Cloud, request: Request) -> Answer:
    asked = request.data
    identity = asked.get("id") or str(uuid.uuid4())
    if identity in cloud.images:
        return refused(409, f"Image ID {identity} already exists!")
    cloud.images[identity] = {**_image_frame(cloud, identity, asked["name"], ()), **asked, "id": identity}
    cloud.made.append(f"image {asked['name']}")
    return answer(201, cloud.images[identity])


@route("GET", r"/image/v2/images")
def _image_list(cloud: Cloud, request: Request) -> Answer:
    query = dict(request.query)
    hidden = query.pop("os_hidden", "false") == "true"
    tag = query.pop("tag", None)
    for name in ("limit", "marker", "sort_key", "sort_dir"):
        query.pop(name, None)
    found = [
        one
        for one in cloud.images.values()
        if one["os_hidden"] is hidden
        and (tag is None or tag in one["tags"])
        and all(str(one.get(key)) == value for key, value in query.items())
    ]
    return answer(200, {"images": found, "schema": "/v2/schemas/images", "first": "/v2/images"})


@route("PUT", r"/image/v2/images/([^/]+)/file")
def _image_file(cloud: Cloud, request: Request, identity: str) -> Answer:
    image = cloud.images.get(identity)
    if image is None:
        return refused(404, "no such image")
    if image["status"] != "queued":
        return refused(409, "not queued")
    image |= {
        "status": "active",
        "size": len(request.body),
        "checksum": hashlib.md5(request.body).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(request.body).hexdigest(),
    }
    return Answer(status=204)


@route("PUT", r"/image/v2/images/([^/]+)/tags/([^/]+)")
def _image_tag(cloud: Cloud, request: Request, identity: str, tag: str) -> Answer:
    if identity not in cloud.images:
        return refused(404, "no such image")
    cloud.images[identity]["tags"] = sorted({*cloud.images[identity]["tags"], tag})
    return Answer(status=204)


@route("GET", r"/image/v2/images/([^/]+)")
def _image_get(cloud: Cloud, request: Request, identity: str) -> Answer:
    image = cloud.images.get(identity)
    return answer(200, image) if image else refused(404, "no such image")


@route("DELETE", r"/image/v2/images/([^/]+)")
def _image_delete(cloud: Cloud, request: Request, identity: str) -> Answer:
    image = cloud.images.get(identity)
    if image is None:
        return refused(404, "no such image")
    if image["protected"]:
        return refused(403, "image is protected")
    cloud.forget(cloud.images, identity)
    return Answer(status=204)


# -- Nova ------------------------------------------------------------------------------------------


@route("GET", r"/compute(/v2.1)?/?")
def _nova(cloud: Cloud, request: Request, version: str | None) -> Answer:
    one = {
        "id": "v2.1",
        "status": "CURRENT",
        "version": "2.96",
        "min_version": "2.1",
        "links": [{"rel": "self", "href": f"{request.base}/compute/v2.1/"}],
    }
    return answer(200, {"version": one} if version else {"versions": [one]})


@route("GET", r"/compute/v2.1/flavors/detail")
def _flavors(cloud: Cloud, request: Request) -> Answer:
    return answer(200, {"flavors": [FLAVOR]})


@route("GET", r"/compute/v2.1/flavors/([^/]+)")
def _flavor(cloud: Cloud, request: Request, identity: str) -> Answer:
    return answer(200, {"flavor": FLAVOR}) if identity == FLAVOR["id"] else refused(404, "no such flavor")


@route("GET", r"/compute/v2.1/flavors/([^/]+)/os-extra_specs")
def _extra_specs(cloud: Cloud, request: Request, identity: str) -> Answer:
    return answer(200, {"extra_specs": {}})


def _keypair(cloud: Cloud, name: str, public_key: str) -> Document:
    blob = base64.b64decode(public_key.split()[1])
    digest = hashlib.md5(blob).hexdigest()
    return {
        "name": name,
        "public_key": public_key,
        "fingerprint": ":".join(digest[at : at + 2] for at in range(0, 32, 2)),
        "type": "ssh",
        "user_id": USER,
        "created_at": cloud.stamp().removesuffix("Z"),
    }


@route("POST", r"/compute/v2.1/os-keypairs")
def _keypair_create(cloud: Cloud, request: Request) -> Answer:
    asked = request.data["keypair"]
    if asked["name"] in cloud.keypairs:
        return refused(409, f"Key pair '{asked['name']}' already exists.")
    cloud.keypairs[asked["name"]] = _keypair(cloud, asked["name"], asked["public_key"])
    cloud.made.append(f"keypair {asked['name']}")
    return answer(201, {"keypair": cloud.keypairs[asked["name"]]})


@route("GET", r"/compute/v2.1/os-keypairs")
def _keypair_list(cloud: Cloud, request: Request) -> Answer:
    brief = [
        {key: value for key, value in one.items() if key not in {"created_at", "user_id"}}
        for one in cloud.keypairs.values()
    ]
    return answer(200, {"keypairs": [{"keypair": one} for one in brief]})


@route("GET", r"/compute/v2.1/os-keypairs/([^/]+)")
def _keypair_get(cloud: Cloud, request: Request, name: str) -> Answer:
    found = cloud.keypairs.get(name)
    return answer(200, {"keypair": found}) if found else refused(404, "no such keypair")


@route("DELETE", r"/compute/v2.1/os-keypairs/([^/]+)")
def _keypair_delete(cloud: Cloud, request: Request, name: str) -> Answer:
    if name not in cloud.keypairs:
        return refused(404, "no such keypair")
    cloud.forget(cloud.keypairs, name)
    return Answer(status=202)


def _server_frame(cloud: Cloud, identity: str, name: str, metadata: Mapping[str, str]) -> Document:
    return {
        "id": identity,
        "name": name,
        "metadata": dict(metadata),
        "status": "ACTIVE",
        "OS-EXT-STS:task_state": None,
        "created": cloud.stamp(),
        "tenant_id": PROJECT,
        "user_id": USER,
        "key_name": None,
        "image": {"id": ""},
        "flavor": {"original_name": "nano", "ram": 512, "vcpus": 1, "disk": 5, "extra_specs": {}},
        "addresses": {},
        "os-extended-volumes:volumes_attached": [],
        "_since": cloud.clock(),
    }


def _shown(cloud: Cloud, server: Document) -> Document:
    plain = {key: value for key, value in server.items() if not key.startswith("_")}
    if cloud.clock() < server["_since"] + cloud.builds:
        plain |= {"status": "BUILD", "OS-EXT-STS:task_state": "spawning"}
    return plain


def _visible(cloud: Cloud) -> list[Document]:
    return [one for one in cloud.servers.values() if cloud.clock() >= one.get("_appears", 0.0)]


@route("POST", r"/compute/v2.1/servers")
def _server_create(cloud: Cloud, request: Request) -> Answer:
    asked = request.data["server"]
    identity = str(uuid.uuid4())
    if asked.get("key_name") and asked["key_name"] not in cloud.keypairs:
        return refused(400, "Invalid key_name provided.")
    if asked["imageRef"] not in cloud.images:
        return refused(400, "Can not find requested image")
    server = _server_frame(cloud, identity, asked["name"], asked.get("metadata", {}))
    server |= {
        "key_name": asked.get("key_name"),
        "image": {"id": asked["imageRef"]},
        "_appears": cloud.clock() + cloud.appears,
    }
    cloud.servers[identity] = server
    networks = asked.get("networks") or [{"uuid": NETWORK}]
    for wanted in [{"uuid": NETWORK}] if networks == "auto" else networks:
        if "port" in wanted:
            cloud.ports[wanted["port"]]["device_id"] = identity
        else:
            port = _port(cloud, name="", network=wanted["uuid"], device=identity)
            cloud.ports[port["id"]] = {**port, "_nova": True}
    cloud.made.append(f"server {asked['name']}")
    return answer(202, {"server": {"id": identity, "links": [], "adminPass": "planted-admin-pass"}})


@route("GET", r"/compute/v2.1/servers/detail")
def _server_list(cloud: Cloud, request: Request) -> Answer:
    pattern = request.query.get("name")
    found = [one for one in _visible(cloud) if pattern is None or re.search(pattern, one["name"])]
    return answer(200, {"servers": [_shown(cloud, one) for one in found]})


def _server(cloud: Cloud, identity: str) -> Document | None:
    return next((one for one in _visible(cloud) if one["id"] == identity), None)


@route("GET", r"/compute/v2.1/servers/([^/]+)")
def _server_get(cloud: Cloud, request: Request, identity: str) -> Answer:
    found = _server(cloud, identity)
    return answer(200, {"server": _shown(cloud, found)}) if found else refused(404, "no such server")


@route("DELETE", r"/compute/v2.1/servers/([^/]+)")
def _server_delete(cloud: Cloud, request: Request, identity: str) -> Answer:
    if _server(cloud, identity) is None:
        return refused(404, "no such server")
    cloud.forget(cloud.servers, identity)
    for port in [one for one in cloud.ports.values() if one["device_id"] == identity]:
        if port.get("_nova"):
            del cloud.ports[port["id"]]
        else:
            port["device_id"] = ""
    return Answer(status=204)


@route("POST", r"/compute/v2.1/servers/([^/]+)/metadata")
def _server_metadata(cloud: Cloud, request: Request, identity: str) -> Answer:
    found = _server(cloud, identity)
    if found is None:
        return refused(404, "no such server")
    found["metadata"] |= request.data["metadata"]
    return answer(200, {"metadata": found["metadata"]})


@route("POST", r"/compute/v2.1/servers/([^/]+)/action")
def _server_action(cloud: Cloud, request: Request, identity: str) -> Answer:
    found = _server(cloud, identity)
    if found is None:
        return refused(404, "no such server")
    asked = request.data
    if "os-getConsoleOutput" in asked:
        return answer(200, {"output": CONSOLE})
    if "createImage" in asked:
        snapshot = cloud.add_snapshot(identity, asked["createImage"]["name"])
        cloud.made.append(f"image {asked['createImage']['name']}")
        return answer(202, {"image_id": snapshot})
    if "rebuild" in asked:
        found["image"] = {"id": asked["rebuild"]["imageRef"]}
        return answer(202, {"server": _shown(cloud, found)})
    for action, before, after in (("os-stop", "ACTIVE", "SHUTOFF"), ("os-start", "SHUTOFF", "ACTIVE")):
        if action in asked:
            if found["status"] != before:
                return refused(409, f"Cannot '{action}' instance {identity} while it is {found['status']}")
            found["status"] = after
    return Answer(status=202)


# -- Neutron ---------------------------------------------------------------------------------------


@route("GET", r"/network(/v2.0)?/?")
def _neutron(cloud: Cloud, request: Request, version: str | None) -> Answer:
    one = {
        "id": "v2.0",
        "status": "CURRENT",
        "links": [{"rel": "self", "href": f"{request.base}/network/v2.0/"}],
    }
    return answer(200, {"versions": [one]})


def _network_document(identity: str) -> Document:
    return {
        "id": identity,
        "name": "ext" if identity == EXTERNAL else "net",
        "router:external": identity == EXTERNAL,
        "subnets": [SUBNET, SUBNET_V6],
        "tenant_id": PROJECT,
        "project_id": PROJECT,
    }


def _port(cloud: Cloud, *, name: str, network: str, device: str, **more: Any) -> Document:
    number = len(cloud.made) % 200 + 10
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "network_id": network,
        "device_id": device,
        "description": "",
        "mac_address": "fa:16:3e:00:00:%02x" % (number % 256),
        "fixed_ips": [{"subnet_id": SUBNET, "ip_address": f"127.0.0.{number}"}],
        "project_id": PROJECT,
        "tenant_id": PROJECT,
        "created_at": cloud.stamp(),
        **more,
    }


def _listed(found: list[Document], query: Mapping[str, str]) -> list[Document]:
    ignored = {"fields", "limit", "marker", "tenant_id", "project_id"}
    asked = {key: value for key, value in query.items() if key not in ignored}
    return [
        {key: value for key, value in one.items() if not key.startswith("_")}
        for one in found
        if all(str(one.get(key)).lower() == value.lower() for key, value in asked.items())
    ]


@route("GET", r"/network/v2.0/networks")
def _networks(cloud: Cloud, request: Request) -> Answer:
    both = [_network_document(NETWORK), _network_document(EXTERNAL)]
    return answer(200, {"networks": _listed(both, request.query)})


@route("GET", r"/network/v2.0/networks/([^/]+)")
def _network(cloud: Cloud, request: Request, identity: str) -> Answer:
    if identity not in {NETWORK, EXTERNAL}:
        return refused(404, "no such network")
    return answer(200, {"network": _network_document(identity)})


@route("GET", r"/network/v2.0/subnets/([^/]+)")
def _subnet(cloud: Cloud, request: Request, identity: str) -> Answer:
    cidr, gateway = ("127.0.0.0/8", "127.0.0.1") if identity == SUBNET else ("::/64", "::1")
    return answer(
        200, {"subnet": {"id": identity, "cidr": cidr, "gateway_ip": gateway, "dns_nameservers": []}}
    )


@route("GET", r"/network/v2.0/security-groups")
def _groups(cloud: Cloud, request: Request) -> Answer:
    return answer(200, {"security_groups": [{"id": "g1", "name": "default", "project_id": PROJECT}]})


@route("GET", r"/network/v2.0/ports")
def _ports(cloud: Cloud, request: Request) -> Answer:
    return answer(200, {"ports": _listed(list(cloud.ports.values()), request.query)})


@route("POST", r"/network/v2.0/ports")
def _port_create(cloud: Cloud, request: Request) -> Answer:
    asked = copy.deepcopy(request.data["port"])
    fixed = [
        {"subnet_id": SUBNET_V6 if ":" in one["ip_address"] else SUBNET, **one}
        for one in asked.pop("fixed_ips", [])
    ]
    port = _port(
        cloud,
        name=asked.get("name", ""),
        network=asked["network_id"],
        device="",
        description=asked.get("description", ""),
    )
    cloud.ports[port["id"]] = {**port, **({"fixed_ips": fixed} if fixed else {})}
    cloud.made.append(f"port {port['name']}")
    return answer(201, {"port": cloud.ports[port["id"]]})


@route("DELETE", r"/network/v2.0/ports/([^/]+)")
def _port_delete(cloud: Cloud, request: Request, identity: str) -> Answer:
    if identity not in cloud.ports:
        return refused(404, "no such port")
    cloud.forget(cloud.ports, identity)
    return Answer(status=204)


@route("GET", r"/network/v2.0/floatingips")
def _floating_list(cloud: Cloud, request: Request) -> Answer:
    return answer(200, {"floatingips": _listed(list(cloud.floating.values()), request.query)})


@route("POST", r"/network/v2.0/floatingips")
def _floating_create(cloud: Cloud, request: Request) -> Answer:
    asked = request.data["floatingip"]
    identity = str(uuid.uuid4())
    cloud.floating[identity] = {
        "id": identity,
        "floating_ip_address": f"127.1.{len(cloud.made) // 250 % 250}.{len(cloud.made) % 250 + 1}",
        "port_id": asked.get("port_id"),
        "description": asked.get("description", ""),
        "project_id": PROJECT,
        "created_at": cloud.stamp(),
    }
    cloud.made.append(f"floating {asked.get('description')}")
    return answer(201, {"floatingip": cloud.floating[identity]})


@route("DELETE", r"/network/v2.0/floatingips/([^/]+)")
def _floating_delete(cloud: Cloud, request: Request, identity: str) -> Answer:
    if identity not in cloud.floating:
        return refused(404, "no such floating IP")
    cloud.forget(cloud.floating, identity)
    return Answer(status=204)
