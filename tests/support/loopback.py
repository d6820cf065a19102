"""HTTP servers on loopback for tests: any method, a thread for each request, not a word on stderr."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """Answers every request, whatever its method, by ``_serve`` of a subclass."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    """With the buffer: a head and a body sent apart would take 40 ms, until the first is acknowledged."""

    def _serve(self) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # how the base class asks for the method of a request
            return self._serve
        raise AttributeError(name)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing: clients may go at any time."""


@contextlib.contextmanager
def listening(handler: type[QuietHandler], *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of loopback, and yield it; with TLS if ``tls`` is given."""
    with _Listener(("127.0.0.1", 0), handler) as listener:
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield int(listener.server_address[1])
        finally:
            listener.shutdown()
            thread.join()
