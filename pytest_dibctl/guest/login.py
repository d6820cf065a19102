"""Waiting until a guest accepts a login: which host keys it may show, and how each attempt ends."""

from __future__ import annotations

import dataclasses
import enum
import re
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pytest_dibctl.errors import DibctlError, PortTimeoutError
from pytest_dibctl.guest import console
from pytest_dibctl.guest.port_probe import PortProbe, ProbeResult
from pytest_dibctl.system import process

LOGIN_PATIENCE = 60.0
"""Seconds one attempt to log in may take; a guest without KVM needs several for the key exchange."""

FOREIGN_KEY_GRACE = 30.0
"""Seconds until a wrong host key ends the wait.

Some images start sshd before cloud-init has installed the guest's own key.
"""

REFUSAL_GRACE = 15.0
"""Seconds until refused logins end the wait once cloud-init has come to its end: no more keys will come."""

REFUSAL_LIMIT = 180.0
"""The same where the console tells nothing of cloud-init."""

WATCH_END = 5.0
"""Seconds that the last of these looks is waited for."""
WATCH_EVERY = 0.25
"""Seconds between two looks at the guest while an attempt to log in goes on."""

TELL_EVERY = 30.0
"""Seconds between two equal lines of progress."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostKeyPolicy:
    """Which host keys of a guest are accepted.

    ``known`` are lines of public keys. With ``first_seen`` and no known key, ssh accepts the first key that
    the server shows and refuses every other key from then on. ``learn`` asks the guest for its keys over a
    channel that the network cannot forge, such as its console. It returns no keys until the guest has told
    them. It returns None when there is no such channel; then ``first_seen`` applies.
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
"""Lines of ssh's banner about a changed host key; the lines that name the cause stand around it."""


_FOREIGN_KEY = re.compile(
    r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|no matching host key type"
)


def judge(returncode: int, output: str) -> Login:
    """Return how a failed attempt to log in ended, from the exit code and the output of ssh."""
    if _FOREIGN_KEY.search(output):
        return Login.FOREIGN_KEY
    # Every code but ssh's own 255 comes from the guest: a forced command that names the user to log in as.
    if returncode != 255 or "Permission denied" in output or "Too many authentication failures" in output:  # noqa: PLR2004
        return Login.REFUSED
    return Login.BROKEN


def judge_attempt(result: process.Result) -> tuple[Login, str]:
    """Return how an attempt to run ``true`` in the guest ended, and the output of ssh in one line."""
    if result.returncode == 0:
        return Login.DONE, ""
    lines = f"{result.errors}\n{result.output}".splitlines()
    output = " ".join(" ".join(line for line in lines if not _NOISE.match(line)).split())
    return judge(result.returncode, output), output or process.describe_exit(result.returncode)


class Access(Protocol):
    """The methods of a login that the wait needs."""

    @property
    def ip(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def username(self) -> str: ...

    @property
    def host_keys(self) -> HostKeyPolicy: ...

    def learn_host_keys(self) -> bool:
        """Trust the host keys that the guest has told by now; return whether a login may be tried."""
        ...

    def try_login(self, *, timeout: float, stopped: threading.Event) -> tuple[Login, str]:
        """Log in once, for at most ``timeout`` seconds; return how that ended and the output of ssh.

        ``stopped`` ends the attempt early. Raises CommandError when ssh itself cannot be run.
        """
        ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Wait:
    """One wait until a guest accepts a login, for at most ``timeout`` seconds in all.

    ``check`` is called between attempts; an error that it raises ends the wait. ``progress`` gets lines to
    show, the same one at most every ``TELL_EVERY`` seconds. ``console`` returns the guest's console so far:
    it distinguishes a refused login from an early one. ``listening`` says that the ssh server is known to
    listen, or about to. Call ``for_banner``, then ``for_login``.
    """

    access: Access
    timeout: float
    check: Callable[[], None]
    progress: Callable[[str], None]
    console: Callable[[], str] = str
    listening: bool = False

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._told: tuple[str, float] = ("", 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._started

    @property
    def _left(self) -> float:
        return self.timeout - self.elapsed

    @property
    def _where(self) -> str:
        return f"{self.access.ip}:{self.access.port}"

    def for_banner(self) -> None:
        """Wait until an ssh server answers at the port.

        Raises PortTimeoutError with the last state of the port.
        """
        if self.listening:
            return  # the probe would have the guest start a server for it, which takes a slow guest a second
        with PortProbe(self.access.ip, self.access.port) as probe:
            while not probe.poll():
                self.check()
                if self._left <= 0:
                    raise self._no_banner(probe.seen)
                # The results change quickly while a guest comes up: not each of them is worth a line.
                if self.elapsed - self._told[1] > TELL_EVERY:
                    self._tell(probe.seen.text)
        self._tell("the ssh server answers")

    def for_login(self) -> None:
        """Wait until a login succeeds.

        Raises PortTimeoutError that says how the last attempt ended. A host key that is not the guest's ends
        the wait after ``FOREIGN_KEY_GRACE`` seconds, unless the policy learns keys from the guest itself.
        Refusals end it once nothing more is to come in the guest.
        """
        pause = 0.1 if self.listening else 0.5
        foreign_since: float | None = None
        refused_since: float | None = None
        previous: tuple[Login, str] | None = None
        self._for_host_keys()
        while True:
            allowed = min(LOGIN_PATIENCE, self._left)
            outcome, output = self._attempt(max(1.0, allowed))
            if outcome is Login.DONE:
                return
            self.check()
            if outcome is Login.BROKEN and allowed < LOGIN_PATIENCE and previous is not None:
                outcome, output = previous  # an attempt cut short tells nothing of the guest
            previous = outcome, output
            if outcome is Login.FOREIGN_KEY and self.access.host_keys.learn is not None:
                self.access.learn_host_keys()  # a rebuilt guest makes new keys and tells them later
            elif outcome is Login.FOREIGN_KEY:
                foreign_since = self.elapsed if foreign_since is None else foreign_since
            else:
                foreign_since = None
            refused_since = (refused_since or self.elapsed) if outcome is Login.REFUSED else None
            if refused_since is not None and self._is_final(output, self.elapsed - refused_since):
                raise self._refused(output)
            patient = foreign_since is None or self.elapsed - foreign_since < FOREIGN_KEY_GRACE
            if self._left <= 0 or not patient:
                raise self._no_login(outcome, output)
            self._tell(f"no login as {self.access.username} yet: {outcome.value} ({output:.160})")
            # Servers block addresses whose logins fail too often.
            time.sleep(max(0.0, min(pause, self._left)))
            pause = min(pause * 1.5, 5.0)

    def _attempt(self, seconds: float) -> tuple[Login, str]:
        """Log in once; a guest that is found dead meanwhile ends the attempt, and the wait by an error."""
        over, errors = threading.Event(), list[BaseException]()

        def watch() -> None:
            while not over.wait(WATCH_EVERY):
                try:
                    self.check()
                except BaseException as error:  # noqa: BLE001 -- raised below, in the thread that waits
                    errors.append(error)
                    over.set()

        watcher = threading.Thread(target=watch, name="watch over a login", daemon=True)
        watcher.start()
        try:
            outcome = self.access.try_login(timeout=seconds, stopped=over)
        finally:
            over.set()
            watcher.join(WATCH_END)
        if errors and outcome[0] is not Login.DONE:
            raise errors[0]
        return outcome

    def _is_final(self, output: str, seconds: float) -> bool:
        """Whether a login that has been refused for ``seconds`` will always be refused."""
        if console.names_other_user(output):
            return True
        if seconds < REFUSAL_GRACE:
            return False
        finished = console.cloud_init_has_finished(self._console())
        return finished or (finished is None and seconds >= REFUSAL_LIMIT)

    def _console(self) -> str:
        try:
            return self.console()
        except DibctlError:
            return ""

    def _for_host_keys(self) -> None:
        """Wait until the guest has told its host keys, where they are to be learned from it."""
        while not self.access.learn_host_keys():
            self.check()
            if self._left <= 0:
                raise PortTimeoutError(
                    f"the ssh server at {self._where} answers, but the guest printed no ssh host keys on "
                    f"its console within {self.timeout:g} s, so it may be another machine",
                    hint="cloud-init prints them when the console is the kernel's (console=ttyS0); for an "
                    "image that does not, set ssh_host_key: first-seen in the environment's nova section",
                )
            self._tell("the ssh server answers; waiting for its host keys on the console")
            time.sleep(min(2.0, max(0.1, self._left)))

    def _tell(self, text: str) -> None:
        last, when = self._told
        if text == last and self.elapsed - when < TELL_EVERY:
            return
        self._told = (text, self.elapsed)
        self.progress(f"{self.elapsed:.0f} s: {text}")

    def _no_banner(self, seen: ProbeResult) -> PortTimeoutError:
        return PortTimeoutError(
            f"ssh at {self._where} did not answer within {self.timeout:g} s: {seen.text}",
            hint=seen.hint,
            symptom=seen.symptom,
        )

    def _no_login(self, outcome: Login, output: str) -> PortTimeoutError:
        server = f"the ssh server at {self._where} answers"
        user = self.access.username
        if outcome is Login.FOREIGN_KEY:
            return PortTimeoutError(
                f"{server} with a host key that is not the guest's: the image did not take the host key it "
                f"was given, or another machine answers\n  {output}",
                hint="cloud-init (or the program that reads the seed instead) must apply ssh_keys before the "
                "ssh server starts; for an image that makes its own key, set ssh_host_key: first-seen in the "
                "environment's qemu or nova section",
                symptom="foreign-key",
            )
        if outcome is Login.REFUSED:
            return PortTimeoutError(
                f"{server}, but no login as {user} succeeded within {self.timeout:g} s\n  {output}",
                hint=self._whose_key(output),
                symptom="login-refused",
            )
        return PortTimeoutError(
            f"{server}, but no login as {user} ended within {self.timeout:g} s\n  {output}",
            hint="the guest may be too slow or out of memory: look at its console",
            symptom="login-broken",
        )

    def _refused(self, output: str) -> PortTimeoutError:
        user, finished = self.access.username, console.cloud_init_has_finished(self._console())
        reason = "; cloud-init has finished" if finished else ""
        return PortTimeoutError(
            f"the ssh server at {self._where} refuses the login as {user}{reason}\n  {output}",
            hint=self._whose_key(output),
            symptom="login-refused",
        )

    def _whose_key(self, output: str) -> str:
        """Return a hint for a refused login."""
        user = self.access.username
        users = console.other_users(output, self._console())
        if users and user not in users:
            return f"the guest has the key for {' and '.join(users)}: set tests.ssh.username in images.yaml"
        return (
            f"check that the image has a user {user} (tests.ssh.username) and that cloud-init gave it the key"
        )
