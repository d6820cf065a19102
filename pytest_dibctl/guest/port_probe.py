"""Finding out, over TCP alone, whether a service answers behind a port.

A forwarded port of a user-mode network accepts every connection, even if nothing listens in the guest, so an
open port proves nothing. The probe judges by what follows: the connection is closed at once (nothing
listens), stays silent (no guest network yet, or a firewall that drops packets), or carries a banner.
"""

from __future__ import annotations

import dataclasses
import errno
import select
import socket
import time
from collections.abc import Callable
from typing import Self

INTERVAL = 0.25
"""Seconds between two attempts, at least."""

PATIENCE, PATIENCE_SHARE = 1.0, 0.1
"""Seconds a silent connection is kept: at least so many, and at least this share of the time waited so far.

Until the first reply, the guest's network may be down. A new attempt sends a new SYN and so notices a guest
that has just come up. But QEMU also keeps the attempts that were given up. It delivers them all once the
guest's network is up, and each costs the guest a process: a slow guest with too many of them never answers.
So attempts get rarer the longer the guest takes, at the price of a tenth of its boot time.
"""
ENGAGED, ENGAGED_SHARE = 20.0, 0.25
"""The same once the guest itself has refused a connection: from then on, silence means a busy server."""

BANNER_LIMIT = 8192
"""Bytes read of a service that sends no ssh banner."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of the latest attempt, as a text and a hint; ``answers`` is true once a banner was read.

    ``symptom`` is that of its error.
    """

    symptom: str
    answers: bool
    text: str
    hint: str


UNTRIED = ProbeResult(
    symptom="port-untried", answers=False, text="nothing was tried yet", hint="allow more time"
)
REFUSED = ProbeResult(
    symptom="port-refused",
    answers=False,
    text="connections are refused: nothing listens",
    hint="check that the ssh server is installed and enabled in the image, and listens on this port",
)
CLOSED = ProbeResult(
    symptom="port-closed",
    answers=False,
    text="connections are accepted and closed at once: nothing listens in the guest",
    hint=REFUSED.hint,
)
SILENT = ProbeResult(
    symptom="port-silent",
    answers=False,
    text="connections are accepted but nothing follows: the guest's network is not up, a firewall drops "
    "packets, or its ssh server is too slow to speak",
    hint="look for the network on the console; a slow guest may need a longer port_wait_timeout",
)
OTHER = ProbeResult(
    symptom="port-other",
    answers=False,
    text="something answers, but not with an ssh banner",
    hint="check tests.ssh.port: another service listens there",
)
UNREACHABLE = ProbeResult(
    symptom="port-unreachable",
    answers=False,
    text="connections get no answer",
    hint="check the network, its security group and the guest's firewall",
)
BANNER = ProbeResult(symptom="", answers=True, text="the ssh server answers", hint="")


class PortProbe:
    """A series of connections to a TCP port, one at a time; ``seen`` is the latest result.

    The caller closes the probe, or uses it as a context manager. ``clock`` returns seconds.
    """

    def __init__(self, ip: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seen = UNTRIED
        self._family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._address = (ip, port)
        self._clock = clock
        self._started = clock()
        self._socket: socket.socket | None = None
        self._received = b""
        self._gives_up = self._next = self._started
        self._engaged = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection if one is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def poll(self, seconds: float = INTERVAL) -> bool:
        """Probe the port for up to ``seconds``; return whether an ssh banner was read by now."""
        until = self._clock() + seconds
        while (now := self._clock()) < until and not self.seen.answers:
            if self._socket is None:
                if now >= self._next:
                    self._connect(now)
                else:
                    time.sleep(min(self._next, until) - now)
            elif now >= self._gives_up:
                # An accepted connection may lead to nothing: only data or a reset would tell.
                self._end(SILENT if self._is_connected() else UNREACHABLE, pause=0.0)
            elif _readable(self._socket, min(self._gives_up, until) - now):
                self._read()
        return self.seen.answers

    def _connect(self, now: float) -> None:
        waited = now - self._started
        least, share = (ENGAGED, ENGAGED_SHARE) if self._engaged else (PATIENCE, PATIENCE_SHARE)
        self._gives_up = now + max(least, share * waited)
        self._received = b""
        self._socket = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        code = self._socket.connect_ex(self._address)
        if code not in {0, errno.EINPROGRESS}:
            self._end(REFUSED if code == errno.ECONNREFUSED else UNREACHABLE)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(BANNER_LIMIT)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._end(REFUSED)
        except ConnectionResetError:
            self._end(CLOSED)
        except OSError:
            self._end(UNREACHABLE)
        else:
            self._received += data
            # A server may send other lines before its banner.
            if any(line.startswith(b"SSH-") for line in self._received.split(b"\n")[:-1]):
                self._end(BANNER)
            elif not data:
                self._end(OTHER if self._received else CLOSED)
            elif len(self._received) > BANNER_LIMIT:
                self._end(OTHER)

    def _end(self, seen: ProbeResult, *, pause: float = INTERVAL) -> None:
        self.seen = OTHER if seen is SILENT and self._received else seen
        self._engaged = self._engaged or seen in {REFUSED, CLOSED}
        self._next = self._clock() + pause
        self.close()

    def _is_connected(self) -> bool:
        assert self._socket is not None
        try:
            self._socket.getpeername()
        except OSError:
            return False
        return True


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(max(1.0, seconds * 1000)))


def port_answers(ip: str, port: int, *, patience: float = 0.5, timeout: float = 3.0) -> bool:
    """Return whether a connection to a TCP port stays open for ``patience`` seconds or carries data.

    ``timeout`` is in seconds and limits connecting. A forwarded port whose guest drops packets looks like a
    service that waits for its client to speak first, so it counts as answering.
    """
    try:
        with socket.create_connection((ip, port), timeout=timeout) as connection:
            connection.settimeout(patience)
            try:
                return connection.recv(1) != b""
            except TimeoutError:
                return True
    except OSError:
        return False
