"""Keys, and a way into a guest that trusts no host key it was not told of."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import enum
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_dibctl.errors import CommandError, CredentialsError, PortTimeoutError
from pytest_dibctl.guest.port_probe import PortProbe, ProbeResult, port_answers
from pytest_dibctl.system import process, short_paths

if TYPE_CHECKING:
    import paramiko
    from cryptography.hazmat.primitives.serialization import SSHPrivateKeyTypes

__all__ = ["HostKeyPolicy", "SshAccess", "SshKey", "make_key", "port_answers"]

log = logging.getLogger(__name__)

SOCKET_PATH_LIMIT = 107 - len(".0123456789abcdef")
"""Characters a ControlPath may have: ssh binds a unix socket (107) with a random suffix of 17."""

MULTIPLEX_IDLE = 120
"""Seconds the shared connection outlives its last user if nobody closes it."""

LOGIN_PATIENCE = 60.0
"""Seconds one attempt to log in may take; a guest without KVM needs several for the key exchange."""

FOREIGN_KEY_GRACE = 30.0
"""Seconds a wrong host key is suffered: some images start sshd before cloud-init has given it its key."""

TELL_EVERY = 30.0
"""Seconds between two lines of progress that say the same."""


def make_key(comment: str) -> tuple[str, str]:
    """Return a new ed25519 key as OpenSSH private file text and public line."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}".rstrip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SshKey:
    """A key pair: ``public_key`` is a line of authorized_keys, ``fingerprint`` as ssh-keygen prints it."""

    private_key_file: Path
    public_key: str
    fingerprint: str

    @classmethod
    def generate(cls, directory: Path, *, comment: str) -> Self:
        """Make a new ed25519 key in ``directory``; the file of its private half has mode 0600."""
        private, public = make_key(comment)
        file = directory / "id_ed25519"
        with os.fdopen(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w"
        ) as sink:
            sink.write(private)
        return cls(private_key_file=file, public_key=public, fingerprint=_fingerprint(public))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Use an existing private key; raises CredentialsError when ssh could not use it unattended."""
        from cryptography.hazmat.primitives import serialization as form

        path = path.expanduser().absolute()
        key = _load_private(path)
        public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
        return cls(private_key_file=path, public_key=public, fingerprint=_fingerprint(public))

    @property
    def name(self) -> str:
        """The key's comment; the name of its file when it has none."""
        words = self.public_key.split(maxsplit=2)
        return words[2] if len(words) > 2 else self.private_key_file.name  # noqa: PLR2004 -- type, key, comment

    @property
    def nova_fingerprint(self) -> str:
        """The fingerprint as Nova shows it: MD5, colons."""
        digest = hashlib.md5(_blob(self.public_key), usedforsecurity=False).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _load_private(path: Path) -> SSHPrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form

    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path}: cannot read the private key: {error.strerror}") from None
    if mode & 0o077:
        raise CredentialsError(
            f"{path}: others may read this private key (mode {mode & 0o777:04o}), and ssh refuses it then",
            hint=f"chmod 600 {path}",
        )
    load = form.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else form.load_pem_private_key
    try:
        return load(data, password=None)  # type: ignore[return-value]  # other PEM keys fail as ssh keys below
    except TypeError:
        raise CredentialsError(
            f"{path}: the private key is protected by a passphrase, and nobody is there to type it",
            hint="use a key without a passphrase",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(
            f"{path}: not a private key that can be read",
            hint="it must be the private half (not the .pub file), in OpenSSH's or PEM format",
        ) from None


def _blob(public_key: str) -> bytes:
    try:
        return base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        raise CredentialsError(f"not a public key: {public_key!r:.80}") from None


def _fingerprint(public_key: str) -> str:
    digest = base64.b64encode(hashlib.sha256(_blob(public_key)).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


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


class _Login(enum.Enum):
    """How an attempt to log in ended."""

    DONE = "logged in"
    FOREIGN_KEY = "the host key is not the guest's"
    REFUSED = "the login was refused"
    BROKEN = "the connection broke"


@dataclasses.dataclass(kw_only=True, eq=False)
class SshAccess:
    """A pinned, multiplexed way into one instance.

    ``directory`` is a private directory of the run; ``known_hosts`` and ``config_file`` are written to
    ``ssh-<name>`` in it. ``ssh -F config_file ANYTHING`` reaches the guest, whatever the host is called.
    Neither the user's ssh configuration nor an agent is consulted.
    """

    ip: str
    port: int
    username: str
    key: SshKey
    directory: Path
    name: str = "instance"
    host_keys: HostKeyPolicy = dataclasses.field(default_factory=lambda: HostKeyPolicy(first_seen=True))

    def __post_init__(self) -> None:
        self.directory = self.directory.absolute()
        self._files = self.directory / f"ssh-{self.name}"
        self._files.mkdir(mode=0o700, exist_ok=True)
        self._short_directory: Path | None = None
        self.control_path = self._control_path()
        self._trust(self.host_keys.known)
        self._write_config(multiplexed=True)

    @property
    def config_file(self) -> Path:
        """The ssh_config of this access."""
        return self._files / "config"

    @property
    def known_hosts(self) -> Path:
        """The host keys that are accepted, and where a first seen one is written to."""
        return self._files / "known_hosts"

    def command_line(self) -> list[str]:
        """Return a whole ssh command; a remote command may be appended."""
        return ["ssh", "-F", str(self.config_file), self.name]

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        check: bool = False,
        stdin: str | None = None,
    ) -> process.Result:
        """Run a command of the guest's shell and return how it ended; 255 is ssh's own failure.

        Raises CommandError when it does not end within ``timeout`` seconds, and, with ``check``, when it
        exits with anything but 0.
        """
        return process.run([*self.command_line(), "--", command], timeout=timeout, check=check, stdin=stdin)

    def client(self) -> paramiko.SSHClient:
        """Return a connected paramiko client that accepts the same host keys; the caller closes it.

        Raises CommandError when it cannot connect or log in.
        """
        import paramiko  # slow to import, and few tests ask for it

        client = paramiko.SSHClient()
        client.load_host_keys(str(self.known_hosts))
        client.set_missing_host_key_policy(
            paramiko.AutoAddPolicy() if self.host_keys.first_seen else paramiko.RejectPolicy(),
        )
        try:
            client.connect(
                self.ip,
                self.port,
                self.username,
                key_filename=str(self.key.private_key_file),
                allow_agent=False,
                look_for_keys=False,
                timeout=LOGIN_PATIENCE,
                banner_timeout=LOGIN_PATIENCE,
                auth_timeout=LOGIN_PATIENCE,
            )
        except (paramiko.SSHException, OSError) as error:
            client.close()
            raise CommandError(f"ssh to {self.username}@{self.ip}:{self.port} failed: {error}") from None
        return client

    def wait_ready(
        self,
        *,
        timeout: float,
        check: Callable[[], None],
        progress: Callable[[str], None],
    ) -> float:
        """Wait until a login succeeds; return the seconds it took.

        ``check`` is called between attempts and raises when waiting has no more sense. After ``timeout``
        seconds a PortTimeoutError says how far it got: no listener, no banner, another host key, or a
        refused login.
        """
        self.disconnect()  # a shared connection to the guest's previous boot would only hang
        wait = _Wait(access=self, timeout=timeout, check=check, progress=progress)
        wait.for_banner()
        wait.for_login()
        return wait.elapsed

    def learn_host_keys(self) -> bool:
        """Trust what the guest has told of its host keys by now; return whether a login may be tried."""
        policy = self.host_keys
        if policy.learn is None:
            return True
        keys = policy.learn()
        if keys is None:
            self.host_keys = HostKeyPolicy(first_seen=True)
            self._write_config(multiplexed=True)
            return True
        if keys and keys != policy.known:
            self._trust(keys)
            self.host_keys = dataclasses.replace(policy, known=keys)
        return bool(self.host_keys.known)

    def trust(self, host_keys: HostKeyPolicy) -> None:
        """Accept these host keys from now on, and forget one that was seen: the guest may make new ones.

        To be called when its root disk was replaced, before the next login.
        """
        self.host_keys = host_keys
        self._trust(host_keys.known)
        self._write_config(multiplexed=True)

    def disconnect(self) -> None:
        """Close the shared connection if there is one; the next use opens another."""
        if not self.control_path.exists():
            return
        # The master may be stuck on a dead connection; it still obeys, or its socket goes from under it.
        with contextlib.suppress(CommandError):
            process.run(["ssh", "-F", str(self.config_file), "-O", "exit", self.name], timeout=5, check=False)
        self.control_path.unlink(missing_ok=True)

    def close(self, *, keep_files: bool = False) -> None:
        """Close the shared connection and remove the files.

        With ``keep_files`` the configuration stays, without multiplexing, for a person who logs in later.
        """
        self.disconnect()
        if self._short_directory is not None:
            short_paths.remove(self._short_directory, self.directory)
            self._short_directory = None
        if keep_files:
            self._write_config(multiplexed=False)
        else:
            shutil.rmtree(self._files, ignore_errors=True)

    def _control_path(self) -> Path:
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        wanted = self.directory / f"s{digest}"
        if len(os.fsencode(wanted)) <= SOCKET_PATH_LIMIT:
            return wanted
        self._short_directory = short_paths.make(self.directory, digest)
        return self._short_directory / "s"

    def _trust(self, keys: tuple[str, ...]) -> None:
        host = self.ip if self.port == 22 else f"[{self.ip}]:{self.port}"  # noqa: PLR2004 -- ssh's own port
        self.known_hosts.write_text("".join(f"{host} {' '.join(line.split()[:2])}\n" for line in keys))

    def _write_config(self, *, multiplexed: bool) -> None:
        self.config_file.write_text(_config(self, multiplexed=multiplexed))
        self.config_file.chmod(0o600)

    def try_login(self, *, timeout: float) -> tuple[_Login, str]:
        """Try once to run a command; return how that ended and what ssh said."""
        try:
            result = self.run("true", timeout=timeout)
        except CommandError as error:
            return _Login.BROKEN, error.message
        lines = f"{result.errors}\n{result.output}".splitlines()
        said = " ".join(" ".join(line for line in lines if not _NOISE.match(line)).split())
        if result.returncode == 0:
            return _Login.DONE, ""
        return _judge_login(result.returncode, said), said or process.describe_exit(result.returncode)


_NOISE = re.compile(
    r"@|IT IS POSSIBLE|Someone could|It is also|Please contact|Add correct| +remove with| +ssh-keygen"
)
"""ssh's large warning about a changed host key; what counts comes before and after it."""


def _judge_login(returncode: int, said: str) -> _Login:
    if re.search(
        r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|no matching host key type", said
    ):
        return _Login.FOREIGN_KEY
    # Any other code than ssh's own comes from the guest: a forced command that only says whom to log in as.
    if returncode != 255 or "Permission denied" in said or "Too many authentication failures" in said:  # noqa: PLR2004
        return _Login.REFUSED
    return _Login.BROKEN


def _config(access: SshAccess, *, multiplexed: bool) -> str:
    options = {
        "HostName": access.ip,
        "Port": str(access.port),
        "User": access.username,
        "IdentityFile": _quoted(access.key.private_key_file),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": _quoted(access.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new" if access.host_keys.first_seen else "yes",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": f"{LOGIN_PATIENCE:g}",
        # A guest that is switched off says no goodbye; one that only stalls gets a minute.
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "6",
        "LogLevel": "ERROR",
    }
    if multiplexed:
        options |= {
            "ControlMaster": "auto",
            "ControlPath": _quoted(access.control_path),
            "ControlPersist": str(MULTIPLEX_IDLE),
        }
    return "Host *\n" + "".join(f"    {name} {value}\n" for name, value in options.items())


def _quoted(path: Path) -> str:
    # ssh expands %-tokens in these options, and splits them like a shell.
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


@dataclasses.dataclass(kw_only=True, eq=False)
class _Wait:
    """One wait for readiness: the clock, and what was told so far."""

    access: SshAccess
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
        known: tuple[_Login, str] | None = None
        self._for_host_keys()
        while True:
            allowed = min(LOGIN_PATIENCE, self._left)
            outcome, said = self.access.try_login(timeout=max(1.0, allowed))
            if outcome is _Login.DONE:
                return
            self.check()
            if outcome is _Login.BROKEN and allowed < LOGIN_PATIENCE and known is not None:
                outcome, said = known  # a try that was given no time tells nothing of the guest
            known = outcome, said
            if outcome is _Login.FOREIGN_KEY and self.access.host_keys.learn is not None:
                self.access.learn_host_keys()  # a guest that was made anew tells other keys, in its own time
            elif outcome is _Login.FOREIGN_KEY:
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

    def _no_login(self, outcome: _Login, said: str) -> PortTimeoutError:
        server = f"the ssh server at {self._where} answers"
        user = self.access.username
        if outcome is _Login.FOREIGN_KEY:
            return PortTimeoutError(
                f"{server} with a host key that is not the guest's: the image did not take the host key it "
                f"was given, or another machine answers\n  {said}",
                hint="cloud-init (or whatever reads the seed) must apply ssh_keys before the ssh server "
                "starts; for an image that makes its own key, set ssh_host_key: first-seen in the "
                "environment's qemu or nova section",
            )
        if outcome is _Login.REFUSED:
            return PortTimeoutError(
                f"{server}, but no login as {user} succeeded within {self.timeout:g} s\n  {said}",
                hint=f"check that the image has a user {user} (tests.ssh.username) and that cloud-init gave "
                "it the key",
            )
        return PortTimeoutError(
            f"{server}, but no login as {user} came to an end within {self.timeout:g} s\n  {said}",
            hint="the guest may be too slow or out of memory: look at its console",
        )
