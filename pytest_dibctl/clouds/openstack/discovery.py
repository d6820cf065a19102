"""Which versions of its API a service tells."""

from __future__ import annotations

from typing import Any

import keystoneauth1.exceptions as auth_exceptions
from keystoneauth1.discover import EndpointData

from pytest_dibctl.clouds.openstack.refusals import UNREACHED, retry_after, said_by
from pytest_dibctl.clouds.openstack.services import CATALOG_TYPES, PROJECTS, Service
from pytest_dibctl.errors import ApiError


def check_versions(connection: Any, service: Service, *, where: str) -> None:
    """See that a service tells its versions, once, if the configured endpoint names none.

    The SDK asks the service then. If that fails it goes on with the URL that it has, below which there
    is nothing, for as long as the connection lives. Where a URL from the catalog fails it says so.
    """
    config, name = connection.config, CATALOG_TYPES.get(service, service)
    url = config.get_endpoint(name)
    if url is not None and EndpointData(catalog_url=url).api_version is None:
        endpoint = config.get_session_client(name).get_endpoint_data()
        if endpoint is None or endpoint.api_version is None:
            raise _versionless(connection, service, url, where)


def _versionless(connection: Any, service: Service, url: str, where: str) -> ApiError:
    """Return what is wrong with a service that did not tell its versions, as far as it says."""
    message = f"{PROJECTS[service]} at {url} does not tell the versions of its API"
    after: float | None = None
    try:
        connection.session.get(url, authenticated=False)
    except UNREACHED as error:
        message = f"no {PROJECTS[service]} answers at {url}: {said_by(error)}"
    except auth_exceptions.HttpError as error:
        # Not in the error's own class: a 404 of this document says nothing about the requested resource.
        message, after = (
            f"{message}: it answered {error.http_status}: {said_by(error)}",
            retry_after(error),
        )
    return ApiError(
        message,
        hint=f"check the endpoint ({where}), and the network",
        transient=True,
        undone=True,
        retry_after=after,
    )
