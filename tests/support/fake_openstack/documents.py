"""How the services describe the things in them."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.fake_openstack.messages import Document

NETWORK = "10000000-0000-0000-0000-000000000001"
EXTERNAL = "10000000-0000-0000-0000-000000000002"
SUBNET = "20000000-0000-0000-0000-000000000001"
SUBNET_V6 = "20000000-0000-0000-0000-000000000002"
FLAVOR = {"id": "1", "name": "nano", "ram": 512, "vcpus": 1, "disk": 5, "extra_specs": {}}
CONSOLE = "booting\nready login:\n"
NOT_INHERITED = frozenset(
    {"id", "name", "status", "owner", "created_at", "updated_at", "self", "file", "checksum", "visibility"}
    | {"os_hash_algo", "os_hash_value", "disk_format", "container_format"}
)
"""What a snapshot does not take over of its server's image; it takes over properties, and no tags."""


def stamp(when: dt.datetime) -> str:
    """Return a time as the services write it."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(document: Mapping[str, Any]) -> Document:
    """Return a document without what we note in it for ourselves, under names with an underscore."""
    return {key: value for key, value in document.items() if not key.startswith("_")}


def image(name: str | None, *, owner: str, now: str, **more: Any) -> Document:
    """Return an image without content."""
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "owner": owner,
        "status": "queued",
        "visibility": "shared",
        "os_hidden": False,
        "protected": False,
        "size": None,
        "min_disk": 0,
        "min_ram": 0,
        "tags": [],
        **more,
        "created_at": more.get("created_at", now),
        "updated_at": more.get("updated_at", now),
    }


def content(data: bytes) -> Document:
    """Return what an image says of its content."""
    return {
        "size": len(data),
        "checksum": hashlib.md5(data).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }


def server(name: str, metadata: Mapping[str, str], *, project: str, now: str, since: float) -> Document:
    """Return a server that was asked for at ``since``, by the cloud's clock."""
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "metadata": dict(metadata),
        "status": "ACTIVE",
        "OS-EXT-STS:task_state": None,
        "created": now,
        "tenant_id": project,
        "user_id": "user",
        "key_name": None,
        "image": {"id": ""},
        "flavor": {"original_name": "nano", "ram": 512, "vcpus": 1, "disk": 5, "extra_specs": {}},
        "addresses": {},
        "os-extended-volumes:volumes_attached": [],
        "_since": since,
    }


def keypair(name: str, public_key: str, *, now: str) -> Document:
    """Return a keypair."""
    digest = hashlib.md5(base64.b64decode(public_key.split()[1])).hexdigest()
    return {
        "name": name,
        "public_key": public_key,
        "fingerprint": ":".join(digest[at : at + 2] for at in range(0, 32, 2)),
        "type": "ssh",
        "user_id": "user",
        "created_at": now.removesuffix("Z"),
    }


def port(number: int, *, project: str, now: str, **more: Any) -> Document:
    """Return a port; ``number`` tells its addresses."""
    number = number % 200 + 10
    return {
        "id": str(uuid.uuid4()),
        "name": "",
        "network_id": NETWORK,
        "device_id": "",
        "description": "",
        "mac_address": f"fa:16:3e:00:00:{number:02x}",
        "fixed_ips": [{"subnet_id": SUBNET, "ip_address": f"127.0.0.{number}"}],
        "project_id": project,
        "tenant_id": project,
        "created_at": now,
        **more,
    }


def network(identity: str, *, project: str) -> Document:
    """Return a network."""
    return {
        "id": identity,
        "name": "ext" if identity == EXTERNAL else "net",
        "router:external": identity == EXTERNAL,
        "subnets": [SUBNET, SUBNET_V6],
        "tenant_id": project,
        "project_id": project,
    }


def version(number: str, url: str, **more: Any) -> Document:
    """Return a version of an API, with a link to itself."""
    return {"id": number, "status": "CURRENT", "links": [{"rel": "self", "href": url}], **more}
