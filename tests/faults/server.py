"""A server that does harm: before the services in memory, or as a proxy before real ones.

One plan decides for every request what goes wrong with it; whatever is behind is asked through one function.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from tests.faults.standin import Answer, Request
from tests.support.loopback import QuietHandler, listening

Fault = Literal["500", "503", "429", "401", "reset before", "reset after", "empty", "malformed", "stall"]
FAULTS: tuple[Fault, ...] = (
    *("500", "503", "429", "401"),
    *("reset before", "reset after", "empty", "malformed", "stall"),
)
REFUSING = frozenset({"500", "503", "429", "401"})
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})

Backend = Callable[[Request], Answer]


@dataclasses.dataclass(kw_only=True)
class Plan:
    """What goes wrong: ``choose`` gets each request's number, from 0, and the request."""

    choose: Callable[[int, Request], Fault | None] = lambda _number, _request: None
    stall: float = 60.0
    seen: list[str] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)
    """The requests that met a fault."""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def fault_for(self, request: Request) -> Fault | None:
        """Return what happens to a request, and note it."""
        with self.lock:
            number = len(self.seen)
            self.seen.append(f"{request.method} {request.path}")
            fault = self.choose(number, request)
            if fault is not None:
                self.done.append(f"{fault}: {self.seen[-1]}")
        return fault


@dataclasses.dataclass(kw_only=True)
class Server:
    """A running server; ``url`` is its own, ``plan`` may be replaced at any time."""

    backend: Backend
    plan: Plan
    url: str = ""


@contextlib.contextmanager
def serving(backend: Backend, plan: Plan | None = None) -> Iterator[Server]:
    """Serve ``backend`` on a port of loopback."""
    server = Server(backend=backend, plan=plan or Plan())

    class Handler(_Handler):
        served = server

    with listening(Handler) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


def upstream(target: str) -> Backend:
    """Return a backend that passes requests on to the service at ``target``, an http URL."""
    parts = urlsplit(target)

    def ask(request: Request) -> Answer:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)
        try:
            query = request.raw_query
            path = request.path + (f"?{query}" if query else "")
            connection.request(request.method, path, body=request.body, headers=dict(request.headers))
            said = connection.getresponse()
            return Answer(status=said.status, content=said.read(), headers=dict(said.getheaders()))
        finally:
            connection.close()

    return ask


class _Handler(QuietHandler):
    served: Server

    def _serve(self) -> None:
        request = self._request()
        fault = self.served.plan.fault_for(request)
        if fault == "reset before":
            self._reset()
            return
        if fault in REFUSING:
            self._say(_refusal(str(fault)))
            return
        said = self.served.backend(request)
        if fault == "reset after":
            self._reset()
        elif fault == "stall":
            time.sleep(self.served.plan.stall)
            self._reset()
        elif fault == "empty":
            self._say(dataclasses.replace(said, content=b""))
        elif fault == "malformed":
            self._say(dataclasses.replace(said, content=b'{"truncated": [' if said.content else b""))
        else:
            self._say(said)

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        return Request(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            body=self._body(),
            # As the client named it: links that a service makes lead back through a proxy before it.
            base=f"http://{self.headers['Host']}",
            token=self.headers.get("X-Auth-Token"),
            headers=tuple(
                (name, value) for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
            ),
            raw_query=parts.query,
        )

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        blocks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def _say(self, said: Answer) -> None:
        self.send_response_only(said.status)
        for name, value in said.headers.items():
            if name.lower() not in HOP_BY_HOP or name == "Date":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.content)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            # No lingering: the client gets a reset, as from a service that was killed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _refusal(status: str) -> Answer:
    document = {"error": {"code": int(status), "message": f"injected {status}"}}
    headers = {"Content-Type": "application/json", **({"Retry-After": "1"} if status == "429" else {})}
    return Answer(status=int(status), content=json.dumps(document).encode(), headers=headers)
