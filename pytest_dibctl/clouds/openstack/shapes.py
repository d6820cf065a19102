"""The shapes that answers of the services must have: the one place that checks them.

A key that is missing here may hold anything; a service may give more than is listed.
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict


class ShapeError(ValueError):
    """An answer is whole, and has another shape than the service's documentation says."""


def _that(parse: Callable[[str], object], kind: str) -> Any:
    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError:
            raise ValueError(f"{text!r} is no {kind}") from None
        return text

    return AfterValidator(check)


def _part_of_a_path(text: str) -> None:
    if not text or not text.strip(".") or not text.isprintable() or set(text) & set("/?#%\\"):
        raise ValueError


Id = Annotated[str, _that(_part_of_a_path, "id")]
"""An id: it becomes a part of paths."""
Word = str | None
Moment = Annotated[str, _that(dt.datetime.fromisoformat, "time")] | None
Address = Annotated[str, _that(ipaddress.ip_address, "address")]
Cidr = Annotated[str, _that(ipaddress.ip_network, "network")]
Count = Annotated[int, Field(ge=0)] | None
Truth = bool | None
Words = dict[str, str] | None
Reference = dict[str, Any] | Word
"""Nova leaves an empty text where there is nothing to refer to."""


class Image(TypedDict):
    """An image of Glance."""

    id: Id
    status: str
    name: NotRequired[Word]
    owner: NotRequired[Word]
    visibility: NotRequired[Word]
    os_hidden: NotRequired[Truth]
    protected: NotRequired[Truth]
    disk_format: NotRequired[Word]
    container_format: NotRequired[Word]
    size: NotRequired[Count]
    min_disk: NotRequired[Count]
    min_ram: NotRequired[Count]
    tags: NotRequired[list[str] | None]
    os_hash_algo: NotRequired[Word]
    os_hash_value: NotRequired[Word]
    checksum: NotRequired[Word]
    # Unreadable times are no error: such an image counts as new.
    created_at: NotRequired[Word]
    updated_at: NotRequired[Word]


class Task(TypedDict):
    """A task of Glance."""

    status: NotRequired[Word]
    message: NotRequired[Word]


class Tasks(TypedDict):
    """The tasks of an image."""

    tasks: NotRequired[list[Task]]


class Member(TypedDict):
    """A project that an image is shared with."""

    member_id: Id
    status: str


class Members(TypedDict):
    """The members of an image."""

    members: list[Member]


class Values(TypedDict):
    """The values that something may have."""

    value: list[str]


ImportMethods = TypedDict("ImportMethods", {"import-methods": Values})


class Project(TypedDict):
    """A project of Keystone."""

    id: Id
    name: str


class OneProject(TypedDict):
    """A project that was asked for."""

    project: Project


class Projects(TypedDict):
    """Projects of Keystone."""

    projects: list[Project]


class Snapshot(TypedDict):
    """Nova's answer to the wish for a snapshot."""

    image_id: Id


Server = TypedDict(
    "Server",
    {
        "id": Id,
        "name": NotRequired[Word],
        "status": NotRequired[Word],
        "metadata": NotRequired[Words],
        "image": NotRequired[Reference],
        "flavor": NotRequired[dict[str, Any] | None],
        "fault": NotRequired[dict[str, Any] | None],
        "key_name": NotRequired[Word],
        "tenant_id": NotRequired[Word],
        "created": NotRequired[Moment],
        "OS-EXT-STS:task_state": NotRequired[Word],
        "os-extended-volumes:volumes_attached": NotRequired[list[dict[str, Any]] | None],
    },
)
"""A server of Nova."""


class Flavor(TypedDict):
    """A flavor of Nova."""

    name: NotRequired[Word]
    ram: NotRequired[Count]
    vcpus: NotRequired[Count]
    disk: NotRequired[Count]
    extra_specs: NotRequired[Words]


class Keypair(TypedDict):
    """A keypair of Nova."""

    name: str
    fingerprint: NotRequired[Word]
    public_key: NotRequired[Word]
    created_at: NotRequired[Moment]


class FixedIp(TypedDict):
    """An address of a port."""

    subnet_id: Id
    ip_address: Address


class Port(TypedDict):
    """A port of Neutron."""

    id: Id
    name: NotRequired[Word]
    network_id: NotRequired[Id]
    mac_address: NotRequired[Word]
    description: NotRequired[Word]
    fixed_ips: NotRequired[list[FixedIp]]
    created_at: NotRequired[Moment]


class FloatingIp(TypedDict):
    """A floating IP of Neutron."""

    id: Id
    floating_ip_address: NotRequired[Address | None]
    port_id: NotRequired[Word]
    description: NotRequired[Word]
    created_at: NotRequired[Moment]


class Subnet(TypedDict):
    """A subnet of Neutron."""

    id: Id
    cidr: NotRequired[Cidr]
    gateway_ip: NotRequired[Address | None]
    dns_nameservers: NotRequired[list[str] | None]


class Named(TypedDict):
    """A network or a security group of Neutron."""

    id: Id
    name: NotRequired[Word]


class Attachment(TypedDict):
    """A server that has a volume."""

    server_id: NotRequired[Word]


class Volume(TypedDict):
    """A volume of Cinder."""

    id: Id
    name: NotRequired[Word]
    status: NotRequired[Word]
    volume_image_metadata: NotRequired[dict[str, Any] | None]
    attachments: NotRequired[list[Attachment] | None]


_RESOURCES: Mapping[str, Any] = {
    "Server": Server,
    "Flavor": Flavor,
    "Keypair": Keypair,
    "Port": Port,
    "FloatingIP": FloatingIp,
    "Subnet": Subnet,
    "Network": Named,
    "SecurityGroup": Named,
    "Volume": Volume,
}
"""By the names of openstacksdk's classes."""
ITEMS: Mapping[str, Any] = {"images": Image, "servers": Server, "volumes": Volume}
"""By the names of lists."""


class Link(TypedDict):
    """A link to something else."""

    rel: NotRequired[Word]
    href: NotRequired[Word]


@functools.cache
def page(key: str) -> Any:
    """Return the shape of a page of the list ``key``."""
    item: Any = ITEMS[key]
    listed: Any = {
        key: list[item],
        f"{key}_links": NotRequired[list[Link] | None],
        "next": NotRequired[Word],
    }
    make: Any = TypedDict
    return make(key, listed)


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    shape.__pydantic_config__ = ConfigDict(extra="allow", strict=True)
    return TypeAdapter(shape)


def checked(document: Any, shape: Any) -> Any:
    """Return a document of that shape; raises ShapeError, which says where it has another."""
    try:
        _adapter(shape).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise ShapeError(f"{place.lstrip('.') or 'the whole'}: {first['msg']}") from None
    return document


def read(response: Any, shape: Any) -> Any:
    """Return the document in a raw response. Raises ShapeError, and ValueError for what is no JSON."""
    return checked(response.json(), shape)


def check_resource(resource: Any) -> None:
    """Raise ShapeError for a resource of openstacksdk that a service described otherwise."""
    shape = _RESOURCES.get(type(resource).__name__)
    if shape is not None:
        checked(dict(resource._body.attributes), shape)  # noqa: SLF001 -- as it came, before any conversion
