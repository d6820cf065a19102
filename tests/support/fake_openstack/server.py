"""HTTP on loopback before a fake cloud, or before whatever else answers requests."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl, urlsplit

from tests.support.fake_openstack.cloud import FakeCloud
from tests.support.fake_openstack.faults import REFUSING, Plan, refusal, spoiled
from tests.support.fake_openstack.messages import Answer, Request
from tests.support.loopback import QuietHandler, listening

BLOCK = 1 << 20
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server"})
NO_CONTENT = 204

Backend = Callable[[Request], Answer]


@dataclasses.dataclass(kw_only=True)
class Server:
    """A running server; ``url`` is its own, ``plan`` may be replaced at any time."""

    backend: Backend
    plan: Plan
    url: str = ""


@contextlib.contextmanager
def serving(cloud: FakeCloud) -> Iterator[FakeCloud]:
    """Serve a cloud; ``cloud.url`` is its Keystone."""
    with serving_backend(cloud.handle) as server:
        cloud.url = f"{server.url}/identity/v3"
        yield cloud


@contextlib.contextmanager
def serving_backend(backend: Backend, plan: Plan | None = None) -> Iterator[Server]:
    """Serve ``backend`` on a port of loopback."""
    server = Server(backend=backend, plan=plan or Plan())

    class Handler(_Handler):
        served = server

    with listening(Handler) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


class _Handler(QuietHandler):
    served: Server
    rbufsize = BLOCK

    def _serve(self) -> None:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        self._chunked = chunked
        self._left = 0 if chunked else int(self.headers.get("Content-Length") or 0)
        self._unread = chunked or self._left > 0
        try:
            self._answer(self._request())
        except OSError:  # the client is gone
            self.close_connection = True

    def _answer(self, request: Request) -> None:
        plan = self.served.plan
        fault = plan.fault_for(request)
        if fault is not None:
            request.receive()  # what goes wrong is the answer: the client is to come as far as that
        if fault == "reset before":
            self._reset()
            return
        if fault in REFUSING:
            self._send(refusal(str(fault)))
            return
        answer = self.served.backend(request)
        if fault is None:
            self._send(answer)
        elif fault in {"empty", "malformed"}:
            self._send(spoiled(answer, fault))
        else:
            if fault == "stall":
                time.sleep(plan.stall)
            self._reset()

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        return Request(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            # As the client named it: links that a service makes lead back through a proxy before it.
            base=f"http://{self.headers['Host']}",
            source=self._chunks if self._chunked else self._blocks,
            token=self.headers.get("X-Auth-Token"),
            headers=tuple(
                (name, value) for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
            ),
            raw_query=parts.query,
        )

    def _blocks(self) -> Iterator[memoryview]:
        """Yield a body of known length; each block is overwritten by the next."""
        if not self._left:
            return
        buffer = memoryview(bytearray(min(BLOCK, self._left)))
        while self._left:
            count = self.rfile.readinto1(buffer[: min(BLOCK, self._left)])
            if not count:
                raise ConnectionResetError
            self._left -= count
            self._unread = self._left > 0
            yield buffer[:count]

    def _chunks(self) -> Iterator[bytes]:
        """Yield a body that comes in chunks."""
        while size := self._chunk_size():
            chunk = self.rfile.read(size)
            if len(chunk) != size:
                raise ConnectionResetError
            self.rfile.readline()
            yield chunk
        self.rfile.readline()
        self._unread = False

    def _chunk_size(self) -> int:
        line = self.rfile.readline()
        if not line:
            raise ConnectionResetError
        return int(line.split(b";")[0], 16)

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.status != NO_CONTENT:
            self.send_header("Content-Length", str(len(answer.content)))
        if self._unread:  # what is left of the body is not the next request
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            # No lingering: the client gets a reset, as from a service that was killed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
