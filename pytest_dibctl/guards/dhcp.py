"""As much of DHCP as one client on a wire of its own needs (RFC 2131): always the same lease."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

SERVER_PORT, CLIENT_PORT = 67, 68
SECONDS: Final = 86400
"""How long a lease holds; no container lives as long."""

_HEADER: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_MAGIC: Final = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_ETHERNET: Final = 1
_DISCOVER, _OFFER, _ASK, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_PAD, _MASK, _ROUTER, _RESOLVER, _WANTED, _TIME, _KIND, _SERVER, _END = 0, 1, 3, 6, 50, 51, 53, 54, 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """The values for the client."""

    address: ipaddress.IPv4Address
    network: ipaddress.IPv4Network
    router: ipaddress.IPv4Address
    resolver: ipaddress.IPv4Address


def listening(device: str) -> socket.socket:
    """Return a socket, which the caller closes, for requests on a network interface; raises OSError."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.bind(("", SERVER_PORT))
    return server


def reply(packet: bytes, lease: Lease) -> bytes | None:
    """Return the answer to a packet; None to a packet that is no request, or not whole."""
    if len(packet) < _HEADER.size + len(_MAGIC):
        return None
    kind_, hardware, length, _, xid, _, flags, *_, client, _, _ = _HEADER.unpack_from(packet)
    if (kind_, hardware, length) != (_REQUEST, _ETHERNET, 6) or packet[_HEADER.size :][:4] != _MAGIC:
        return None
    options = dict(_options(packet[_HEADER.size + 4 :]))
    kind = options.get(_KIND, b"")[:1]
    requested = options.get(_WANTED, lease.address.packed)
    if kind == bytes([_DISCOVER]):
        answer = _OFFER
    elif kind == bytes([_ASK]):
        answer = _ACK if requested == lease.address.packed else _NAK
    elif kind == bytes([_INFORM]):
        answer = _ACK
    else:
        return None
    address = lease.address.packed if answer != _NAK else bytes(4)
    header = _HEADER.pack(
        *(_REPLY, _ETHERNET, 6, 0, xid, 0, flags),
        *(bytes(4), address, lease.router.packed, bytes(4), client, b"", b""),
    )
    return header + _MAGIC + _encoded(answer, lease)


def _encoded(answer: int, lease: Lease) -> bytes:
    options = [(_KIND, bytes([answer])), (_SERVER, lease.router.packed)]
    if answer != _NAK:
        options += [
            (_TIME, struct.pack("!I", SECONDS)),
            (_MASK, lease.network.netmask.packed),
            (_ROUTER, lease.router.packed),
            (_RESOLVER, lease.resolver.packed),
        ]
    encoded = b"".join(bytes([code, len(value)]) + value for code, value in options)
    # Old clients expect as many bytes as BOOTP has.
    return (encoded + bytes([_END])).ljust(60, b"\0")


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 1 >= len(data):
            return
        length = data[at + 1]
        yield data[at], data[at + 2 : at + 2 + length]
        at += 2 + length
