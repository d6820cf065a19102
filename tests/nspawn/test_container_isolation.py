"""What a hostile container reaches: this machine's services, files, devices, memory, processes and disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.nspawn import launch
from pytest_dibctl.clouds.nspawn.cloud import NspawnInstance
from pytest_dibctl.guards.namespace import FIRST_USER, USERS
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from tests.nspawn.bench import Bench, altered, groups
from tests.qemu.test_guest_isolation import ADDRESSES, SECRET, Service
from tests.support import leaks

pytestmark = pytest.mark.real

Running = tuple[Bench, NspawnInstance, SshAccess]
MIB = 1 << 20


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service on all addresses of this machine."""
    made = Service()
    with made.stack:
        yield made


@pytest.fixture(scope="module")
def shut(plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One container for all tests that do not mind each other."""
    made = Bench(tmp_path_factory.mktemp("shut") / "run")
    with made.stack:
        instance = made.boot(plain)
        yield made, instance, made.ready(instance)


def ask(access: SshAccess, address: str, port: int) -> str:
    return access.run(f"nc -w 3 {address} {port} </dev/null 2>&1", timeout=60).output


class TestNetwork:
    @pytest.mark.parametrize("address", [*ADDRESSES, "fec0::2", "fd00::2", "fe80::2%eth0", "own", "own6"])
    def test_no_service_of_this_machine_is_reached(
        self, shut: Running, service: Service, address: str
    ) -> None:
        _, _, access = shut
        addresses = {"own": own_addresses, "own6": own_addresses6}.get(address, lambda: [address])()
        for each in addresses:
            assert SECRET.decode() not in ask(access, each, service.port)
        assert service.callers == []

    def test_packets_for_loopback_that_the_container_makes_up_reach_nothing(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, service: Service
    ) -> None:
        made = bench()
        access = made.ready(made.boot(plain))
        craft = (
            "ip addr del 127.0.0.1/8 dev lo; ip addr del ::1/128 dev lo; ip link set lo down;"
            "for name in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$name/route_localnet;"
            "echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter; done;"
            "ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0; ip route show"
        )
        assert "127.0.0.0/8 via 10.0.2.2" in access.run(craft).output
        for address in ("127.0.0.1", "127.0.0.53", "127.1.2.3"):
            assert SECRET.decode() not in ask(access, address, service.port)
        assert service.callers == []

    def test_routes_that_the_container_makes_up_lead_to_no_address_of_this_machine(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, service: Service
    ) -> None:
        made = bench()
        access = made.ready(made.boot(plain))
        access.run("ip addr add 10.9.9.9/8 dev eth0; ip addr add 10.0.2.77/24 dev eth0")
        for address in own_addresses():
            access.run(f"ip route add {address}/32 via 10.0.2.3 dev eth0")
            assert SECRET.decode() not in ask(access, address, service.port)
        assert service.callers == []

    def test_the_resolver_answers_questions_only(self, shut: Running, service: Service) -> None:
        _, _, access = shut
        for port in (22, 80, service.port):
            assert access.run(f"nc -z -w 3 10.0.2.3 {port}", timeout=30).returncode != 0

    def test_host_loopback_opens_this_machine(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, service: Service
    ) -> None:
        made = bench(host_loopback=True)
        access = made.ready(made.boot(plain))
        heard = ask(access, "10.0.2.2", service.port)
        service.callers.clear()
        assert SECRET.decode() in heard

    def test_it_sees_no_interface_but_its_own(self, shut: Running) -> None:
        _, _, access = shut
        assert set(access.run("ls /sys/class/net").output.split()) == {"eth0", "lo"}
        assert len(access.run("cat /proc/net/dev").output.splitlines()) == 4


def own_addresses() -> list[str]:
    return [address for address in slirp.own_addresses() if "/" not in address]


def own_addresses6() -> list[str]:
    found = psutil.net_if_addrs().values()
    return [each.address for addresses in found for each in addresses if each.family.name == "AF_INET6"]


class TestMachine:
    def test_its_root_owns_nothing_here(self, shut: Running) -> None:
        _, instance, access = shut
        access.run("sleep 4321 >/dev/null 2>&1 </dev/null &")
        sleepers: list[psutil.Process] = []

        def looked_for() -> set[str]:
            found = psutil.process_iter(["cmdline"])
            sleepers[:] = [each for each in found if each.info["cmdline"] == ["sleep", "4321"]]
            return set() if sleepers else {"not yet"}

        assert leaks.settled(looked_for, seconds=10) == set()
        assert {sleeper.uids().real for sleeper in sleepers} == {FIRST_USER}
        uid_map = Path(f"/proc/{sleepers[0].pid}/uid_map").read_text().split()
        assert uid_map == ["0", str(FIRST_USER), str(USERS)]
        assert instance.directory.stat().st_mode & 0o777 == 0o700

    def test_it_sees_its_own_processes_only(self, shut: Running) -> None:
        _, _, access = shut
        lines = access.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").output
        assert "pytest" not in lines
        assert "slirp4netns" not in lines

    def test_mounts_name_no_file_of_this_machine(self, shut: Running) -> None:
        _, _, access = shut
        sources = [line.split()[0] for line in access.run("mount").output.splitlines()]
        assert [source for source in sources if source.startswith("/")] == []
        assert access.run("cat /run/host/os-release").output == ""

    @pytest.mark.parametrize(
        "attempt",
        [
            "mknod /root/disk b 254 0 && dd if=/root/disk of=/dev/null count=1",
            "mount -t sysfs s /mnt && echo x > /mnt/kernel/uevent_seqnum",
            "echo 1 > /proc/sys/kernel/panic",
            "echo x > /proc/sys/kernel/core_pattern",
            "echo b > /proc/sysrq-trigger",
            "date -s 2001-01-01; date | grep 2001",
            "mount -t ext4 /dev/vda /mnt",
            "mount -t debugfs d /mnt",
            "head -c 1 /proc/kcore",
            "head -c 1 /dev/mem",
            "dmesg | grep Linux",
            "insmod /bin/busybox",
            "swapon /root/swap",
            "echo 10000000000 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
            "echo max > /sys/fs/cgroup/pids/pids.max",
            "test -e /sys/fs/cgroup/memory.max && echo max > /sys/fs/cgroup/memory.max",
            "ls /sys/fs/cgroup/*/dibctl-*",
            "mount -o remount,rw /proc/sys && echo 1 > /proc/sys/kernel/panic",
        ],
    )
    def test_what_it_may_not_do(self, shut: Running, attempt: str) -> None:
        _, _, access = shut
        result = access.run(f"({attempt}) 2>&1; echo code $?")
        assert "code " in result.output
        assert not result.output.endswith("code 0\n"), result.output

    def test_it_has_few_devices(self, shut: Running) -> None:
        _, _, access = shut
        listed = access.run(
            "cd /dev; for d in *; do [ -c $d ] || [ -b $d ] && echo $d; done; true"
        ).output.split()
        assert set(listed) <= {"console", "full", "null", "ptmx", "random", "tty", "urandom", "zero", "net"}

    def test_it_has_none_of_the_most_powerful_capabilities(self, shut: Running) -> None:
        _, _, access = shut
        bounding = access.run("grep CapBnd /proc/self/status").output.split()[1]
        for name, bit in (("sys_module", 16), ("sys_rawio", 17), ("mknod", 27), ("syslog", 34), ("bpf", 39)):
            assert not int(bounding, 16) >> bit & 1, name


BOMB = "(while :; do sleep 300 & done) >/dev/null 2>&1 </dev/null &"
"""What it has started stays when it cannot go on."""


class TestLimits:
    def test_memory(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench(memory=128)
        instance = made.boot(plain)
        access = made.ready(instance)
        eater = "awk 'BEGIN { s = \"x\"; while (length(s) < 500000000) s = s s; print length(s) }'"
        assert "536870912" not in access.run(f"{eater} 2>&1", timeout=120).output
        fills = "mount -t tmpfs -o size=1g t /mnt; dd if=/dev/zero of=/mnt/x bs=1M count=400 2>&1; ls -s /mnt"
        access.run(fills, timeout=120)
        assert most_memory(instance) <= 128 * MIB

    def test_processes(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench(processes=100)
        instance = made.boot(plain)
        access = made.ready(instance)
        access.run("(f() { f & f & }; f) >/dev/null 2>&1 </dev/null", timeout=30)
        for _ in range(20):
            assert processes_in(instance) <= 100
            time.sleep(0.1)
        instance.rebuild()
        made.again(instance, access)
        assert access.run("echo works").output == "works\n"

    def test_disk(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench(disk=1)
        instance = made.boot(plain)
        access = made.ready(instance)
        full = access.run("dd if=/dev/zero of=/root/x bs=1M count=1500 2>&1", timeout=300).output
        assert "No space left" in full
        used = sum(path.stat().st_blocks * 512 for path in instance.directory.iterdir())
        assert used <= 1100 * MIB
        instance.rebuild()
        made.again(instance, access)
        assert access.run("echo x > /root/y; cat /root/y").output == "x\n"

    def test_console(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "LIMIT", MIB)
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        flood = "dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' x > /proc/1/fd/1"
        access.run(flood, check=True, timeout=60)
        log = instance.directory / launch.CONSOLE
        assert leaks.settled(lambda: set() if b"limit of 1 MiB" in log.read_bytes() else {"not yet"}) == set()
        assert log.stat().st_size < MIB + 200
        assert access.run("echo works").output == "works\n"

    def test_without_control_groups_there_are_limits_of_processes(
        self,
        bench: Callable[..., Bench],
        plain: artifact.Artifact,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("pytest_dibctl.clouds.nspawn.limits.hierarchies", tuple)
        made = bench(processes=100, memory=128)
        request = made.request()
        instance = made.boot(plain, request)
        assert "by rlimits" in instance.facts["limits"]
        monkeypatch.undo()
        assert groups(request.name) == []
        access = made.ready(instance)
        eater = "awk 'BEGIN { s = \"x\"; while (length(s) < 500000000) s = s s; print length(s) }'"
        assert "536870912" not in access.run(f"{eater} 2>&1", timeout=120).output

    def test_without_control_groups_a_fork_bomb_has_its_limit(
        self,
        bench: Callable[..., Bench],
        plain: artifact.Artifact,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("pytest_dibctl.clouds.nspawn.limits.hierarchies", tuple)
        made = bench(processes=100)
        instance = made.boot(plain)
        monkeypatch.undo()
        access = made.ready(instance)
        access.run(BOMB, timeout=30)
        most = 0
        end = time.monotonic() + 60
        while most < 90 and time.monotonic() < end:
            most = max(most, below(instance))
            time.sleep(0.02)
        for _ in range(20):
            most = max(most, below(instance))
            time.sleep(0.05)
        # systemd-nspawn itself, and what is outside of the container, belong to another user.
        assert 90 <= most <= 100 + 5
        assert psutil.Process().is_running()
        started = time.monotonic()
        instance.delete()
        assert time.monotonic() - started < 10

    def test_what_one_container_takes_is_not_taken_from_another(
        self,
        bench: Callable[..., Bench],
        plain: artifact.Artifact,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("pytest_dibctl.clouds.nspawn.limits.hierarchies", tuple)
        made = bench(processes=100)
        bombed, other = made.boot(plain), made.boot(plain)
        monkeypatch.undo()
        made.ready(bombed).run(BOMB, timeout=30)
        assert leaks.settled(lambda: set() if below(bombed) > 80 else {"not yet"}, seconds=60) == set()
        assert made.ready(other).run("for i in 1 2 3 4 5; do sleep 1 & done; wait; echo works").output == (
            "works\n"
        )


def below(instance: NspawnInstance) -> int:
    """Return how many processes a container has: those below its guard that belong to its users."""
    users = range(FIRST_USER, FIRST_USER + USERS)
    found = 0
    for child in psutil.Process(int(instance.facts["process"])).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += child.uids().real in users
    return found


def most_memory(instance: NspawnInstance) -> int:
    """Return the bytes that a container ever had in memory, by its control group."""
    for group in groups(instance.name):
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (group / name).exists():
                return int((group / name).read_text())
    pytest.fail("there is no control group for memory")


def processes_in(instance: NspawnInstance) -> int:
    for group in groups(instance.name):
        if (group / "pids.current").exists():
            return int((group / "pids.current").read_text())
    pytest.fail("there is no control group for processes")


def test_a_setuid_program_is_root_in_the_container_only(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path
) -> None:
    script = "cp bin/busybox usr/bin/su-id; chown 0:0 usr/bin/su-id; chmod 4755 usr/bin/su-id"
    image = altered(micro_files / "micro.qcow2", tmp_path / "setuid.raw", script)
    made = bench()
    instance = made.boot(image)
    access = made.ready(instance, username="debian")
    assert access.run("id -u").output.strip() == "1000"
    access.run("ln -s /usr/bin/su-id /tmp/id; /tmp/id -u >/tmp/who")
    assert access.run("cat /tmp/who").output.strip() in {"0", "1000"}
    seen = Path(f"/proc/{instance.facts['process']}/root/run/instance/tree/container/usr/bin/su-id")
    assert seen.stat().st_uid == FIRST_USER
