"""Nova: servers, keypairs, flavors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.documents import CONSOLE, FLAVOR, NETWORK
from tests.support.fake_openstack.messages import ADMIN, Answer, Document, Refusal, Request, answer
from tests.support.fake_openstack.paging import linked_page
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

FIRST, LATEST = (2, 1), (2, 104)
"""The microversions that there are."""
FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    409: "conflictingRequest",
    413: "overLimit",
}
"""The names under which Nova and Cinder put their refusals."""


def fault(status: int, message: str) -> Answer:
    """Return a refusal of Nova's or Cinder's."""
    return answer(status, {FAULTS.get(status, "computeFault"): {"code": status, "message": message}})


SERVICE = Service(fault, request_id="x-openstack-request-id")


def _microversion(request: Request) -> tuple[int, int]:
    """Return the microversion that a request asks for, the first if it asks for none."""
    match = re.fullmatch(r"compute (\d+)\.(\d+)", request.header("OpenStack-API-Version").strip())
    if match is None:
        return FIRST
    asked = int(match[1]), int(match[2])
    if not FIRST <= asked <= LATEST:
        raise Refusal(406, f"Version {asked[0]}.{asked[1]} is not supported by the API.")
    return asked


@SERVICE.call("GET", r"/compute(/v2\.1)?", public=True)
def _versions(_cloud: State, request: Request, version: str | None) -> Answer:
    url = f"{request.base}/compute/v2.1/"
    numbers = {"version": "{}.{}".format(*LATEST), "min_version": "{}.{}".format(*FIRST)}
    latest = documents.version("v2.1", url, **numbers)
    return answer(200, {"version": latest} if version else {"versions": [latest]})


@SERVICE.call("GET", r"/compute/v2\.1/flavors/detail")
def _list_flavors(_cloud: State, _request: Request) -> Answer:
    return answer(200, {"flavors": [FLAVOR]})


@SERVICE.call("GET", r"/compute/v2\.1/flavors/([^/]+)")
def _show_flavor(_cloud: State, _request: Request, identity: str) -> Answer:
    if identity != FLAVOR["id"]:
        raise Refusal(404, f"Flavor {identity} could not be found.")
    return answer(200, {"flavor": FLAVOR})


@SERVICE.call("GET", r"/compute/v2\.1/flavors/[^/]+/os-extra_specs")
def _show_extra_specs(_cloud: State, _request: Request) -> Answer:
    return answer(200, {"extra_specs": {}})


# -- keypairs --------------------------------------------------------------------------------------


@SERVICE.call("POST", r"/compute/v2\.1/os-keypairs")
def _create_keypair(cloud: State, request: Request) -> Answer:
    asked = request.data["keypair"]
    if "public_key" not in asked:  # since 2.92; before, Nova made the key
        raise Refusal(400, "'public_key' is a required property")
    if asked["name"] in cloud.keypairs:
        raise Refusal(409, f"Key pair '{asked['name']}' already exists.")
    cloud.add_keypair(asked["name"], asked["public_key"])
    cloud.made.append(f"keypair {asked['name']}")
    status = 201 if _microversion(request) >= (2, 2) else 200
    return answer(status, {"keypair": cloud.keypairs[asked["name"]]})


@SERVICE.call("GET", r"/compute/v2\.1/os-keypairs")
def _list_keypairs(cloud: State, _request: Request) -> Answer:
    brief = [
        {key: value for key, value in keypair.items() if key not in {"created_at", "user_id"}}
        for keypair in cloud.keypairs.values()
    ]
    return answer(200, {"keypairs": [{"keypair": keypair} for keypair in brief]})


@SERVICE.call("GET", r"/compute/v2\.1/os-keypairs/([^/]+)")
def _show_keypair(cloud: State, _request: Request, name: str) -> Answer:
    if name not in cloud.keypairs:
        raise Refusal(404, f"Keypair {name} not found for user")
    return answer(200, {"keypair": cloud.keypairs[name]})


@SERVICE.call("DELETE", r"/compute/v2\.1/os-keypairs/([^/]+)")
def _delete_keypair(cloud: State, request: Request, name: str) -> Answer:
    if name not in cloud.keypairs:
        raise Refusal(404, f"Keypair {name} not found for user")
    del cloud.keypairs[name]
    return answer(204 if _microversion(request) >= (2, 2) else 202)


# -- servers ---------------------------------------------------------------------------------------


def _shown(cloud: State, server: Mapping[str, Any]) -> Document:
    shown = documents.plain(server)
    if cloud.clock() < server.get("_since", float("-inf")) + cloud.builds:
        shown |= {"status": "BUILD", "OS-EXT-STS:task_state": "spawning"}
    return shown


def _visible(cloud: State, request: Request, *, all_projects: bool) -> list[Document]:
    return [
        server
        for server in cloud.servers.values()
        if cloud.clock() >= server.get("_appears", 0.0)
        and (all_projects or server["tenant_id"] == request.project)
    ]


def _server(cloud: State, request: Request, identity: str) -> Document:
    for server in _visible(cloud, request, all_projects=request.user == ADMIN):
        if server["id"] == identity:
            return server
    raise Refusal(404, f"Instance {identity} could not be found.")


@SERVICE.call("POST", r"/compute/v2\.1/servers")
def _create_server(cloud: State, request: Request) -> Answer:
    asked = request.data["server"]
    _check_server(cloud, asked, _microversion(request))
    metadata, since = asked.get("metadata", {}), cloud.clock()
    server = documents.server(
        asked["name"], metadata, project=request.project, now=cloud.stamp(), since=since
    )
    server |= {
        "key_name": asked.get("key_name"),
        "image": {"id": asked["imageRef"]},
        "_appears": since + cloud.appears,
    }
    cloud.servers[server["id"]] = server
    networks: Any = asked.get("networks", "auto")
    for wanted in [{"uuid": NETWORK}] if networks == "auto" else networks:
        if "port" in wanted:
            cloud.ports[wanted["port"]]["device_id"] = server["id"]
        else:
            port = {"network_id": wanted["uuid"], "device_id": server["id"], "_nova": True}
            cloud.add_port("", project=request.project, **port)
    cloud.made.append(f"server {asked['name']}")
    return answer(202, {"server": {"id": server["id"], "links": [], "adminPass": "planted-admin-pass"}})


def _check_server(cloud: State, asked: Mapping[str, Any], microversion: tuple[int, int]) -> None:
    if microversion >= (2, 37) and "networks" not in asked:
        raise Refusal(400, "'networks' is a required property")
    if asked.get("key_name") and asked["key_name"] not in cloud.keypairs:
        raise Refusal(400, "Invalid key_name provided.")
    if all(asked["imageRef"] not in images for images in cloud.images.values()):
        raise Refusal(400, "Can not find requested image")
    if asked["flavorRef"] != FLAVOR["id"]:
        raise Refusal(400, f"Flavor {asked['flavorRef']} could not be found.")


@SERVICE.call("GET", r"/compute/v2\.1/servers/detail")
def _list_servers(cloud: State, request: Request) -> Answer:
    # Nova takes any word for a truth value; openstacksdk sends "True".
    all_projects = request.query.get("all_tenants", "").lower() in ("1", "true", "yes")
    if all_projects and request.user != ADMIN:
        raise Refusal(403, "Policy doesn't allow os_compute_api:servers:detail:get_all_tenants")
    found: Sequence[Mapping[str, Any]] = _visible(cloud, request, all_projects=all_projects)
    if request.query.get("status") == "soft_deleted":
        found = cloud.soft_deleted if all_projects else ()
    elif all_projects:
        found = [*found, *cloud.other_servers] if found else cloud.other_servers
    if (pattern := request.query.get("name")) is not None:
        found = [server for server in found if re.search(pattern, server["name"])]
    if (image := request.query.get("image")) is not None:
        found = [server for server in found if server.get("image") and server["image"]["id"] == image]
    shown = functools.partial(_shown, cloud)
    return answer(200, linked_page("servers", found, request, cloud.page, show=shown))


@SERVICE.call("GET", r"/compute/v2\.1/servers/([^/]+)")
def _show_server(cloud: State, request: Request, identity: str) -> Answer:
    return answer(200, {"server": _shown(cloud, _server(cloud, request, identity))})


@SERVICE.call("DELETE", r"/compute/v2\.1/servers/([^/]+)")
def _delete_server(cloud: State, request: Request, identity: str) -> Answer:
    """Delete a server and the ports that Nova made for it; others are only detached."""
    del cloud.servers[_server(cloud, request, identity)["id"]]
    for port in [port for port in cloud.ports.values() if port["device_id"] == identity]:
        if port.get("_nova"):
            del cloud.ports[port["id"]]
        else:
            port["device_id"] = ""
    return answer(204)


@SERVICE.call("POST", r"/compute/v2\.1/servers/([^/]+)/metadata")
def _add_metadata(cloud: State, request: Request, identity: str) -> Answer:
    server = _server(cloud, request, identity)
    server["metadata"] |= request.data["metadata"]
    return answer(200, {"metadata": server["metadata"]})


@SERVICE.call("POST", r"/compute/v2\.1/servers/([^/]+)/action")
def _act(cloud: State, request: Request, identity: str) -> Answer:
    server = _server(cloud, request, identity)
    asked = request.data
    if "os-getConsoleOutput" in asked:
        return answer(200, {"output": CONSOLE})
    if "createImage" in asked:
        return _snapshot(cloud, request, identity)
    if "rebuild" in asked:
        server["image"] = {"id": asked["rebuild"]["imageRef"]}
        return answer(202, {"server": _shown(cloud, server)})
    for action, before, after in (("os-stop", "ACTIVE", "SHUTOFF"), ("os-start", "SHUTOFF", "ACTIVE")):
        if action in asked:
            if server["status"] != before:
                status = server["status"]
                raise Refusal(409, f"Cannot '{action}' instance {identity} while it is {status}")
            server["status"] = after
    return answer(202)


def _snapshot(cloud: State, request: Request, identity: str) -> Answer:
    asked = request.data["createImage"]
    name = asked["name"]
    snapshot = cloud.add_snapshot(identity, name, **asked.get("metadata", {}))
    cloud.made.append(f"image {name}")
    if _microversion(request) >= (2, 45):
        return answer(202, {"image_id": snapshot})
    return answer(202, Location=f"{request.base}/images/{snapshot}")
