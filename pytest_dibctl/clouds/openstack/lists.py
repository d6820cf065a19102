"""Lists of a service, page by page."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from pytest_dibctl.clouds.openstack import shapes
from pytest_dibctl.clouds.openstack.api import SAFE_CALL_TIMEOUT, Api
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.clouds.openstack.services import PROJECTS, Service
from pytest_dibctl.errors import ApiError

PAGE = 1000
"""Images or servers asked for at a time; a service may give fewer."""
LISTING = 1800.0
"""Seconds that all pages of a list may take together."""
MOST_EMPTY = 20
"""Pages without an item that may follow each other: Neutron and Cinder filter after they have cut a page."""
MICROVERSIONS: Mapping[Service, str] = {"compute": "2.69", "volume": "3.31"}
"""Versions of the APIs.

With this version, Nova names the servers that it cannot describe because their cell is down. With this
version, Cinder refuses unknown filters of users who may not see all volumes.
"""


def pages(
    api: Api, service: Service, url: str, query: Mapping[str, str], key: str
) -> Iterator[Mapping[str, Any]]:
    """Yield the items of a list at ``url``, page by page; ``key`` is the name of the list in its answers.

    ``query`` holds filters; ``PAGE`` limits a page unless it says ``limit``. Raises ApiError and its like,
    also when the pages lead nowhere: to a page that was there already, or to the same items.
    """
    options = {"microversion": MICROVERSIONS[service]} if service in MICROVERSIONS else {}

    def page(address: str) -> tuple[list[Mapping[str, Any]], str | None]:
        answer = raise_for_status(getattr(api, service).get(address, **options))
        document = shapes.read(answer, shapes.page(key))
        return list(document[key]), _next(document, key, url)

    following: str | None = f"{url}?{urlencode({'limit': str(PAGE), **query})}"
    seen: set[str] = set()
    left, empty = LISTING, 0
    while following:
        seen.add(following)
        started = time.monotonic()
        items, following = api.safely(
            service, f"list {key}", functools.partial(page, following), timeout=min(SAFE_CALL_TIMEOUT, left)
        )
        left -= time.monotonic() - started
        yield from items
        empty = 0 if items else empty + 1
        # Each page ends with another item, so the id of that item identifies the page.
        end = f"the item {items[-1]['id']}" if items else ""
        if (
            following in seen
            or (following and end in seen)
            or empty > MOST_EMPTY
            or (following and left <= 0)
        ):
            raise ApiError(
                f"cannot list {key}: {PROJECTS[service]} leads from page to page without an end, the last "
                f"of {len(seen)} to {following}"
            )
        if end:
            seen.add(end)


def _next(page: Mapping[str, Any], key: str, url: str) -> str | None:
    """Return the address of the next page, relative to the service: a proxy may have been named otherwise."""
    following = page.get("next")
    if following is None:
        links = page.get(f"{key}_links") or ()
        following = next((link["href"] for link in links if link.get("rel") == "next"), None)
    if not following:
        return None
    return f"{url}?{str(following).partition('?')[2]}"
