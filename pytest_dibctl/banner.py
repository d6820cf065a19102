"""Finding out, over TCP alone, whether a service answers behind a port that may lie.

A forwarded port of a user-mode network accepts every connection, whether or not anything listens in the
guest: an open port proves nothing. What tells is what follows: the connection is closed at once (nothing
listens), stays silent (no guest network yet, or a firewall that drops), or carries a banner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import selectors
import socket
import time
from collections.abc import Callable
from typing import Self

INTERVAL = 0.25
"""Seconds between two attempts, at least."""

HASTY, PATIENT = 1.0, 20.0
"""Seconds an attempt waits for the banner, at least.

As long as nothing has come back, nobody knows whether the guest is there. Then hasty attempts notice
one that has just come up, since each sends a fresh SYN, beside a patient one for a slow guest.
Once the guest's own network has answered, by refusing, a silent connection means that the server is busy with
it: there is one attempt at a time then. Every connection costs the guest a process, and a slow guest
that is asked too often never gets to answer at all.
"""
HASTY_SHARE, PATIENT_SHARE = 0.05, 0.25
"""The same as a share of the time waited so far: slow guests are given more, and lose no more than this."""
HASTY_AT_ONCE = 2
BANNER_LIMIT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """What the latest attempts showed: ``answers`` is true once a banner was read."""

    answers: bool
    text: str
    hint: str


UNTRIED = Sight(answers=False, text="nothing was tried yet", hint="allow more time")
REFUSED = Sight(
    answers=False,
    text="connections are refused: nothing listens",
    hint="check that the ssh server is installed and enabled in the image, and listens on this port",
)
CLOSED = Sight(
    answers=False,
    text="connections are accepted and closed at once: nothing listens in the guest",
    hint=REFUSED.hint,
)
SILENT = Sight(
    answers=False,
    text="connections are accepted but no ssh banner follows: the guest's network is not up, a firewall "
    "drops packets, or something else listens there",
    hint="look for the network on the console; a slow guest may need a longer port_wait_timeout",
)
UNREACHABLE = Sight(
    answers=False,
    text="connections get no answer",
    hint="check the network, its security group and the guest's firewall",
)
BANNER = Sight(answers=True, text="the ssh server answers", hint="")


@dataclasses.dataclass(kw_only=True, eq=False)
class _Attempt:
    socket: socket.socket
    ends: float
    hasty: bool
    received: bytes = b""


class BannerWatch:
    """Attempts at a port, several at a time; ``seen`` says what they showed. Close it after use."""

    def __init__(self, ip: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seen = UNTRIED
        self._family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._address = (ip, port)
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._attempts: list[_Attempt] = []
        self._started = self._next = clock()
        self._guest_is_there = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that is still open."""
        for attempt in list(self._attempts):
            self._end(attempt)
        self._selector.close()

    def poll(self, seconds: float = INTERVAL) -> bool:
        """Try for up to ``seconds``; return whether a banner was read."""
        until = self._clock() + seconds
        while True:
            now = self._clock()
            self._retire(now)
            self._begin_due(now)
            due = [attempt.ends for attempt in self._attempts] + [until]
            if self._next > now:
                due.append(self._next)
            for key, _ in self._selector.select(max(0.001, min(due) - now)):
                if key.data in self._attempts:  # unless it was ended for what another one showed
                    self._read(key.data)
            if self.seen.answers or self._clock() >= until:
                return self.seen.answers

    def _begin_due(self, now: float) -> None:
        if now < self._next:
            return
        waited = now - self._started
        hasty = sum(attempt.hasty for attempt in self._attempts)
        if hasty == len(self._attempts):
            self._begin(now + max(PATIENT, PATIENT_SHARE * waited), hasty=False)
            self._next = now + INTERVAL
        elif hasty < HASTY_AT_ONCE and not self._guest_is_there:
            patience = max(HASTY, HASTY_SHARE * waited)
            self._begin(now + patience, hasty=True)
            self._next = now + max(INTERVAL, patience / HASTY_AT_ONCE)

    def _begin(self, ends: float, *, hasty: bool) -> None:
        connection = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        code = connection.connect_ex(self._address)
        if code not in {0, errno.EINPROGRESS}:
            connection.close()
            self.seen = REFUSED if code == errno.ECONNREFUSED else UNREACHABLE
            self._guest_is_there = self.seen is REFUSED
            return
        attempt = _Attempt(socket=connection, ends=ends, hasty=hasty)
        self._attempts.append(attempt)
        self._selector.register(connection, selectors.EVENT_READ, attempt)

    def _retire(self, now: float) -> None:
        for attempt in [one for one in self._attempts if now > one.ends]:
            self.seen = SILENT if _is_connected(attempt.socket) else UNREACHABLE
            self._end(attempt)

    def _read(self, attempt: _Attempt) -> None:
        try:
            data = attempt.socket.recv(BANNER_LIMIT)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._fail(attempt, REFUSED)
        except ConnectionResetError:
            self._fail(attempt, CLOSED)
        except OSError:
            self._fail(attempt, UNREACHABLE)
        else:
            attempt.received += data
            # A server may send other lines before the one that counts.
            if any(line.startswith(b"SSH-") for line in attempt.received.split(b"\n")[:-1]):
                self.seen = BANNER
            elif not data:
                self._fail(attempt, CLOSED)
            elif len(attempt.received) > BANNER_LIMIT:
                self._fail(attempt, SILENT)

    def _fail(self, attempt: _Attempt, seen: Sight) -> None:
        self.seen = seen
        self._end(attempt)
        self._next = self._clock() + INTERVAL
        if seen in {CLOSED, REFUSED} and not self._guest_is_there:
            self._guest_is_there = True
            for other in list(self._attempts):
                self._end(other)

    def _end(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        self._selector.unregister(attempt.socket)
        attempt.socket.close()


def _is_connected(connection: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        connection.getpeername()
        return True
    return False


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
