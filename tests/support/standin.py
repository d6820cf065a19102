"""An HTTP stand-in for Keystone, Glance, Nova and Cinder, for as many images and servers as a test wants.

It keeps what it is told, pages its lists as the services do, and refuses what they refuse. It is not a
service: it checks no tokens beyond knowing whose they are. The tests on the real services hold what it says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.support.loopback import QuietHandler, listening

BLOCK = 1 << 20
ADMIN = "admin"


class Refusal(Exception):  # noqa: N818 -- an answer, not an error of ours
    """An answer other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def stamp(when: dt.datetime) -> str:
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclasses.dataclass(kw_only=True)
class Cloud:
    """What there is. ``users`` are names to projects; the user "admin" is an admin of its project.

    ``in_use`` are ids that the store refuses to delete; ``rate`` is bytes a second for each upload, 0 for as
    fast as can be. ``digest`` is of all bodies, where computing it would be what is measured. ``before`` is
    called with each request and may raise Refusal.
    """

    users: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"demo": "demo-id", "other": "other-id", ADMIN: "admin-id"}
    )
    regions: Sequence[str] = ("RegionOne",)
    images: dict[str, dict[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    members: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    servers: Sequence[Mapping[str, Any]] = ()
    soft_deleted: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Mapping[str, Any]] | None = None
    tasks: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    import_fails: str = ""
    in_use: set[str] = dataclasses.field(default_factory=set)
    rate: float = 0.0
    page: int = 1000
    digest: str | None = None
    keep_contents: bool = True
    before: Callable[[str, str, Mapping[str, str]], None] = lambda _method, _path, _query: None
    calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    url: str = ""

    def region(self, name: str = "RegionOne") -> dict[str, dict[str, Any]]:
        return self.images.setdefault(name, {})

    def count(self, method: str, path: str) -> int:
        return sum(one == method and bool(re.search(path, where)) for one, where in self.calls)

    def add_image(self, name: str, *, region: str = "RegionOne", content: bytes = b"x", **more: Any) -> str:
        now = stamp(self.clock())
        image = {
            "id": str(uuid.uuid4()),
            "name": name,
            "owner": "demo-id",
            "status": "active",
            "visibility": "private",
            "os_hidden": False,
            "protected": False,
            "disk_format": "qcow2",
            "container_format": "bare",
            "size": len(content),
            "min_disk": 0,
            "min_ram": 0,
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(content).hexdigest(),
            **more,
        }
        self.region(region)[image["id"]] = image
        if self.keep_contents:
            self.contents[image["id"]] = content
        return str(image["id"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request: ``user`` and ``project`` are whose token it has; ``body`` reads what is left of it."""

    method: str
    path: str
    query: Mapping[str, str]
    user: str
    project: str
    base: str
    body: Callable[[], bytes]
    blocks: Callable[[], Iterator[memoryview]]

    def json(self) -> Any:
        return json.loads(self.body() or b"{}")


Answer = tuple[int, Any]


class Services:
    """The services of one cloud: ``answer`` finds the one that a path belongs to."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._lock = threading.RLock()

    def answer(self, request: Request) -> Answer:
        if request.path == "/calls":  # for whoever measures from another process
            calls, self.cloud.calls = self.cloud.calls, []
            return 200, [call for call in calls if not call[1].startswith("/identity")]
        self.cloud.calls.append((request.method, request.path))
        self.cloud.before(request.method, request.path, request.query)
        _, service, *rest = request.path.split("/")
        if service == "identity":
            return self._identity(request, rest)
        if service == "compute":
            return self._compute(request, rest)
        if service == "volume":
            return self._volume(request, rest)
        if service.startswith("image-"):
            return self._image(request, service.removeprefix("image-"), rest)
        raise Refusal(404, f"nothing at {request.path}")

    # -- Keystone

    def _identity(self, request: Request, rest: Sequence[str]) -> Answer:
        if rest[1:] in ([], [""]):
            link = {"rel": "self", "href": f"{request.base}/identity/v3/"}
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": [link]}}
        if rest[1:] == ["auth", "tokens"]:
            return self._token(request)
        projects = [{"id": project, "name": name} for name, project in self.cloud.users.items()]
        if rest[1:] == ["auth", "projects"]:
            return 200, {"projects": [one for one in projects if one["id"] == request.project]}
        if rest[1] == "projects" and request.user != ADMIN:
            raise Refusal(403, "You are not authorized")
        if rest[1:] == ["projects"]:
            return 200, {"projects": [one for one in projects if request.query.get("name") == one["name"]]}
        found = [one for one in projects if rest[1:] == ["projects", one["id"]]]
        if not found:
            raise Refusal(404, "no such project")
        return 200, {"project": found[0]}

    def _token(self, request: Request) -> Answer:
        auth = request.json()["auth"]
        user = auth["identity"]["password"]["user"]["name"]
        if user not in self.cloud.users or auth["identity"]["password"]["user"]["password"] != "secret":
            raise Refusal(401, "The request you have made requires authentication.")
        asked = auth.get("scope", {}).get("project", {})
        project = self.cloud.users[user]
        if asked.get("id", project) != project and user != ADMIN:
            raise Refusal(401, "no role there")
        ends = stamp(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        token = {
            "methods": ["password"],
            "user": {"id": user, "name": user, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": project, "name": user, "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "admin" if user == ADMIN else "member"}],
            "issued_at": stamp(dt.datetime.now(dt.UTC)),
            "expires_at": ends,
            "catalog": self._catalog(request.base),
        }
        return 201, {"token": token, "__headers__": {"X-Subject-Token": f"{user}/{project}"}}

    def _catalog(self, base: str) -> list[dict[str, Any]]:
        def service(kind: str, name: str, paths: Mapping[str, str]) -> dict[str, Any]:
            endpoints = [
                {"id": f"{kind}-{region}", "interface": "public", "region": region, "region_id": region}
                | {"url": base + path}
                for region, path in paths.items()
            ]
            return {"type": kind, "name": name, "id": kind, "endpoints": endpoints}

        everywhere = self.cloud.regions
        catalog = [
            service("identity", "keystone", dict.fromkeys(everywhere, "/identity/v3")),
            service("image", "glance", {region: f"/image-{region}" for region in everywhere}),
            service("compute", "nova", dict.fromkeys(everywhere, "/compute/v2.1")),
        ]
        if self.cloud.volumes is not None:
            catalog.append(service("block-storage", "cinder", dict.fromkeys(everywhere, "/volume/v3")))
        return catalog

    # -- Nova and Cinder

    def _compute(self, request: Request, rest: Sequence[str]) -> Answer:
        if rest[-1] != "detail":
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.104", "min_version": "2.1"}
            link = {"rel": "self", "href": f"{request.base}/compute/v2.1/"}
            return 200, {"version": {**version, "links": [link]}}
        if request.query.get("all_tenants") == "1" and request.user != ADMIN:
            raise Refusal(403, "Policy doesn't allow os_compute_api:servers:detail:get_all_tenants")
        if request.query.get("status") == "soft_deleted":
            return 200, {"servers": list(self.cloud.soft_deleted)}
        wanted = request.query.get("image")
        found: Sequence[Mapping[str, Any]] = self.cloud.servers
        if wanted is not None:
            found = [one for one in found if isinstance(one["image"], dict) and one["image"]["id"] == wanted]
        page, marker = self._page(found, request)
        answer: dict[str, Any] = {"servers": page}
        if marker is not None:
            query = urlencode({**request.query, "marker": marker})
            answer["servers_links"] = [{"rel": "next", "href": f"{request.base}{request.path}?{query}"}]
        return 200, answer

    def _volume(self, request: Request, rest: Sequence[str]) -> Answer:
        if rest[-1] != "detail":
            version = {"id": "v3.0", "status": "CURRENT", "version": "3.70", "min_version": "3.0"}
            link = {"rel": "self", "href": f"{request.base}/volume/v3/"}
            return 200, {"versions": [{**version, "links": [link]}]}
        volumes = list(self.cloud.volumes or ())
        if request.user != ADMIN:
            hidden = "os-vol-host-attr:host"
            volumes = [{key: value for key, value in one.items() if key != hidden} for one in volumes]
        page, marker = self._page(volumes, request)
        answer: dict[str, Any] = {"volumes": page}
        if marker is not None:
            query = urlencode({**request.query, "marker": marker})
            answer["volumes_links"] = [{"rel": "next", "href": f"{request.base}{request.path}?{query}"}]
        return 200, answer

    def _page(self, found: Sequence[Any], request: Request) -> tuple[list[Any], str | None]:
        limit = min(int(request.query.get("limit", self.cloud.page)), self.cloud.page)
        first = 0
        if marker := request.query.get("marker"):
            first = self._place(found, marker) + 1
        page = list(found[first : first + limit])
        more = first + limit < len(found)
        return page, page[-1]["id"] if page and more else None

    @staticmethod
    def _place(found: Sequence[Any], marker: str) -> int:
        place = getattr(found, "place", None)
        if place is not None:
            return int(place(marker))
        return next(number for number, one in enumerate(found) if one["id"] == marker)

    # -- Glance

    def _image(self, request: Request, region: str, rest: Sequence[str]) -> Answer:
        if rest in ([], [""]):
            link = {"rel": "self", "href": f"{request.base}/image-{region}/v2/"}
            return 300, {"versions": [{"id": "v2.18", "status": "CURRENT", "links": [link]}]}
        with self._lock:
            images = self.cloud.region(region)
        if rest == ["v2", "info", "import"]:
            return 200, {"import-methods": {"type": "array", "value": ["glance-direct", "glance-download"]}}
        match request.method, *rest:
            case ["GET", "v2", "images"]:
                return self._list(request, images)
            case ["POST", "v2", "images"]:
                return self._register(request, images)
            case [_, "v2", "images", image_id, *more]:
                image = images.get(image_id)
                if image is None or not self._sees(request, image):
                    raise Refusal(404, f"No image found with ID {image_id}")
                return self._one(request, images, image, more)
        raise Refusal(404, f"nothing at {request.path}")

    def _one(  # noqa: PLR0911 -- one per kind of request
        self, request: Request, images: dict[str, dict[str, Any]], image: dict[str, Any], rest: Sequence[str]
    ) -> Answer:
        if request.method == "GET" and rest in ([], ["members"], ["file"], ["tasks"]):
            return self._shown(image, rest)
        if rest[:1] == ["members"] and request.method == "PUT":
            return self._accept(request, image, rest[1])
        if request.user != ADMIN and image["owner"] != request.project:
            raise Refusal(403, "You are not permitted to change this image")
        match request.method, *rest:
            case ["PATCH"]:
                return self._patch(request, image)
            case ["DELETE"]:
                return self._delete(images, image)
            case ["PUT", ("file" | "stage") as where]:
                return self._receive(request, image, staged=where == "stage")
            case ["POST", "import"]:
                return self._import(request, image)
            case ["POST", "members"]:
                return self._share(request, image)
        raise Refusal(405, f"{request.method} {request.path}")

    def _sees(self, request: Request, image: Mapping[str, Any]) -> bool:
        member = request.project in self.cloud.members.get(image["id"], {})
        everybody = image["visibility"] in {"public", "community"}
        return request.user == ADMIN or everybody or image["owner"] == request.project or member

    def _list(self, request: Request, images: Mapping[str, Mapping[str, Any]]) -> Answer:
        query = {key: value for key, value in request.query.items() if key not in {"limit", "marker"}}
        hidden = query.pop("os_hidden", "false") == "true"
        tag = query.pop("tag", None)
        with self._lock:
            found = [
                image
                for image in images.values()
                if bool(image["os_hidden"]) == hidden
                and self._sees(request, image)
                and (tag is None or tag in image["tags"])
                and all(str(image.get(key)) == value for key, value in query.items())
            ]
        page, marker = self._page(found, request)
        answer: dict[str, Any] = {"images": [dict(one) for one in page]}
        if marker is not None:
            path = request.path.partition("/v2/")[2]
            answer["next"] = f"/v2/{path}?{urlencode({**request.query, 'marker': marker})}"
        return 200, answer

    def _register(self, request: Request, images: dict[str, dict[str, Any]]) -> Answer:
        usual = {"visibility": "shared", "protected": False, "min_disk": 0, "min_ram": 0, "tags": []}
        document = {"id": str(uuid.uuid4()), **usual, **request.json()}
        if document["id"] in images:
            raise Refusal(409, "Image ID already exists")
        if document.get("visibility") == "public" and request.user != ADMIN:
            raise Refusal(403, "You are not authorized to complete publicize_image action.")
        now = stamp(self.cloud.clock())
        images[document["id"]] = {
            "owner": request.project,
            "status": "queued",
            "os_hidden": False,
            "size": None,
            **document,
            "created_at": now,
            "updated_at": now,
        }
        return 201, images[document["id"]]

    def _shown(self, image: Mapping[str, Any], rest: Sequence[str]) -> Answer:
        if rest == ["members"]:
            members = self.cloud.members.get(image["id"], {})
            listed = [{"member_id": one, "status": status} for one, status in members.items()]
            return 200, {"members": listed}
        if rest == ["tasks"]:
            return 200, {"tasks": self.cloud.tasks.get(image["id"], [])}
        if rest == ["file"]:
            return 200, self.cloud.contents[image["id"]]
        return 200, dict(image)

    def _patch(self, request: Request, image: dict[str, Any]) -> Answer:
        steps = request.json()
        for step in steps:
            if step["path"] == "/visibility" and step["value"] == "public" and request.user != ADMIN:
                raise Refusal(403, "You are not authorized to complete publicize_image action.")
        with self._lock:
            for step in steps:
                key = step["path"][1:].replace("~1", "/").replace("~0", "~")
                if step["op"] == "remove":
                    del image[key]
                else:
                    image[key] = step["value"]
            image["updated_at"] = stamp(self.cloud.clock())
        return 200, dict(image)

    def _delete(self, images: dict[str, dict[str, Any]], image: Mapping[str, Any]) -> Answer:
        if image["protected"]:
            raise Refusal(403, f"Image {image['id']} is protected and cannot be deleted.")
        if image["id"] in self.cloud.in_use:
            raise Refusal(409, f"Image {image['id']} could not be deleted because it is in use")
        with self._lock:
            images.pop(image["id"])
            self.cloud.contents.pop(image["id"], None)
        return 204, None

    def _receive(self, request: Request, image: dict[str, Any], *, staged: bool) -> Answer:
        if image["status"] != "queued":
            raise Refusal(409, f"Image status transition from {image['status']} to saving is not allowed")
        image["status"] = "uploading" if staged else "saving"
        digest = hashlib.sha512() if self.cloud.digest is None else None
        kept, size, started = bytearray(), 0, time.monotonic()
        try:
            for block in request.blocks():
                size += len(block)
                if digest is not None:
                    digest.update(block)
                if self.cloud.keep_contents:
                    kept += block
                if self.cloud.rate and (early := started + size / self.cloud.rate - time.monotonic()) > 0:
                    time.sleep(early)
        except OSError:
            image["status"] = "queued"
            raise
        if self.cloud.keep_contents:
            self.cloud.contents[image["id"]] = bytes(kept)
        value = digest.hexdigest() if digest is not None else self.cloud.digest
        image.update(size=size, os_hash_algo="sha512", os_hash_value=value)
        if not staged:
            image["status"] = "active"
        return 204, None

    def _import(self, request: Request, image: dict[str, Any]) -> Answer:
        method = request.json()["method"]
        if self.cloud.import_fails:  # asynchronously: the answer is that of a success
            failure = {"status": "failure", "message": self.cloud.import_fails}
            self.cloud.tasks.setdefault(image["id"], []).append(failure)
            return 202, None
        if method["name"] == "glance-download":
            source = self.cloud.region(method["glance_region"])[method["glance_image_id"]]
            image.update({key: source[key] for key in ("size", "os_hash_algo", "os_hash_value")})
            self.cloud.contents[image["id"]] = self.cloud.contents[source["id"]]
        elif image["status"] != "uploading":
            raise Refusal(409, "nothing was staged")
        image["status"] = "active"
        return 202, None

    def _share(self, request: Request, image: Mapping[str, Any]) -> Answer:
        if image["visibility"] != "shared":
            raise Refusal(403, "Only shared images have members.")
        members = self.cloud.members.setdefault(image["id"], {})
        member = request.json()["member"]
        if member in members:
            raise Refusal(409, f"Member {member} is duplicated")
        members[member] = "pending"
        return 200, {"member_id": member, "status": "pending"}

    def _accept(self, request: Request, image: Mapping[str, Any], member: str) -> Answer:
        if request.project != member and request.user != ADMIN:
            raise Refusal(403, "only the member itself accepts")
        self.cloud.members[image["id"]][member] = request.json()["status"]
        return 200, {"member_id": member}


class Handler(QuietHandler):
    services: Services
    rbufsize = BLOCK

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        user, _, project = (self.headers.get("X-Auth-Token") or "").partition("/")
        self._left = int(self.headers.get("Content-Length") or 0)
        request = Request(
            method=self.command,
            path=parts.path.rstrip("/"),
            query={key: values[-1] for key, values in parse_qs(parts.query).items()},
            user=user,
            project=project,
            base=f"http://{self.headers['Host']}",
            body=lambda: self._read(self._left),
            blocks=self._blocks,
        )
        try:
            status, content = self.services.answer(request)
        except Refusal as refusal:
            status, content = refusal.status, f"<html><body>{refusal}</body></html>"
        except OSError:
            self.close_connection = True
            return
        if self._left:  # nobody wants the rest of the body
            self.close_connection = True
        self._send(status, content)

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size)
        self._left -= len(content)
        if len(content) != size:
            raise ConnectionResetError
        return content

    def _blocks(self) -> Iterator[memoryview]:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        if chunked:
            yield from self._chunks()
            return
        buffer = memoryview(bytearray(BLOCK))
        while self._left:
            count = self.rfile.readinto1(buffer[: min(BLOCK, self._left)])
            if not count:
                raise ConnectionResetError
            self._left -= count
            yield buffer[:count]

    def _chunks(self) -> Iterator[memoryview]:
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            content = self.rfile.read(size)
            self.rfile.readline()
            if not size:
                return
            yield memoryview(content)

    def _send(self, status: int, content: Any) -> None:
        headers = content.pop("__headers__", {}) if isinstance(content, dict) else {}
        payload, kind = _written(content)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(payload)


def _written(content: Any) -> tuple[bytes, str]:
    """Return the bytes of an answer and their type; refusals are HTML, as Glance's are."""
    if isinstance(content, bytes):
        return content, "application/octet-stream"
    if isinstance(content, str):
        return content.encode(), "text/html"
    return (b"" if content is None else json.dumps(content).encode()), "application/json"


@contextlib.contextmanager
def serving(cloud: Cloud) -> Iterator[Cloud]:
    """Serve a cloud on loopback; ``cloud.url`` is its Keystone."""

    class Bound(Handler):
        services = Services(cloud)

    with listening(Bound) as port:
        cloud.url = f"http://127.0.0.1:{port}/identity/v3"
        yield cloud
