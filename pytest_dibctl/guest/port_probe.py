"""Finding out, over TCP alone, whether a service answers behind a port that may lie.

A forwarded port of a user-mode network accepts every connection, whether or not anything listens in the
guest: an open port proves nothing. What tells is what follows: the connection is closed at once (nothing
listens), stays silent (no guest network yet, or a firewall that drops), or carries a banner.
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
"""Seconds a silent connection is kept, at least, and the same as a share of the time waited so far.

While nothing has ever come back, nobody knows whether the guest is there: a fresh attempt sends a fresh SYN
and notices a guest that has just come up. But QEMU keeps the attempts that were given up, too, and
delivers them all once there is a guest, each of which costs it a process: a slow guest that was asked too
often never gets to answer. So the pace follows the guest's, at the price of a tenth of its boot time.
"""
ENGAGED, ENGAGED_SHARE = 20.0, 0.25
"""The same once the guest itself has refused: silence now means that the server is busy with us."""

BANNER_LIMIT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What the latest attempts showed: ``answers`` is true once a banner was read."""

    answers: bool
    text: str
    hint: str


UNTRIED = ProbeResult(answers=False, text="nothing was tried yet", hint="allow more time")
REFUSED = ProbeResult(
    answers=False,
    text="connections are refused: nothing listens",
    hint="check that the ssh server is installed and enabled in the image, and listens on this port",
)
CLOSED = ProbeResult(
    answers=False,
    text="connections are accepted and closed at once: nothing listens in the guest",
    hint=REFUSED.hint,
)
SILENT = ProbeResult(
    answers=False,
    text="connections are accepted but nothing follows: the guest's network is not up, a firewall drops "
    "packets, or its ssh server is too slow to speak",
    hint="look for the network on the console; a slow guest may need a longer port_wait_timeout",
)
OTHER = ProbeResult(
    answers=False,
    text="something answers, but not with an ssh banner",
    hint="check tests.ssh.port: another service listens there",
)
UNREACHABLE = ProbeResult(
    answers=False,
    text="connections get no answer",
    hint="check the network, its security group and the guest's firewall",
)
BANNER = ProbeResult(answers=True, text="the ssh server answers", hint="")


class PortProbe:
    """Attempts at a port, one at a time; ``seen`` says what they showed so far. Close it after use."""

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
        """Try for up to ``seconds``; return whether a banner was read."""
        until = self._clock() + seconds
        while (now := self._clock()) < until and not self.seen.answers:
            if self._socket is None:
                if now >= self._next:
                    self._connect(now)
                else:
                    time.sleep(min(self._next, until) - now)
            elif now >= self._gives_up:
                # Still connecting, or connected to nobody: only what comes back would tell.
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
            # A server may send other lines before the one that counts.
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

    ``timeout`` is for the connection itself. A forwarded port whose guest drops packets instead of refusing
    them cannot be told from a service that waits to be spoken to: it counts as answering.
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
