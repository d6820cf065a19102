"""Services elsewhere as a backend: what goes wrong before a fake cloud goes wrong before real ones too."""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import urlsplit

from tests.support.fake_openstack.messages import Answer, Request
from tests.support.fake_openstack.server import Backend

TIMEOUT = 120.0
"""Seconds that the services have for an answer."""


def upstream(target: str) -> Backend:
    """Return a backend that passes requests on to the service at ``target``, an http URL."""
    parts = urlsplit(target)

    def ask(request: Request) -> Answer:
        path = request.path + (f"?{request.raw_query}" if request.raw_query else "")
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request(request.method, path, body=request.body, headers=dict(request.headers))
            response = connection.getresponse()
            headers = dict(response.getheaders())
            return Answer(status=response.status, content=response.read(), headers=headers)

    return ask
