"""Lists in pages, as the services give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from tests.support.fake_openstack.messages import Document, Refusal, Request


def linked_page(
    kind: str,
    found: Sequence[Mapping[str, Any]],
    request: Request,
    most: int,
    *,
    show: Callable[[Mapping[str, Any]], Document] = dict,
) -> Document:
    """Return the page that a request asks for as Nova, Cinder and Neutron do, with a link to the next."""
    listed, marker = page(found, request.query, most)
    document: Document = {kind: [show(thing) for thing in listed]}
    if marker is not None:
        url = f"{request.base}{request.path}?{urlencode({**request.query, 'marker': marker})}"
        document[f"{kind}_links"] = [{"rel": "next", "href": url}]
    return document


def page(
    found: Sequence[Mapping[str, Any]], query: Mapping[str, str], most: int
) -> tuple[list[Mapping[str, Any]], str | None]:
    """Return the page that a query asks for, of ``most`` at most, and the marker of the next if there is one.

    A sequence that has a method ``place`` is asked for the place of a marker, others are searched.
    """
    limit = min(int(query.get("limit", most)), most)
    first = _place(found, query["marker"]) + 1 if query.get("marker") else 0
    chosen = list(found[first : first + limit])
    more = first + limit < len(found)
    return chosen, str(chosen[-1]["id"]) if chosen and more else None


def _place(found: Sequence[Mapping[str, Any]], marker: str) -> int:
    place = getattr(found, "place", None)
    if place is not None:
        return int(place(marker))
    for number, document in enumerate(found):
        if document["id"] == marker:
            return number
    raise Refusal(400, f"marker [{marker}] not found")
