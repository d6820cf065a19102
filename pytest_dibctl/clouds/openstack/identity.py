"""The identity of a login's cloud: it must be equal before a recorded resource is looked for there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pytest_dibctl.clouds.openstack.api import Api

_PORTS = {"http": 80, "https": 443}
_VERSION = re.compile(r"/v\d+(\.\d+)?$")


def of_login(api: Api, *, image_endpoint: str | None) -> dict[str, str]:
    """Return the identity of the login's project, region and user, from Keystone's token.

    ``image_endpoint`` is the Glance that is used instead of the catalog's. Raises AuthorizationError.
    """
    session = api.connection.session

    def ask() -> tuple[str, str]:
        return str(session.get_project_id() or ""), str(session.get_user_id() or "")

    project, user = api.safely("identity", "log in", ask)
    return {
        "engine": "openstack",
        "keystone": normalised(str(getattr(session.auth, "auth_url", None) or "")),
        "region": str(api.connection.config.region_name or ""),
        "project": project,
        "user": user,
        "image_endpoint": image_endpoint or "",
    }


def normalised(url: str) -> str:
    """Return a Keystone's URL in one of the ways it can be written: without version, usual port, user."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    place = host if port in {None, _PORTS.get(scheme)} else f"{host}:{port}"
    return f"{scheme}://{place}{_VERSION.sub('', parts.path.rstrip('/'))}"
