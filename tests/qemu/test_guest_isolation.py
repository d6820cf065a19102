"""What a hostile guest reaches: this machine's services, its files, its disk space and its memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.qemu import confinement, launch
from pytest_dibctl.clouds.qemu.cloud import QemuInstance
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest import guest_script
from pytest_dibctl.guest.guest_script import GuestScript
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import bounded_log
from tests.qemu.test_qemu_cloud import Bench, bench, boot_id, plain
from tests.support import leaks

__all__ = ["bench", "plain"]
pytestmark = pytest.mark.real

SECRET = b"a service of this machine\n"

# Without the loopback address, the guest sends what is for 127.0.0.1 to its gateway, as a raw socket would.
CRAFT = """
ip addr del 127.0.0.1/8 dev lo; ip addr del ::1/128 dev lo
for name in all eth0; do
    echo 1 >/proc/sys/net/ipv4/conf/$name/route_localnet; echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
done
ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0
"""


class Service:
    """A service that listens on all IPv4 addresses of this machine, and one on all of its IPv6 addresses."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.listeners = [self.stack.enter_context(socket.create_server(("0.0.0.0", 0)))]
        self.port: int = self.listeners[0].getsockname()[1]
        with contextlib.suppress(OSError):
            self.listeners.append(
                self.stack.enter_context(
                    socket.create_server(("::", self.port), family=socket.AF_INET6, dualstack_ipv6=False)
                )
            )
        self.callers: list[str] = []
        for listener in self.listeners:
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = listener.accept()
                with connection:
                    self.callers.append(address[0])
                    connection.sendall(SECRET)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service()
    with made.stack:
        yield made


@pytest.fixture(scope="module")
def shut(
    plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[QemuInstance, SshAccess]]:
    made = Bench(tmp_path_factory.mktemp("shut") / "run")
    with made.stack:
        instance = made.boot(plain)
        yield instance, made.ready(instance)


def ask(access: SshAccess, address: str, port: int) -> str:
    return access.run(f"nc -w 3 {address} {port} </dev/null 2>&1", timeout=60).output


def own_addresses() -> list[str]:
    return [address for address in slirp.own_addresses() if "/" not in address]


ADDRESSES = ("10.0.2.2", "10.0.2.3", "10.0.2.1", "10.0.2.100", "10.0.2.255", "255.255.255.255", "0.0.0.0")


@pytest.mark.parametrize("address", [*ADDRESSES, "fec0::2", "fe80::2%eth0", "own"])
def test_no_service_of_this_machine_is_reached(
    shut: tuple[QemuInstance, SshAccess], service: Service, address: str
) -> None:
    _, access = shut
    addresses = own_addresses() if address == "own" else [address]
    assert addresses
    for each in addresses:
        assert SECRET.decode() not in ask(access, each, service.port)
    assert service.callers == []


def test_packets_for_loopback_that_the_guest_makes_up_reach_nothing(
    bench: Callable[..., Bench], plain: artifact.Artifact, service: Service
) -> None:
    made = bench()
    access = made.ready(made.boot(plain))
    access.run(CRAFT)
    for address in ("127.0.0.1", "127.0.0.53", "127.1.2.3"):
        assert SECRET.decode() not in ask(access, address, service.port)
    assert service.callers == []


@pytest.mark.parametrize("address", ["10.0.2.2", "own"])
def test_setting_opens_this_machine(
    bench: Callable[..., Bench], plain: artifact.Artifact, service: Service, address: str
) -> None:
    made = bench(host_loopback=True)
    access = made.ready(made.boot(plain))
    reached = own_addresses()[0] if address == "own" else address
    assert SECRET.decode() in ask(access, reached, service.port)
    service.callers.clear()


def test_names_are_resolved_where_this_machine_resolves_them(shut: tuple[QemuInstance, SshAccess]) -> None:
    try:
        socket.getaddrinfo("deb.debian.org", 80, socket.AF_INET)
    except OSError:
        pytest.skip("this machine resolves no names")
    _, access = shut
    assert "Address" in access.run("nslookup deb.debian.org | tail -n +3", timeout=60).output


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("host_loopback", [False, True])
def test_qemu_has_no_privileges(
    bench: Callable[..., Bench], plain: artifact.Artifact, *, host_loopback: bool
) -> None:
    made = bench(host_loopback=host_loopback)
    instance = made.boot(plain)
    pid = int(instance.facts["process"])
    found = status(pid)
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    users = ["user"] if confinement.makes_users() else []
    for kind in (*users, "mnt", "pid", "ipc", "uts"):
        assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
    root = Path(f"/proc/{pid}/root")
    for hidden in ("etc/shadow", "etc/passwd", "root/.ssh", "home", "var", "run", "proc"):
        assert not (root / hidden).exists()
    inside = root / str(instance.directory).lstrip("/")
    assert sorted(path.name for path in inside.iterdir()) == ["disk.qcow2", "seed.iso"]
    assert b"HOME=" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_console_has_a_limit_and_says_so(
    bench: Callable[..., Bench], plain: artifact.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 100_000
    monkeypatch.setattr(launch, "CONSOLE_LIMIT", limit)
    made = bench()
    instance = made.boot(plain)
    access = made.ready(instance)
    access.run("yes 0123456789 | head -c 300000 >/dev/console", timeout=120)
    console = Path(instance.facts["console"])
    note = bounded_log.limit_note(limit)
    assert leaks.settled(lambda: set() if note in instance.console_output() else {"no note"}) == set()
    assert console.stat().st_size <= limit + len(note) + 2
    before = boot_id(access)
    assert boot_id(access) == before, "a full console must not stop the guest"


NOISY = """#!/bin/sh
env
echo "dibctl-end-0123 0 "
printf %s "$DIBCTL_SCRIPT 0 "
echo
head -c {size} /dev/zero | tr '\\0' y
exit 3
"""


def test_script_may_print_its_environment_and_lines_without_an_end(
    shut: tuple[QemuInstance, SshAccess], tmp_path: Path
) -> None:
    _, access = shut
    script = tmp_path / "noisy.sh"
    script.write_text(NOISY.format(size=3_000_000))
    lines: list[str] = []
    ended = guest_script.run(
        access, GuestScript(path=script), variables={"A": "b"}, limit=120, on_line=lines.append
    )
    assert ended.code == 3
    assert "A=b" in lines
    assert sum(line.count("y") for line in lines[-4:]) >= 3_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_image_of_another_user_boots(
    bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path
) -> None:
    for suffix in ("qcow2", "vmlinuz", "initrd"):
        copy = tmp_path / f"micro.{suffix}"
        shutil.copy(plain.path.with_suffix(f".{suffix}"), copy)
        copy.chmod(0o600)
        os.chown(copy, 65534, 65534)
    made = bench()
    made.ready(made.boot(artifact.inspect(tmp_path / "micro.qcow2")))


def test_helpers_end_with_qemu(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench()
    others = networks()
    instance = made.boot(plain, keepable=True)
    helpers = list(networks() - others)
    assert helpers
    os.kill(int(instance.facts["process"]), signal.SIGKILL)
    assert psutil.wait_procs(helpers, timeout=10)[1] == []
    with pytest.raises(InstanceError, match="SIGKILL"):
        instance.check()


def test_a_guest_that_lost_its_network_is_told(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench()
    others = networks()
    instance = made.boot(plain)
    instance.check()
    (helper,) = networks() - others
    helper.kill()
    helper.wait(10)
    assert leaks.settled(lambda: {told(instance)} - {"slirp4netns, which its QEMU needs, has ended"}) == set()


def networks() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if child.name() == "slirp4netns"}


def told(instance: QemuInstance) -> str:
    try:
        instance.check()
    except InstanceError as error:
        return error.message.splitlines()[0].removeprefix(f"{instance.name}: ")
    return "nothing"
