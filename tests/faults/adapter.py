"""The services in memory as an adapter of requests: all of the engine's code but the sockets, at speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
import requests.adapters
from requests.structures import CaseInsensitiveDict

from pytest_dibctl.clouds.openstack import api, login
from tests.support.fake_openstack.messages import Answer, Request

URL = "http://cloud.invalid"


@dataclasses.dataclass(kw_only=True, eq=False)
class CloudAdapter(requests.adapters.BaseAdapter):
    """Hands each request to ``backend``, which may raise what a connection would."""

    backend: Callable[[Request], Answer]

    def send(self, request: requests.PreparedRequest, **_options: Any) -> requests.Response:  # type: ignore[override]
        parts = urlsplit(str(request.url))
        said = self.backend(
            Request(
                method=str(request.method),
                path=parts.path,
                query=dict(parse_qsl(parts.query)),
                base=URL,
                source=lambda: iter([_bytes(request.body)]),
                token=str(request.headers.get("X-Auth-Token", "")),
                headers=tuple((name, str(value)) for name, value in request.headers.items()),
            )
        )
        response = requests.Response()
        response.status_code = said.status
        response.headers = CaseInsensitiveDict(said.headers)
        response._content = said.content
        response.url, response.request = str(request.url), request
        return response

    def close(self) -> None:
        """There is nothing open."""


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else b"".join(body)


def opening(backend: Callable[[Request], Answer]) -> Callable[..., api.Api]:
    """Return what stands in for ``login.open_api`` while all calls are to go to ``backend``.

    It logs in once: the SDK takes longer to make its clients than all calls of a history.
    """
    usual = login.open_api
    connections: list[Any] = []

    def open_api(*arguments: Any, where: str, **options: Any) -> api.Api:
        if not connections:
            opened = usual(*arguments, where=where, **options)
            opened.connection.session.session.mount(URL, CloudAdapter(backend=backend))
            connections.append(opened.connection)
        found = _Shared(connections[0], where=where)
        found._has = {"network": True}
        return found

    return open_api


class _Shared(api.Api):
    """A login of many."""

    def close(self) -> None:
        """Others go on with it."""
