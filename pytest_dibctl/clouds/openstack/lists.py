"""Lists of a service, page by page."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.clouds.openstack.services import Service

PAGE = 1000
"""Images or servers asked for at a time; a service may give fewer."""
MICROVERSIONS: Mapping[Service, str] = {"compute": "2.69", "volume": "3.31"}
"""Nova's version that names servers it cannot describe, because their cell is down, instead of none; and
Cinder's that refuses unknown filters of those who may not see all volumes."""


def pages(
    api: Api, service: Service, url: str, query: Mapping[str, str], key: str
) -> Iterator[Mapping[str, Any]]:
    """Yield what a service lists at ``url``, page by page; ``key`` is the name of the list in its answers.

    ``query`` holds filters; ``PAGE`` limits a page unless it says ``limit``. Raises ApiError and its like.
    """
    options = {"microversion": MICROVERSIONS[service]} if service in MICROVERSIONS else {}

    def page(address: str) -> tuple[list[Mapping[str, Any]], str | None]:
        document = raise_for_status(getattr(api, service).get(address, **options)).json()
        return list(document[key]), _next(document, key, url)

    following: str | None = f"{url}?{urlencode({'limit': str(PAGE), **query})}"
    while following:
        items, following = api.safely(service, f"list {key}", functools.partial(page, following))
        yield from items


def _next(page: Mapping[str, Any], key: str, url: str) -> str | None:
    """Return the address of the next page, relative to the service: a proxy may have been named otherwise."""
    following = page.get("next")
    if following is None:
        links = page.get(f"{key}_links") or ()
        following = next((link["href"] for link in links if link.get("rel") == "next"), None)
    if not following:
        return None
    return f"{url}?{str(following).partition('?')[2]}"
