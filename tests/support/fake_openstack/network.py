"""Neutron: networks, ports, floating addresses."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.documents import EXTERNAL, NETWORK, SUBNET, SUBNET_V6
from tests.support.fake_openstack.messages import Answer, Refusal, Request, answer
from tests.support.fake_openstack.paging import linked_page
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

KINDS = {400: "BadRequest", 401: "Unauthorized", 403: "PolicyNotAuthorized", 404: "NotFound", 409: "InUse"}
NO_FILTERS = frozenset({"fields", "limit", "marker", "tenant_id", "project_id"})
"""What a query has besides filters; projects are told by the token."""


def _refused(status: int, message: str) -> Answer:
    error = {"type": KINDS.get(status, "NeutronException"), "message": message, "detail": ""}
    return answer(status, {"NeutronError": error})


SERVICE = Service(_refused, request_id="X-Openstack-Request-Id")


@SERVICE.call("GET", r"/network(?:/v2\.0)?", public=True)
def _versions(_cloud: State, request: Request) -> Answer:
    return answer(200, {"versions": [documents.version("v2.0", f"{request.base}/network/v2.0/")]})


def _listed(kind: str, found: Iterable[Mapping[str, Any]], request: Request) -> Answer:
    """Return those that a query asks for, in pages if it sets a limit."""
    asked = {key: value for key, value in request.query.items() if key not in NO_FILTERS}
    chosen = [
        documents.plain(document)
        for document in found
        if all(str(document.get(key)).lower() == value.lower() for key, value in asked.items())
    ]
    return answer(200, linked_page(kind, chosen, request, max(len(chosen), 1)))


@SERVICE.call("GET", r"/network/v2\.0/networks")
def _list_networks(cloud: State, request: Request) -> Answer:
    networks = [documents.network(one, project=cloud.project) for one in (NETWORK, EXTERNAL)]
    return _listed("networks", networks, request)


@SERVICE.call("GET", r"/network/v2\.0/networks/([^/]+)")
def _show_network(cloud: State, _request: Request, identity: str) -> Answer:
    if identity not in {NETWORK, EXTERNAL}:
        raise Refusal(404, f"Network {identity} could not be found.")
    return answer(200, {"network": documents.network(identity, project=cloud.project)})


@SERVICE.call("GET", r"/network/v2\.0/subnets/([^/]+)")
def _show_subnet(_cloud: State, _request: Request, identity: str) -> Answer:
    cidr, gateway = ("127.0.0.0/8", "127.0.0.1") if identity == SUBNET else ("::/64", "::1")
    subnet = {"id": identity, "cidr": cidr, "gateway_ip": gateway, "dns_nameservers": []}
    return answer(200, {"subnet": subnet})


@SERVICE.call("GET", r"/network/v2\.0/security-groups")
def _list_groups(_cloud: State, request: Request) -> Answer:
    group = {"id": "g1", "name": "default", "project_id": request.project}
    return answer(200, {"security_groups": [group]})


@SERVICE.call("GET", r"/network/v2\.0/ports")
def _list_ports(cloud: State, request: Request) -> Answer:
    return _listed("ports", cloud.ports.values(), request)


@SERVICE.call("POST", r"/network/v2\.0/ports")
def _create_port(cloud: State, request: Request) -> Answer:
    asked = request.data["port"]
    fixed = [
        {"subnet_id": SUBNET_V6 if ":" in address["ip_address"] else SUBNET, **address}
        for address in asked.get("fixed_ips", [])
    ]
    port = cloud.add_port(
        asked.get("name", ""),
        project=request.project,
        network_id=asked["network_id"],
        description=asked.get("description", ""),
        **({"fixed_ips": fixed} if fixed else {}),
    )
    cloud.made.append(f"port {port['name']}")
    return answer(201, {"port": port})


@SERVICE.call("DELETE", r"/network/v2\.0/ports/([^/]+)")
def _delete_port(cloud: State, _request: Request, identity: str) -> Answer:
    if cloud.ports.pop(identity, None) is None:
        raise Refusal(404, f"Port {identity} could not be found.")
    return answer(204)


@SERVICE.call("GET", r"/network/v2\.0/floatingips")
def _list_floating(cloud: State, request: Request) -> Answer:
    return _listed("floatingips", cloud.floating.values(), request)


@SERVICE.call("POST", r"/network/v2\.0/floatingips")
def _create_floating(cloud: State, request: Request) -> Answer:
    asked, number = request.data["floatingip"], cloud.number()
    floating = {
        "id": str(uuid.uuid4()),
        "floating_ip_address": f"127.1.{number // 250 % 250}.{number % 250 + 1}",
        "port_id": asked.get("port_id"),
        "description": asked.get("description", ""),
        "project_id": request.project,
        "created_at": cloud.stamp(),
    }
    cloud.floating[str(floating["id"])] = floating
    cloud.made.append(f"floating {asked.get('description')}")
    return answer(201, {"floatingip": floating})


@SERVICE.call("DELETE", r"/network/v2\.0/floatingips/([^/]+)")
def _delete_floating(cloud: State, _request: Request, identity: str) -> Answer:
    if cloud.floating.pop(identity, None) is None:
        raise Refusal(404, f"Floating IP {identity} could not be found")
    return answer(204)
