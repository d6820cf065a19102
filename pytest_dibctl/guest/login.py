"""Whether a guest lets us in: the host keys to accept, how logins end, and the wait until one succeeds."""

from __future__ import annotations

import dataclasses
import enum
import re
import time
from collections.abc import Callable
from typing import Protocol

from pytest_dibctl.errors import PortTimeoutError
from pytest_dibctl.guest.port_probe import PortProbe, ProbeResult
from pytest_dibctl.system import process

LOGIN_PATIENCE = 60.0
"""Seconds one attempt to log in may take; a guest without KVM needs several for the key exchange."""

FOREIGN_KEY_GRACE = 30.0
"""Seconds a wrong host key is suffered: some images start sshd before cloud-init has given it its key."""

TELL_EVERY = 30.0
"""Seconds between two lines of progress that say the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostKeyPolicy:
    """How a guest's host key can be known.

    ``known`` are public key lines; with ``first_seen`` and none known, the first key shown is kept and any
    other refused from then on. ``learn`` returns what the guest itself has told of its keys so far, by a way
    that nobody on the network can meddle with: nothing yet, or None when there is no such way after all;
    then it is as with ``first_seen``.
    """

    known: tuple[str, ...] = ()
    first_seen: bool = False
    learn: Callable[[], tuple[str, ...] | None] | None = None


class Login(enum.Enum):
    """How an attempt to log in ended."""

    DONE = "logged in"
    FOREIGN_KEY = "the host key is not the guest's"
    REFUSED = "the login was refused"
    BROKEN = "the connection broke"


_NOISE = re.compile(
    r"@|IT IS POSSIBLE|Someone could|It is also|Please contact|Add correct| +remove with| +ssh-keygen"
)
"""ssh's large warning about a changed host key; what counts comes before and after it."""


def judge(returncode: int, said: str) -> Login:
    if re.search(
        r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|no matching host key type", said
    ):
        return Login.FOREIGN_KEY
    # Any other code than ssh's own comes from the guest: a forced command that only says whom to log in as.
    if returncode != 255 or "Permission denied" in said or "Too many authentication failures" in said:  # noqa: PLR2004
        return Login.REFUSED
    return Login.BROKEN


def judge_attempt(result: process.Result) -> tuple[Login, str]:
    """Return how an attempt to run a command ended, and what ssh said."""
    if result.returncode == 0:
        return Login.DONE, ""
    lines = f"{result.errors}\n{result.output}".splitlines()
    said = " ".join(" ".join(line for line in lines if not _NOISE.match(line)).split())
    return judge(result.returncode, said), said or process.describe_exit(result.returncode)


class Access(Protocol):
    """A way into a guest, as far as the wait for it needs one."""

    @property
    def ip(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def username(self) -> str: ...

    @property
    def host_keys(self) -> HostKeyPolicy: ...

    def learn_host_keys(self) -> bool:
        """Trust what the guest has told of its host keys by now; return whether a login may be tried."""
        ...

    def try_login(self, *, timeout: float) -> tuple[Login, str]:
        """Try once to run a command; return how that ended and what ssh said."""
        ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Wait:
    """One wait for readiness: the clock, and what was told so far."""

    access: Access
    timeout: float
    check: Callable[[], None]
    progress: Callable[[str], None]

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._told: tuple[str, float] = ("", 0.0)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def _left(self) -> float:
        return self.timeout - self.elapsed

    @property
    def _where(self) -> str:
        return f"{self.access.ip}:{self.access.port}"

    def for_banner(self) -> None:
        with PortProbe(self.access.ip, self.access.port) as watch:
            while not watch.poll():
                self.check()
                if self._left <= 0:
                    raise self._no_banner(watch.seen)
                # What is seen changes all the time while a guest comes up: once in a while is enough.
                if self.elapsed - self._told[1] > TELL_EVERY:
                    self._tell(watch.seen.text)
        self._tell("the ssh server answers")

    def for_login(self) -> None:
        pause = 0.5
        foreign_since: float | None = None
        known: tuple[Login, str] | None = None
        self._for_host_keys()
        while True:
            allowed = min(LOGIN_PATIENCE, self._left)
            outcome, said = self.access.try_login(timeout=max(1.0, allowed))
            if outcome is Login.DONE:
                return
            self.check()
            if outcome is Login.BROKEN and allowed < LOGIN_PATIENCE and known is not None:
                outcome, said = known  # a try that was given no time tells nothing of the guest
            known = outcome, said
            if outcome is Login.FOREIGN_KEY and self.access.host_keys.learn is not None:
                self.access.learn_host_keys()  # a guest that was made anew tells other keys, in its own time
            elif outcome is Login.FOREIGN_KEY:
                foreign_since = self.elapsed if foreign_since is None else foreign_since
            else:
                foreign_since = None
            patient = foreign_since is None or self.elapsed - foreign_since < FOREIGN_KEY_GRACE
            if self._left <= 0 or not patient:
                raise self._no_login(outcome, said)
            self._tell(f"no login as {self.access.username} yet: {outcome.value} ({said:.160})")
            # Servers punish addresses that fail to log in again and again.
            time.sleep(max(0.0, min(pause, self._left)))
            pause = min(pause * 1.5, 5.0)

    def _for_host_keys(self) -> None:
        """Wait until the guest has told which host keys it has."""
        while not self.access.learn_host_keys():
            self.check()
            if self._left <= 0:
                raise PortTimeoutError(
                    f"the ssh server at {self._where} answers, but the guest printed no ssh host keys on its "
                    f"console within {self.timeout:g} s, so there is no telling whether it is the guest",
                    hint="cloud-init prints them when the console is the kernel's (console=ttyS0); for an "
                    "image that does not, set ssh_host_key: first-seen in the environment's nova section",
                )
            self._tell("the ssh server answers; waiting for its host keys on the console")
            time.sleep(min(2.0, max(0.1, self._left)))

    def _tell(self, text: str) -> None:
        said, when = self._told
        if text == said and self.elapsed - when < TELL_EVERY:
            return
        self._told = (text, self.elapsed)
        self.progress(f"{self.elapsed:.0f} s: {text}")

    def _no_banner(self, seen: ProbeResult) -> PortTimeoutError:
        return PortTimeoutError(
            f"ssh at {self._where} did not answer within {self.timeout:g} s: {seen.text}",
            hint=seen.hint,
        )

    def _no_login(self, outcome: Login, said: str) -> PortTimeoutError:
        server = f"the ssh server at {self._where} answers"
        user = self.access.username
        if outcome is Login.FOREIGN_KEY:
            return PortTimeoutError(
                f"{server} with a host key that is not the guest's: the image did not take the host key it "
                f"was given, or another machine answers\n  {said}",
                hint="cloud-init (or whatever reads the seed) must apply ssh_keys before the ssh server "
                "starts; for an image that makes its own key, set ssh_host_key: first-seen in the "
                "environment's qemu or nova section",
            )
        if outcome is Login.REFUSED:
            return PortTimeoutError(
                f"{server}, but no login as {user} succeeded within {self.timeout:g} s\n  {said}",
                hint=f"check that the image has a user {user} (tests.ssh.username) and that cloud-init gave "
                "it the key",
            )
        return PortTimeoutError(
            f"{server}, but no login as {user} came to an end within {self.timeout:g} s\n  {said}",
            hint="the guest may be too slow or out of memory: look at its console",
        )
