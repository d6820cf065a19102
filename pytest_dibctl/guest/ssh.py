"""SSH access to a guest: OpenSSH's configuration, a shared connection, and the host keys to accept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ipaddress
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.errors import CommandError, CommandTimeoutError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.login import LOGIN_PATIENCE, HostKeyPolicy, Login, Wait, judge_attempt
from pytest_dibctl.system import process, short_paths
from pytest_dibctl.system.text import file_name

if TYPE_CHECKING:
    import paramiko

SOCKET_PATH_LIMIT = 107 - len(".0123456789abcdef")
"""Characters a ControlPath may have: ssh binds a unix socket (107) with a random suffix of 17."""

MULTIPLEX_IDLE = 120
"""Seconds the shared connection stays open after its last use, unless it is closed before."""


@dataclasses.dataclass(kw_only=True, eq=False)
class SshAccess:
    """SSH access to one instance: its host keys are pinned, all commands share one connection.

    ``directory`` is a private directory that belongs to the run; ``known_hosts`` and ``config_file`` are
    written to ``ssh-<name>`` in it. A ``name`` that is no file name, or would be an option, is changed.
    ``ssh -F config_file HOST`` reaches the guest under every host name. ssh reads neither the user's
    configuration nor an agent. The owner of the access calls ``close``.

    Raises CommandError when ``ip`` is no IP address.
    """

    ip: str
    port: int
    username: str
    key: SshKey
    directory: Path
    name: str = "instance"
    host_keys: HostKeyPolicy = dataclasses.field(default_factory=lambda: HostKeyPolicy(first_seen=True))

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<ssh to {self.username}@{self.ip}:{self.port}>"

    def __post_init__(self) -> None:
        self.directory = self.directory.absolute()
        # Both may come from a cloud, and end in a path, an argument and a configuration file.
        self.name = file_name(self.name)
        self.ip = _address(self.ip)
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
        """The file of accepted host keys; ssh adds a first seen key to it."""
        return self._files / "known_hosts"

    def command_line(self) -> list[str]:
        """Return an ssh command that opens a shell; a remote command may be appended."""
        return ["ssh", "-F", str(self.config_file), self.name]

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        check: bool = False,
        stdin: str | None = None,
        stopped: threading.Event | None = None,
    ) -> process.Result:
        """Run a command in the guest's shell and return its output and exit code; 255 is ssh's own failure.

        ``stopped`` ends it early. Raises CommandTimeoutError when the command does not end within ``timeout``
        seconds, and CommandError, with ``check``, when its exit code is not 0.
        """
        return process.run(
            [*self.command_line(), "--", command], timeout=timeout, check=check, stdin=stdin, stopped=stopped
        )

    def client(self) -> paramiko.SSHClient:
        """Return a connected paramiko client that accepts the same host keys; the caller closes it.

        Raises CommandError when it cannot connect or log in.
        """
        import paramiko  # slow to import, and few tests need it

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
        console: Callable[[], str] = str,
        listening: bool = False,
    ) -> float:
        """Wait until a login succeeds; return the seconds it took.

        ``check`` is called between attempts; it raises an error, which ends the wait, when the guest will
        never be ready. ``progress`` gets lines to show. ``console`` returns the guest's console so far.
        ``listening`` says that the ssh server of the guest is known to listen.

        Raises PortTimeoutError after ``timeout`` seconds, or earlier for a login that will always be refused.
        The error names the failure: no listener, no banner, another host key, or a refused login.
        """
        self.disconnect()  # a shared connection to the guest's previous boot would hang
        wait = Wait(
            access=self,
            timeout=timeout,
            check=check,
            progress=progress,
            console=console,
            listening=listening,
        )
        wait.for_banner()
        wait.for_login()
        return wait.elapsed

    def learn_host_keys(self) -> bool:
        """Trust the host keys that the guest has told by now; return whether a login may be tried."""
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
        """Accept these host keys from now on, and forget a first seen one.

        Call it after the guest's root disk was replaced, before the next login: the guest makes new keys.
        """
        self.host_keys = host_keys
        self._trust(host_keys.known)
        self._write_config(multiplexed=True)

    def disconnect(self) -> None:
        """Close the shared connection, if one is open; the next command opens another."""
        if not self.control_path.exists():
            return
        # The master process may hang on a dead connection. If it does not obey, its socket is removed.
        with contextlib.suppress(CommandError):
            process.run(["ssh", "-F", str(self.config_file), "-O", "exit", self.name], timeout=5, check=False)
        self.control_path.unlink(missing_ok=True)

    def close(self, *, keep_files: bool = False) -> None:
        """Close the shared connection and remove the files.

        With ``keep_files`` the files stay for a user who logs in later, configured without a shared
        connection.
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
        path = self.directory / f"s{digest}"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        self._short_directory = short_paths.make(self.directory, digest)
        return self._short_directory / "s"

    def _trust(self, keys: tuple[str, ...]) -> None:
        host = self.ip if self.port == 22 else f"[{self.ip}]:{self.port}"  # noqa: PLR2004 -- ssh's own port
        self.known_hosts.write_text("".join(f"{host} {' '.join(line.split()[:2])}\n" for line in keys))

    def _write_config(self, *, multiplexed: bool) -> None:
        self.config_file.write_text(_config(self, multiplexed=multiplexed))
        self.config_file.chmod(0o600)

    def try_login(self, *, timeout: float, stopped: threading.Event | None = None) -> tuple[Login, str]:
        """Log in once, for at most ``timeout`` seconds; return how that ended and the output of ssh.

        ``stopped`` ends the attempt early. Raises CommandError when ssh itself cannot be run.
        """
        try:
            result = self.run("true", timeout=timeout, stopped=stopped)
        except CommandTimeoutError as error:
            return Login.BROKEN, error.message
        return judge_attempt(result)


def _address(text: str) -> str:
    # ipaddress takes any text for the zone of an IPv6 address.
    with contextlib.suppress(ValueError):
        if re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", text):
            return str(ipaddress.ip_address(text))
    raise CommandError(f"ssh cannot connect to {text!r}: it is no IP address")


def _config(access: SshAccess, *, multiplexed: bool) -> str:
    options = {
        "HostName": access.ip.replace("%", "%%"),
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
        # A guest that is switched off does not close the connection; a guest that stalls has a minute.
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
    # ssh expands %-tokens in these options and splits their values like a shell.
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
