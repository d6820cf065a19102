"""Keys, host key pinning, the ssh configuration, and how readiness is told from an open port."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import rsa

from pytest_dibctl.errors import CommandError, CredentialsError, InstanceError, PortTimeoutError
from pytest_dibctl.guest import login, port_probe, ssh
from pytest_dibctl.guest.keys import SshKey, make_key
from pytest_dibctl.guest.login import HostKeyPolicy, Login, judge
from pytest_dibctl.guest.port_probe import PortProbe, port_answers
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.system import process

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh client")


class TestKeys:
    def test_generated_key_is_private_and_ed25519(self, tmp_path: Path) -> None:
        key = SshKey.generate(tmp_path, comment="a run")
        assert stat.S_IMODE(key.private_key_file.stat().st_mode) == 0o600
        assert key.public_key.startswith("ssh-ed25519 ")
        assert "\n" not in key.public_key
        assert key.name == "a run"

    @needs_ssh
    def test_openssh_agrees_about_the_key(self, tmp_path: Path) -> None:
        key = SshKey.generate(tmp_path, comment="x")
        public = process.run(["ssh-keygen", "-y", "-f", str(key.private_key_file)]).output
        assert public.split()[:2] == key.public_key.split()[:2]
        (tmp_path / "pub").write_text(key.public_key)
        assert key.fingerprint in process.run(["ssh-keygen", "-l", "-f", str(tmp_path / "pub")]).output
        md5 = process.run(["ssh-keygen", "-l", "-E", "md5", "-f", str(tmp_path / "pub")]).output
        assert f"MD5:{key.nova_fingerprint} " in md5

    def test_key_is_never_overwritten(self, tmp_path: Path) -> None:
        SshKey.generate(tmp_path, comment="x")
        with pytest.raises(FileExistsError):
            SshKey.generate(tmp_path, comment="x")

    def test_from_file_reads_what_generate_wrote(self, tmp_path: Path) -> None:
        made = SshKey.generate(tmp_path, comment="x")
        read = SshKey.from_file(made.private_key_file)
        assert (read.fingerprint, read.private_key_file) == (made.fingerprint, made.private_key_file)
        assert read.name == "id_ed25519"

    def test_from_file_reads_a_pem_rsa_key(self, tmp_path: Path) -> None:
        file = write_rsa(tmp_path, form.NoEncryption())
        assert SshKey.from_file(file).public_key.startswith("ssh-rsa ")

    def test_passphrase_is_refused(self, tmp_path: Path) -> None:
        file = write_rsa(tmp_path, form.BestAvailableEncryption(b"secret"))
        with pytest.raises(CredentialsError, match="protected by a passphrase"):
            SshKey.from_file(file)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match="No such file"):
            SshKey.from_file(tmp_path / "none")

    def test_key_that_others_can_read(self, tmp_path: Path) -> None:
        key = SshKey.generate(tmp_path, comment="x")
        key.private_key_file.chmod(0o644)
        with pytest.raises(CredentialsError, match="mode 0644") as caught:
            SshKey.from_file(key.private_key_file)
        assert caught.value.hint == f"chmod 600 {key.private_key_file}"

    def test_public_half_is_no_private_key(self, tmp_path: Path) -> None:
        file = tmp_path / "id.pub"
        file.write_text(SshKey.generate(tmp_path, comment="x").public_key)
        file.chmod(0o600)
        with pytest.raises(CredentialsError, match="not a private key"):
            SshKey.from_file(file)


def write_rsa(directory: Path, protection: form.KeySerializationEncryption) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = directory / "id_rsa"
    file.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, protection))
    file.chmod(0o600)
    return file


@pytest.fixture
def access(tmp_path: Path) -> Iterator[SshAccess]:
    made = make_access(tmp_path, port=2222)
    yield made
    made.close()


def make_access(
    directory: Path, *, port: int, policy: HostKeyPolicy | None = None, name: str = "guest"
) -> SshAccess:
    keys = directory / f"keys-{name}"
    keys.mkdir()
    return SshAccess(
        ip="127.0.0.1",
        port=port,
        username="somebody",
        key=SshKey.generate(keys, comment="x"),
        directory=directory,
        name=name,
        host_keys=policy or HostKeyPolicy(known=(make_key("host")[1],)),
    )


@needs_ssh
class TestConfig:
    def options(self, access: SshAccess, host: str) -> dict[str, str]:
        listing = process.run(["ssh", "-G", "-F", str(access.config_file), host]).output
        return {name: value for name, _, value in (line.partition(" ") for line in listing.splitlines())}

    @pytest.mark.parametrize("host", ["guest", "127.0.0.1", "root@anything"])
    def test_ssh_understands_it_for_any_host(self, access: SshAccess, host: str) -> None:
        found = self.options(access, host)
        assert found["hostname"] == "127.0.0.1"
        assert found["port"] == "2222"
        assert found["user"] == ("root" if "@" in host else "somebody")

    def test_nothing_of_the_users_is_used(self, access: SshAccess) -> None:
        found = self.options(access, "guest")
        assert found["identityagent"] == "none"
        assert found["identitiesonly"] == "yes"
        assert found["identityfile"] == str(access.key.private_key_file)
        assert found["userknownhostsfile"] == str(access.known_hosts)
        assert found["globalknownhostsfile"] == "/dev/null"
        assert found["batchmode"] == "yes"

    def test_known_key_is_the_only_one(self, access: SshAccess) -> None:
        assert self.options(access, "guest")["stricthostkeychecking"] == "true"
        (known,) = access.host_keys.known
        assert access.known_hosts.read_text() == f"[127.0.0.1]:2222 {' '.join(known.split()[:2])}\n"

    def test_first_seen_key_is_accepted_once(self, tmp_path: Path) -> None:
        made = make_access(tmp_path, port=22, policy=HostKeyPolicy(first_seen=True))
        with contextlib.closing(made):
            assert self.options(made, "guest")["stricthostkeychecking"] == "accept-new"
            assert made.known_hosts.read_text() == ""

    def test_port_22_is_known_without_brackets(self, tmp_path: Path) -> None:
        with contextlib.closing(make_access(tmp_path, port=22)) as made:
            assert made.known_hosts.read_text().startswith("127.0.0.1 ssh-ed25519 ")

    def test_odd_characters_in_paths(self, tmp_path: Path) -> None:
        odd = tmp_path / 'a b%d "c" \\e'
        odd.mkdir()
        with contextlib.closing(make_access(odd, port=22)) as made:
            assert self.options(made, "guest")["userknownhostsfile"] == str(made.known_hosts)

    def test_kept_config_has_no_multiplexing(self, tmp_path: Path) -> None:
        made = make_access(tmp_path, port=22)
        assert self.options(made, "guest")["controlmaster"] == "auto"
        made.close(keep_files=True)
        assert self.options(made, "guest")["controlmaster"] == "false"
        assert made.known_hosts.exists()

    def test_close_removes_all_files(self, tmp_path: Path) -> None:
        made = make_access(tmp_path, port=22)
        made.close()
        assert [path.name for path in tmp_path.iterdir()] == ["keys-guest"]

    def test_control_socket_of_a_deep_directory_is_elsewhere(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        made = make_access(deep, port=22)
        short = made.control_path.parent
        assert len(os.fsencode(made.control_path)) <= ssh.SOCKET_PATH_LIMIT
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        made.close()
        assert not short.exists()


class Server:
    """A service on loopback that does one thing with each connection."""

    def __init__(self, behaviour: Callable[[socket.socket], None], port: int = 0) -> None:
        self.connections: list[socket.socket] = []
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                with contextlib.suppress(OSError):
                    self._behaviour(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Server]]:
    with contextlib.ExitStack() as stack:

        def start(behaviour: Callable[[socket.socket], None]) -> Server:
            return stack.enter_context(contextlib.closing(Server(behaviour)))

        yield start


def say(text: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text)


def hang_up(connection: socket.socket) -> None:
    connection.close()


def stay_silent(_: socket.socket) -> None:
    pass


def watch_until(watch: PortProbe, seen: port_probe.ProbeResult) -> None:
    """Watch a port that never shows a banner until it shows this."""
    deadline = time.monotonic() + 30
    while watch.seen is not seen:
        assert time.monotonic() < deadline, watch.seen
        assert not watch.poll(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestBanner:
    def test_is_seen_at_once(self, serve: Callable[..., Server]) -> None:
        with PortProbe("127.0.0.1", serve(say(b"SSH-2.0-x\r\n")).port) as watch:
            assert watch.poll(30)

    def test_may_follow_other_lines(self, serve: Callable[..., Server]) -> None:
        with PortProbe("127.0.0.1", serve(say(b"welcome\r\nSSH-2.0-x\r\n")).port) as watch:
            assert watch.poll(30)

    def test_may_come_in_pieces(self, serve: Callable[..., Server]) -> None:
        def stutter(connection: socket.socket) -> None:
            for piece in (b"SS", b"H-2.0", b"-x\r\n"):
                connection.sendall(piece)
                time.sleep(0.05)

        with PortProbe("127.0.0.1", serve(stutter).port) as watch:
            assert watch.poll(30)

    def test_nothing_listens(self) -> None:
        with PortProbe("127.0.0.1", free_port()) as watch:
            watch_until(watch, port_probe.REFUSED)

    def test_closed_at_once_means_nothing_listens_in_the_guest(self, serve: Callable[..., Server]) -> None:
        with PortProbe("127.0.0.1", serve(hang_up).port) as watch:
            watch_until(watch, port_probe.CLOSED)

    def test_silence(self, serve: Callable[..., Server]) -> None:
        with PortProbe("127.0.0.1", serve(stay_silent).port) as watch:
            watch_until(watch, port_probe.SILENT)

    def test_another_service(self, serve: Callable[..., Server]) -> None:
        def greet(connection: socket.socket) -> None:
            connection.sendall(b"220 mail\r\n")
            connection.close()

        with PortProbe("127.0.0.1", serve(greet).port) as watch:
            watch_until(watch, port_probe.OTHER)

    def test_service_that_comes_up_while_it_is_watched(self) -> None:
        port = free_port()
        with PortProbe("127.0.0.1", port) as watch:
            watch_until(watch, port_probe.REFUSED)
            with contextlib.closing(Server(say(b"SSH-2.0-x\r\n"), port)):
                assert watch.poll(30)

    def test_silent_connections_are_not_piled_up(self, serve: Callable[..., Server]) -> None:
        server = serve(stay_silent)
        with PortProbe("127.0.0.1", server.port) as watch:
            watch.poll(2.5)
        assert len(server.connections) <= 3

    def test_slow_server_is_left_in_peace_once_the_guest_is_known_to_be_there(
        self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([hang_up, stay_silent, stay_silent, stay_silent])

        def answer(connection: socket.socket) -> None:
            next(answers)(connection)

        server = serve(answer)
        with PortProbe("127.0.0.1", server.port) as watch:
            with monkeypatch.context() as patch:
                patch.setattr(port_probe, "PATIENCE", 30.0)  # until it has hung up
                watch_until(watch, port_probe.CLOSED)
            watch.poll(3)
        assert len(server.connections) == 2


class TestPortAnswers:
    def test_talkative_service(self, serve: Callable[..., Server]) -> None:
        assert port_answers("127.0.0.1", serve(say(b"hello")).port)

    def test_service_that_waits_to_be_asked(self, serve: Callable[..., Server]) -> None:
        assert port_answers("127.0.0.1", serve(stay_silent).port)

    def test_forward_to_nothing(self, serve: Callable[..., Server]) -> None:
        assert not port_answers("127.0.0.1", serve(hang_up).port, patience=30)

    def test_closed_port(self) -> None:
        assert not port_answers("127.0.0.1", free_port())


AT_WORK = "[   12.3] cloud-init[441]: Cloud-init v. 22.4.2 running 'modules:config' at Sat, 28 Nov 2026\n"
FINISHED = f"""{AT_WORK}ci-info: ++Authorized keys from /home/debian/.ssh/authorized_keys for user debian++
[   14.9] cloud-init[498]: Cloud-init v. 22.4.2 finished at Sat, 28 Nov 2026 07:00:00 +0000.
"""


def content() -> None:
    pass


@needs_ssh
class TestWaiting:
    def test_no_listener_is_said(self, tmp_path: Path) -> None:
        with (
            contextlib.closing(make_access(tmp_path, port=free_port())) as access,
            pytest.raises(PortTimeoutError, match="connections are refused") as caught,
        ):
            access.wait_ready(timeout=2, check=content, progress=print)
        assert caught.value.hint is not None
        assert "ssh server is installed" in caught.value.hint
        assert caught.value.exit_code == 71

    def test_banner_without_login_is_said(self, tmp_path: Path, serve: Callable[..., Server]) -> None:
        def drop(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.close()

        told: list[str] = []
        with (
            contextlib.closing(make_access(tmp_path, port=serve(drop).port)) as access,
            pytest.raises(PortTimeoutError, match="no login as somebody ended within 3 s"),
        ):
            access.wait_ready(timeout=3, check=content, progress=told.append)
        assert any("the ssh server answers" in line for line in told)

    @pytest.mark.parametrize(
        ("before", "found"),
        [
            ((Login.REFUSED, "Permission denied (publickey)."), "no login as somebody succeeded"),
            ((Login.FOREIGN_KEY, "HAS CHANGED"), "a host key that is not the guest's"),
        ],
    )
    def test_a_last_try_without_time_hides_nothing_that_is_known(
        self,
        tmp_path: Path,
        serve: Callable[..., Server],
        monkeypatch: pytest.MonkeyPatch,
        before: tuple[Login, str],
        found: str,
    ) -> None:
        def try_login(_access: SshAccess, *, timeout: float, stopped: object) -> tuple[Login, str]:
            if timeout > 1:
                return before
            return Login.BROKEN, "ssh did not end within 1 s"

        monkeypatch.setattr(SshAccess, "try_login", try_login)
        with (
            contextlib.closing(make_access(tmp_path, port=serve(say(b"SSH-2.0-x\r\n")).port)) as access,
            pytest.raises(PortTimeoutError, match=found),
        ):
            access.wait_ready(timeout=5, check=content, progress=print)

    @pytest.mark.parametrize(
        "case",
        [
            ('Please login as the user "debian" rather than the user "somebody".', "", "the key for debian"),
            ("Permission denied (publickey).", FINISHED, "the key for debian"),
            ("Permission denied (publickey).", FINISHED.replace("debian", "somebody"), "has a user somebody"),
            ("Permission denied (publickey).", "login:", "has a user somebody"),
        ],
        ids=["told by the guest", "another user", "this user", "no cloud-init"],
    )
    def test_a_login_that_stays_refused_ends_the_wait(
        self,
        tmp_path: Path,
        serve: Callable[..., Server],
        monkeypatch: pytest.MonkeyPatch,
        case: tuple[str, str, str],
    ) -> None:
        output, text, hint = case
        monkeypatch.setattr(login, "REFUSAL_GRACE", 1.0)
        monkeypatch.setattr(login, "REFUSAL_LIMIT", 3.0)
        monkeypatch.setattr(SshAccess, "try_login", lambda *_args, **_more: (Login.REFUSED, output))
        started = time.monotonic()
        with (
            contextlib.closing(make_access(tmp_path, port=serve(say(b"SSH-2.0-x\r\n")).port)) as access,
            pytest.raises(PortTimeoutError, match="refuses the login as somebody") as caught,
        ):
            access.wait_ready(timeout=120, check=content, progress=print, console=lambda: text)
        assert time.monotonic() - started < 60
        assert hint in str(caught.value.hint)

    def test_a_machine_without_ssh_is_told_at_once(
        self, tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process, "tool_path", lambda: str(tmp_path))
        with (
            contextlib.closing(make_access(tmp_path, port=serve(say(b"SSH-2.0-x\r\n")).port)) as access,
            pytest.raises(CommandError, match="ssh: not found"),
        ):
            access.wait_ready(timeout=120, check=content, progress=print)

    @pytest.mark.parametrize("text", [AT_WORK, FINISHED + AT_WORK], ids=["first boot", "next boot"])
    def test_a_login_that_may_still_succeed_is_waited_for(
        self,
        tmp_path: Path,
        serve: Callable[..., Server],
        monkeypatch: pytest.MonkeyPatch,
        text: str,
    ) -> None:
        monkeypatch.setattr(login, "REFUSAL_GRACE", 0.0)
        monkeypatch.setattr(login, "REFUSAL_LIMIT", 0.0)
        outcomes = iter([Login.REFUSED] * 3)
        monkeypatch.setattr(SshAccess, "try_login", lambda *_args, **_more: (next(outcomes, Login.DONE), ""))
        with contextlib.closing(make_access(tmp_path, port=serve(say(b"SSH-2.0-x\r\n")).port)) as access:
            access.wait_ready(timeout=120, check=content, progress=print, console=lambda: text)

    def test_a_guest_that_dies_during_an_attempt_ends_it(
        self, tmp_path: Path, serve: Callable[..., Server]
    ) -> None:
        def greet(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.recv(1)
            over.wait(60)  # a panicked guest keeps the connection open and says nothing more

        over = threading.Event()
        began: list[float] = []

        def check() -> None:
            began.append(time.monotonic())
            if began[-1] - began[0] > 1:
                raise InstanceError("the guest panicked")

        started = time.monotonic()
        with (
            contextlib.closing(make_access(tmp_path, port=serve(greet).port)) as access,
            pytest.raises(InstanceError, match="panicked"),
        ):
            access.wait_ready(timeout=60, check=check, progress=print)
        over.set()
        assert time.monotonic() - started < 20

    def test_dead_instance_ends_the_wait(self, tmp_path: Path) -> None:
        def dead() -> None:
            raise InstanceError("the guest panicked")

        started = time.monotonic()
        with (
            contextlib.closing(make_access(tmp_path, port=free_port())) as access,
            pytest.raises(InstanceError, match="panicked"),
        ):
            access.wait_ready(timeout=60, check=dead, progress=print)
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("code", "said", "outcome"),
    [
        (255, "root@127.0.0.1: Permission denied (publickey).", Login.REFUSED),
        (255, "Received disconnect: Too many authentication failures", Login.REFUSED),
        (142, 'Please login as the user "debian" rather than the user "root".', Login.REFUSED),
        (255, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", Login.FOREIGN_KEY),
        (255, "No ED25519 host key is known for x. Host key verification failed.", Login.FOREIGN_KEY),
        (255, "Unable to negotiate: no matching host key type found.", Login.FOREIGN_KEY),
        (255, "kex_exchange_identification: Connection closed by remote host", Login.BROKEN),
        (255, "System is booting up. See pam_nologin(8)", Login.BROKEN),
    ],
)
def test_what_ssh_says_is_understood(code: int, said: str, outcome: Login) -> None:
    assert judge(code, said) is outcome
