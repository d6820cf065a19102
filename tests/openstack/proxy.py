"""A proxy before one service: it notes what passes, and does the harm that a test asks for."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from urllib.parse import urlsplit

from tests.support.loopback import QuietHandler, listening

BLOCK = 1 << 16
RECEIVED = 1 << 16
"""Bytes the kernel keeps of a body that is passed on slowly; left alone it takes dozens of MiB at once."""
ONCE_BROKEN = frozenset({2, 3})
"""Sendings of a body whose first connection broke: a third where Glance sees the second before the break."""
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A request that passed. ``status`` is None when the client got no answer; ``sent`` is bytes of body."""

    method: str
    path: str
    status: int | None
    sent: int


class CutError(Exception):
    """The connections to both sides are to be closed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Harm:
    """What is done to the next requests that match, ``times`` of them.

    ``before`` is called with the request's head when it has come, and ``headers`` are added to it; ``body``
    gets each block with its offset and returns what is passed on; ``content`` does the same to the body of
    the answer. All of them may raise CutError. ``lose_answer`` lets the service work, and the client never
    hear of it; ``status`` is answered in the place of the service, which never hears of the request.
    """

    method: str
    path: str
    times: int = 1
    before: Callable[[Message], None] = lambda _head: None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: Callable[[bytes, int], bytes] = lambda block, _offset: block
    content: Callable[[bytes, int], bytes] = lambda block, _offset: block
    lose_answer: bool = False
    status: int | None = None


@dataclasses.dataclass(kw_only=True, eq=False)
class Proxy:
    """A running proxy; ``url`` stands for ``target``, an http URL."""

    target: str
    url: str = ""
    seen: list[Seen] = dataclasses.field(default_factory=list)
    harms: list[Harm] = dataclasses.field(default_factory=list)

    def count(self, method: str, path: str) -> int:
        """Return how many requests of that kind passed."""
        return sum(one.method == method and bool(re.search(path, one.path)) for one in self.seen)

    def harm_for(self, method: str, path: str) -> Harm:
        """Return what is to be done to a request, and take it off the list."""
        for number, harm in enumerate(self.harms):
            if harm.method == method and re.search(harm.path, path):
                left = dataclasses.replace(harm, times=harm.times - 1)
                self.harms[number : number + 1] = [left] if left.times else []
                return harm
        return Harm(method=method, path=path)


def flip(at: int) -> Callable[[bytes, int], bytes]:
    """Return a ``body`` that changes the byte at that offset."""

    def through(block: bytes, offset: int) -> bytes:
        if not offset <= at < offset + len(block):
            return block
        changed = bytearray(block)
        changed[at - offset] ^= 0xFF
        return bytes(changed)

    return through


def cut(at: int) -> Callable[[bytes, int], bytes]:
    """Return a ``body`` that breaks the connection once so many bytes have passed."""

    def through(block: bytes, offset: int) -> bytes:
        if offset >= at:
            raise CutError
        return block

    return through


def crawl(bytes_a_second: int) -> Callable[[bytes, int], bytes]:
    """Return a ``body`` that is slow."""

    def through(block: bytes, _offset: int) -> bytes:
        time.sleep(len(block) / bytes_a_second)
        return block

    return through


@contextlib.contextmanager
def before(target: str, *, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy before the service at ``target``, with TLS on the clients' side if ``tls`` is given."""
    proxy = Proxy(target=target.rstrip("/"))

    class Handler(_Handler):
        served = proxy

    with listening(Handler, tls=tls) as port:
        proxy.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{urlsplit(proxy.target).path}"
        yield proxy


class _Handler(QuietHandler):
    served: Proxy

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        super().setup()

    def _serve(self) -> None:
        harm = self.served.harm_for(self.command, self.path)
        target = urlsplit(self.served.target)
        upstream = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        sent = 0
        status: int | None = None
        try:
            harm.before(self.headers)
            if harm.status is not None:
                status = harm.status
                self._refuse(status)
                return
            self._head(upstream, harm.headers)
            length = int(self.headers.get("Content-Length") or 0)
            refused = False
            while sent < length:
                block = self._block(length - sent)
                passed = harm.body(block, sent)
                sent += len(block)
                if not refused:
                    try:
                        upstream.send(passed)
                    except OSError:  # it has answered before it read all
                        refused = True
            answer = upstream.getresponse()
            content = harm.content(answer.read(), 0)
            if not harm.lose_answer:
                status = answer.status
                self._answer(answer, content)
        except (CutError, OSError, http.client.HTTPException):
            pass
        finally:
            self.served.seen.append(Seen(method=self.command, path=self.path, status=status, sent=sent))
            upstream.close()
            self.close_connection = True
            if status is None:
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    def _block(self, left: int) -> bytes:
        block = self.rfile.read(min(BLOCK, left))
        if not block:  # the client has gone; the service would wait for the rest
            raise CutError
        return block

    def _refuse(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def _head(self, upstream: http.client.HTTPConnection, more: Mapping[str, str]) -> None:
        # With the client's own Host header: services make links of it, which then lead here too.
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        for name, value in more.items():
            upstream.putheader(name, value)
        upstream.putheader("Connection", "close")
        upstream.endheaders()

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
