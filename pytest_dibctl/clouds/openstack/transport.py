"""HTTP to the services: only to places that are vouched for, within whole deadlines, answers of limited size.

Every request of a login goes through ``Transport``: those of keystoneauth, of openstacksdk and ours. A place
is a URL's scheme, host and port.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import http.client
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
from keystoneauth1 import session as ks_session
from requests.exceptions import RequestException
from urllib3 import poolmanager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pytest_dibctl.clouds.openstack import redacting
from pytest_dibctl.errors import ApiError

LARGEST = 64 << 20
"""Bytes of an answer, other than an image that is downloaded: a page of 1,000 images has some MB."""
MOST_REQUESTS = 1000
"""Requests of one call: openstacksdk follows links to next pages as long as a service gives some."""
MOST_REPEATED = 3
"""How often one call may get the same URL: again with a new token, and once more."""
DEFAULT_PORTS = {"http": 80, "https": 443}

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=math.inf)
_asked: contextvars.ContextVar[collections.Counter[str] | None] = contextvars.ContextVar(
    "asked", default=None
)


class AnswerError(ApiError):
    """An answer that is refused here: it leads elsewhere, or has no end."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all requests inside, and what is read of their answers, end within ``seconds`` from now.

    A late call raises the error of a socket's timeout. An outer deadline that is earlier stays.
    """
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextlib.contextmanager
def one_call(seconds: float) -> Iterator[None]:
    """Make one call inside: ``within`` and with an end; AnswerError where a service leads in circles."""
    token = _asked.set(collections.Counter())
    try:
        with within(seconds):
            yield
    finally:
        _asked.reset(token)


def place(url: str) -> str:
    """Return scheme, host and port of a URL as requests reads it, empty for a text that is no URL of HTTP."""
    try:
        prepared = requests.Request("GET", url).prepare().url
        parts = urlsplit(prepared or "")
        port = parts.port or DEFAULT_PORTS.get(parts.scheme.lower())
    except (ValueError, RequestException):
        return ""
    return f"{parts.scheme.lower()}://{(parts.hostname or '').rstrip('.')}:{port}" if port else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and the known part of its answer, for messages."""

    method: str
    url: str
    request_id: str | None = None

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.method} {self.url}{request}"


class Transport(requests.Session):
    """Sends requests to the places of the URLs that ``vouched`` returns, and to no other.

    A redirect is followed, by keystoneauth, within the place of its request only: it would take the token
    along. Raises AnswerError.
    """

    def __init__(self, vouched: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self.last: Exchange | None = None
        """The last request and its answer."""
        self._vouched = vouched
        self._known: set[str] = set()
        for scheme in DEFAULT_PORTS:
            self.mount(f"{scheme}://", BoundedAdapter())

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request; its timeout, in seconds, is that of the whole answer unless that is streamed."""
        method, url = str(request.method), str(request.url)
        self._refuse_stranger(method, url)
        _refuse_circle(method, url)
        self.last = Exchange(method=method, url=url)
        redacting.remember_request(request)
        with within(_seconds(kwargs.get("timeout"))):
            response = super().send(request, **kwargs)
        redacting.remember_answer(response, streamed=bool(kwargs.get("stream")))
        request_id = response.headers.get("x-openstack-request-id") or response.headers.get(
            "x-compute-request-id"
        )
        self.last = dataclasses.replace(self.last, request_id=request_id)
        if response.status_code // 100 == 3 and "location" in response.headers:  # noqa: PLR2004
            self._check_redirect(response)
        return response

    def _refuse_stranger(self, method: str, url: str) -> None:
        origin = place(url)
        if origin in self._known:
            return
        self._known |= {known for known in map(place, self._vouched()) if known}
        if origin not in self._known:
            raise AnswerError(
                f"a service named {url} for {method}: that address is neither Keystone's nor the catalog's, "
                "so nothing was sent to it",
                hint="if it is right, name it in the configuration: auth_url, glance.endpoint, or "
                "*_endpoint_override in clouds.yaml",
            )

    @staticmethod
    def _check_redirect(response: requests.Response) -> None:
        here = str(response.url)
        location = urljoin(here, response.headers["location"])
        if place(location) != place(here):
            response.close()
            raise AnswerError(
                f"{response.request.method} {here} was redirected to {location}, which is another server, "
                "so nothing was sent to it",
                hint="if that address is right, name it in the configuration or the catalog",
            )
        response.headers["location"] = location  # keystoneauth takes absolute ones only


def _refuse_circle(method: str, url: str) -> None:
    counts = _asked.get()
    if counts is None or method != "GET":
        return
    counts[url] += 1
    if counts[url] > MOST_REPEATED:
        raise AnswerError(f"the answers lead to {url} again and again")
    if counts.total() > MOST_REQUESTS:
        raise AnswerError(f"the answers lead to ever more pages, the last of them {url}")


def _seconds(timeout: Any) -> float:
    return float(timeout) if isinstance(timeout, int | float) else math.inf


class GuardedSession(ks_session.Session):
    """A session of keystoneauth whose requests go through a ``Transport``.

    ``urls`` are those of the configuration; those of the catalog count as well once there was a login.
    """

    def __init__(self, *, urls: Iterable[str], **options: Any) -> None:
        self.transport = Transport(self._vouched)
        self._urls = urls
        super().__init__(**{**options, "session": self.transport})

    def _vouched(self) -> Iterator[str]:
        yield from self._urls
        login = getattr(self.auth, "auth_ref", None)
        if login is not None and login.has_service_catalog():
            for endpoints in login.service_catalog.get_endpoints(interface=None).values():
                for endpoint in endpoints:
                    yield str(endpoint.get("url"))

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self.transport.close()


class BoundedAdapter(ks_session.TCPKeepAliveAdapter):
    """Connections that heed ``within``, and answers that are not read beyond ``LARGEST``."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pool of connections."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pool of connections through a proxy; one of SOCKS has connections of its own."""
        manager = super().proxy_manager_for(proxy, **options)
        if manager.pool_classes_by_scheme is poolmanager.pool_classes_by_scheme:
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *arguments: Any, **options: Any
    ) -> requests.Response:
        """Send a request."""
        response = super().send(request, stream, *arguments, **options)
        if not stream:
            response.raw = _Limited(response.raw, str(request.url))
        return response


class _Limited:
    """A body that ends in AnswerError when it is too long, whether or not it is packed."""

    def __init__(self, raw: Any, url: str) -> None:
        self._raw = raw
        self._url = url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, *arguments: Any, **options: Any) -> Iterator[bytes]:
        size = 0
        for block in self._raw.stream(*arguments, **options):
            size += len(block)
            if size > LARGEST:
                self._raw.close()
                raise AnswerError(f"the answer of {self._url} is longer than {LARGEST >> 20} MiB")
            yield block


def _left() -> float | None:
    """Return the seconds until the deadline, None without one; raises TimeoutError after it."""
    deadline = _deadline.get()
    if deadline == math.inf:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Timed(io.RawIOBase):
    """Reads from a socket: each read has the remaining time, so slow drops of data do not add up."""

    def __init__(self, raw: io.RawIOBase, sock: Any) -> None:
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _set_timeout(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _set_timeout(sock: Any) -> None:
    left = _left()
    if left is not None and sock is not None:
        sock.settimeout(left)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock))


class _Timely:
    """The common part of both kinds of connections: each of their calls has the remaining time."""

    response_class = _Response
    timeout: float | None
    sock: Any

    def connect(self) -> None:
        left = _left()
        if left is not None:
            self.timeout = left
        super().connect()  # type: ignore[misc]

    def send(self, data: Any) -> None:
        # Python's sendall takes the timeout for all of what it is given.
        _set_timeout(self.sock)
        super().send(data)  # type: ignore[misc]


class _HttpConnection(_Timely, HTTPConnection):  # type: ignore[misc]
    pass


class _HttpsConnection(_Timely, HTTPSConnection):  # type: ignore[misc]
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS = {"http": _HttpPool, "https": _HttpsPool}
