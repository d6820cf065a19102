"""Networks of an instance in Neutron: its nics, its main address, floating IPs."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import NOT_FOUND
from pytest_dibctl.clouds.protocols import Address, Interface
from pytest_dibctl.config.models.nova import Nic
from pytest_dibctl.errors import ApiError, InstanceError, NovaBadRequestError
from pytest_dibctl.system.suggestions import suggestion


def check_nic(api: Api, nic: Nic, *, at: str) -> None:
    """Raise NovaBadRequestError, at the nic's place, for a network or port that the project cannot see."""
    found = find(api, "network", nic.net_id)
    if found is None:
        names = [f"{network.name} ({network.id})" for network in _all(api, "networks")]
        hint = f"there are {', '.join(sorted(names)[:10])}" if names else "the project sees no network at all"
        raise NovaBadRequestError(f"{at}: there is no network {nic.net_id}", hint=hint)
    if nic.port_id is not None and find(api, "port", nic.port_id) is None:
        raise NovaBadRequestError(
            f"{at}: there is no port {nic.port_id}", hint="`openstack port list` shows them"
        )


def find(api: Api, kind: str, identity: str) -> Any | None:
    """Return the network or port of that id, None if there is none."""
    return api.find("network", f"{kind} {identity}", lambda: getattr(api.network, f"get_{kind}")(identity))


def find_by_name(api: Api, kind: str, wanted: str, *, at: str, **filters: Any) -> str:
    """Return the id of the ``kind`` ("networks", "security_groups") whose id or name is ``wanted``.

    Raises NovaBadRequestError when there is none, or more than one.
    """
    every = _all(api, kind, **filters)
    matching = [item for item in every if item.id == wanted] or [
        item for item in every if item.name == wanted
    ]
    noun = kind.rstrip("s").replace("_", " ")
    if not matching:
        near = suggestion(wanted, [item.name for item in every if item.name], listed="there are")
        raise NovaBadRequestError(f"{at}: there is no {noun} {wanted!r}", hint=near or None)
    if len(matching) > 1:
        ids = ", ".join(sorted(item.id for item in matching))
        raise NovaBadRequestError(f"{at}: several {noun}s are called {wanted!r}", hint=f"use the id: {ids}")
    return str(matching[0].id)


def _all(api: Api, kind: str, **filters: Any) -> list[Any]:
    try:
        return api.safely("network", f"list {kind}", lambda: list(getattr(api.network, kind)(**filters)))
    except ApiError as error:
        if kind == "ips" and error.status == NOT_FOUND:  # a Neutron without routers knows no floating IPs
            return []
        raise


# -- asked for by a new server ---------------------------------------------------------------------


def requested(
    api: Api,
    nics: Sequence[Nic],
    *,
    server: str,
    groups: Sequence[str],
    timeout: float,
    at: Callable[[str], str],
) -> list[dict[str, str]] | str:
    """Return the ``networks`` of Nova's request for these nics; ``at`` gives the places of their settings.

    A nic with a fixed address gets a port of the run. Nova accepts only one address, not one of each family,
    and reports a refusal of Neutron as a lack of hosts. Neutron itself reports the refusal at once. The port
    is found again by its description.
    """
    if not nics:
        return "auto"
    networks = []
    for number, nic in enumerate(nics):
        asked: dict[str, str] = {}
        port = nic.port_id or _own_port(
            api,
            nic,
            port_name(server, number),
            server,
            groups=groups,
            timeout=timeout,
            at=at(f"nova.nics[{number}]"),
        )
        if port is not None:
            asked["port"] = port
        else:
            asked["uuid"] = nic.net_id
        if nic.tag is not None:
            asked["tag"] = nic.tag
        networks.append(asked)
    return networks


def port_name(server: str, number: int) -> str:
    """Return the name of a port of our own."""
    return f"{server}-nic{number}"


def _own_port(
    api: Api, nic: Nic, name: str, server: str, *, groups: Sequence[str], timeout: float, at: str
) -> str | None:
    addresses = [address for address in (nic.v4_fixed_ip, nic.v6_fixed_ip) if address is not None]
    if not addresses:
        return None
    attributes: dict[str, Any] = {
        "name": name,
        "network_id": nic.net_id,
        "description": marks.description(server),
        "fixed_ips": [{"ip_address": address} for address in addresses],
    }
    if groups:
        attributes["security_groups"] = list(groups)
    port = api.create(
        "network",
        f"make port {name}",
        lambda: api.network.create_port(**attributes),
        name=server,
        find=lambda: next(iter(_described(api, "port", server, name=name)), None),
        timeout=timeout,
        at=at,
    )
    return str(port.id)


def _described(api: Api, kind: str, server: str, **filters: Any) -> list[Any]:
    """Return the resources of a ``kind`` ("port", "ip") that were made for an instance."""
    description = marks.description(server)
    listed = _all(api, f"{kind}s", description=description, **filters)
    return [item for item in listed if item.description == description]


# -- interfaces of a server ------------------------------------------------------------------------


def interfaces(api: Api, server_id: str, nics: Sequence[Nic]) -> tuple[Interface, ...]:
    """Return the server's interfaces in the order of ``nics``, with their subnets."""
    ports = _all(api, "ports", device_id=server_id)
    subnets: dict[str, Any] = {}
    names: dict[str, str] = {}
    for port in ports:
        names.setdefault(port.network_id, _network_name(api, port.network_id))
        for fixed in port.fixed_ips:
            identity = fixed["subnet_id"]
            if identity not in subnets:
                call = functools.partial(api.network.get_subnet, identity)
                subnets[identity] = api.safely("network", f"find subnet {identity}", call)
    ordered = _in_order(ports, nics)
    return tuple(_interface(port, names[port.network_id], subnets) for port in ordered)


def _network_name(api: Api, network_id: str) -> str:
    network = find(api, "network", network_id)
    return str(network.name) if network is not None and network.name else network_id


def _in_order(ports: Iterable[Any], nics: Sequence[Nic]) -> list[Any]:
    """Return ports as the nics that asked for them stand in the file; the others follow."""
    left = sorted(ports, key=lambda port: (port.created_at or "", port.id))
    ordered = []
    for nic in nics:
        wanted = next((port for port in left if _answers(port, nic)), None)
        if wanted is not None:
            left.remove(wanted)
            ordered.append(wanted)
    return [*ordered, *left]


def _answers(port: Any, nic: Nic) -> bool:
    if nic.port_id is not None:
        return bool(port.id == nic.port_id)
    has = {fixed["ip_address"] for fixed in port.fixed_ips}
    addresses = {address for address in (nic.v4_fixed_ip, nic.v6_fixed_ip) if address}
    return bool(port.network_id.replace("-", "") == nic.net_id.replace("-", "").lower() and addresses <= has)


def _interface(port: Any, network: str, subnets: dict[str, Any]) -> Interface:
    addresses: list[Address] = []
    dns: list[str] = []
    for fixed in port.fixed_ips:
        subnet = subnets[fixed["subnet_id"]]
        prefix = ipaddress.ip_network(subnet.cidr).prefixlen
        addresses.append(Address(ip=fixed["ip_address"], prefix=prefix, gateway=subnet.gateway_ip))
        dns += subnet.dns_nameservers or []
    return Interface(
        network=network,
        mac=port.mac_address,
        addresses=tuple(addresses),
        dns=tuple(dict.fromkeys(dns)),
    )


def main_interface(found: Sequence[Interface], regexp: str | None, *, at: str) -> Interface:
    """Return the interface in the network whose name matches, or the first one.

    Raises InstanceError when there is none.
    """
    usable = [interface for interface in found if interface.addresses]
    if not usable:
        raise InstanceError(
            "the instance has no address",
            hint="check nova.nics: the network needs a subnet, and the subnet a free address",
        )
    if regexp is None:
        return usable[0]
    matching = [interface for interface in usable if re.search(regexp, interface.network)]
    if not matching:
        names = ", ".join(interface.network for interface in usable)
        raise InstanceError(f"{at}: no network of the instance matches {regexp!r}; they are called {names}")
    return matching[0]


def main_address(interface: Interface) -> str:
    """Return the address by which an interface is reached: its IPv4 one, if it has one."""
    return min(interface.addresses, key=lambda address: address.version).ip


# -- floating IPs ----------------------------------------------------------------------------------


def float_ip(api: Api, network_id: str, mac: str, server_id: str, server: str, *, timeout: float) -> str:
    """Give the port with ``mac`` a new floating IP and return it; found again by its description."""
    port = next(port for port in _all(api, "ports", device_id=server_id) if port.mac_address == mac)
    floating_ip = api.create(
        "network",
        f"make a floating IP for {server}",
        lambda: api.network.create_ip(
            floating_network_id=network_id, port_id=port.id, description=marks.description(server)
        ),
        name=server,
        find=lambda: next(iter(_described(api, "ip", server)), None),
        timeout=timeout,
    )
    return str(floating_ip.floating_ip_address)


def floating_ip_of(api: Api, server_id: str) -> str | None:
    """Return the floating IP of a server's first port that has one."""
    if not api.has("network"):
        return None
    ports = {port.id for port in _all(api, "ports", device_id=server_id)}
    return next((ip.floating_ip_address for ip in _all(api, "ips") if ip.port_id in ports), None)


def remove_floating_ips(api: Api, server: str, *, timeout: float) -> None:
    """Remove the floating IPs that were made for the instance of that name; ``timeout`` is seconds each."""
    _remove_described(api, "ip", server, timeout=timeout)


def remove_ports(api: Api, server: str, *, timeout: float) -> None:
    """Remove the ports that were made for the instance of that name; ``timeout`` is seconds each."""
    _remove_described(api, "port", server, timeout=timeout)


def every(api: Api, kind: str) -> list[Any]:
    """Return all "ports" or "ips" of the project."""
    return _all(api, kind, project_id=api.project_id)


def remove_one(api: Api, kind: str, identity: str, *, timeout: float, owner: str = "") -> None:
    """Remove an "ip" or a "port" by its id; nothing happens if it is gone."""
    api.safely(
        "network",
        f"remove {kind} {identity}{owner}",
        lambda: getattr(api.network, f"delete_{kind}")(identity, ignore_missing=True),
        timeout=timeout,
    )


def _remove_described(api: Api, kind: str, server: str, *, timeout: float) -> None:
    for item in _described(api, kind, server):
        remove_one(api, kind, item.id, timeout=timeout, owner=f" of {server}")
