"""Lists of a service, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.clouds.openstack.services import Service

PAGE = 1000
"""Images or servers asked for at a time; a service may give fewer."""
MICROVERSION = "2.69"
"""Nova's version that names servers it cannot describe, because their cell is down, instead of none."""


def pages(
    api: Api, service: Service, url: str, query: Mapping[str, str], key: str
) -> Iterator[Mapping[str, Any]]:
    """Yield what a service lists at ``url``, page by page; ``key`` is what it calls them. Raises ApiError."""
    options = {"microversion": MICROVERSION} if service == "compute" else {}
    following: str | None = f"{url}?{urlencode(query)}"
    while following:
        address = following
        page = api.safely(
            service,
            f"list {key}",
            lambda address=address: raise_for_status(  # type: ignore[misc]
                getattr(api, service).get(address, **options)
            ).json(),
        )
        yield from page[key]
        following = _next(page, key, url)


def _next(page: Mapping[str, Any], key: str, url: str) -> str | None:
    """Return the address of the next page, relative to the service: a proxy may have been named otherwise."""
    following = page.get("next")
    if following is None:
        links = page.get(f"{key}_links") or ()
        following = next((link["href"] for link in links if link.get("rel") == "next"), None)
    if not following:
        return None
    return f"{url}?{str(following).partition('?')[2]}"
