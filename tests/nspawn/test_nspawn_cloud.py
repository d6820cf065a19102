"""Containers as instances, for real: the micro image under this machine's kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_dibctl.clouds.nspawn import guard, launch
from pytest_dibctl.clouds.nspawn.cloud import NspawnInstance
from pytest_dibctl.clouds.protocols import Address, Interface
from pytest_dibctl.errors import ArtifactError, InstanceError, NotInConfigError
from pytest_dibctl.guards import container
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process, processes
from tests.nspawn.bench import Bench, altered, boot_id, groups
from tests.qemu.test_tree import partitioned
from tests.support import leaks, micro

pytestmark = pytest.mark.real

Running = tuple[Bench, NspawnInstance, SshAccess]


@pytest.fixture(scope="module")
def running(plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One container for all tests that do not mind each other."""
    made = Bench(tmp_path_factory.mktemp("shared") / "run")
    with made.stack:
        instance = made.boot(plain)
        yield made, instance, made.ready(instance)


class TestRunningContainer:
    def test_hostname_is_instance_name(self, running: Running) -> None:
        _, instance, access = running
        assert access.run("hostname").output.strip() == instance.name

    def test_interface_is_as_described(self, running: Running) -> None:
        _, instance, access = running
        (interface,) = instance.interfaces
        (address,) = interface.addresses
        found = access.run("ip addr; ip route; cat /etc/resolv.conf").output
        assert f"{interface.mac} " in found
        assert f"{address.ip}/{address.prefix} " in found
        assert f"default via {address.gateway} " in found
        assert f"nameserver {interface.dns[0]}" in found
        assert instance.main_ip == address.ip

    def test_it_is_in_the_same_network_as_a_qemu_guest(self, running: Running) -> None:

        _, instance, _ = running
        address = Address(ip="10.0.2.15", prefix=24, gateway="10.0.2.2")
        mac = instance.interfaces[0].mac
        assert instance.interfaces == (
            Interface(network="user", mac=mac, addresses=(address,), dns=("10.0.2.3",)),
        )

    def test_container_presents_the_injected_host_key(self, running: Running) -> None:
        _, instance, access = running
        scanned = process.run(["ssh-keyscan", "-t", "ed25519", "-p", str(access.port), access.ip]).output
        assert " ".join(instance.host_keys.known[0].split()[:2]) in scanned

    def test_another_host_key_is_refused(self, running: Running, tmp_path: Path) -> None:
        made, instance, _ = running
        other = HostKeyPolicy(known=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43,))
        access = made.access(instance, host_keys=other, directory=tmp_path)
        with contextlib.closing(access):
            assert access.run("true", timeout=30).returncode == 255

    def test_remote_command_gets_stdin_and_returns_its_code(self, running: Running) -> None:
        _, _, access = running
        result = access.run("cat; echo to stderr >&2; exit 3", stdin="a line\n")
        assert (result.returncode, result.output, result.errors) == (3, "a line\n", "to stderr\n")

    def test_files_belong_to_who_they_belong_to_in_the_image(self, running: Running) -> None:
        _, _, access = running
        owners = access.run("stat -c %u:%g /etc/passwd /bin/busybox / /home/debian").output.split()
        assert owners == ["0:0", "0:0", "0:0", "1000:1000"]

    def test_facts_name_the_engine_and_what_is_limited(self, running: Running) -> None:
        _, instance, _ = running
        assert "systemd-nspawn" in instance.facts["engine"]
        assert "256 MiB memory, 200 processes, 1 GiB disk, by control groups" in instance.facts["limits"]

    def test_names_are_resolved_by_this_machine_s_resolver(self, running: Running) -> None:
        _, _, access = running
        asked = access.run(
            "nslookup localhost. 10.0.2.3; nslookup deb.debian.org 10.0.2.3", timeout=60
        ).output
        try:
            socket.getaddrinfo("deb.debian.org", 80)
        except OSError:
            assert "10.0.2.3" in asked
        else:
            assert "Name:\tdeb.debian.org" in asked

    def test_a_port_is_reached_on_loopback_only(self, running: Running) -> None:
        _, instance, access = running
        endpoint = instance.endpoint(8080)
        access.run("(echo hello | nc -l -p 8080) >/dev/null 2>&1 </dev/null &")
        assert endpoint.ip == "127.0.0.1"

        def heard() -> set[str]:
            with contextlib.suppress(OSError), socket.create_connection((endpoint.ip, endpoint.port)) as s:
                return set() if s.recv(10) == b"hello\n" else {"not yet"}
            return {"not yet"}

        assert leaks.settled(heard, seconds=10) == set()

    def test_console_is_kept(self, running: Running) -> None:
        _, instance, _ = running
        assert f"{instance.name} ready" in instance.console_output()
        assert "no seed" not in instance.console_output()

    def test_it_has_none_of_a_machine_s_capabilities(self, running: Running) -> None:
        made, _, _ = running
        assert made.cloud.capabilities == frozenset()
        assert made.cloud.client("compute") is None

    def test_another_process_finds_it(self, running: Running) -> None:
        made, instance, _ = running
        for name in (instance.id, instance.name):
            found = made.cloud.existing(name)
            assert found.facts["process"] == instance.facts["process"]
            assert found.endpoint(22) == instance.endpoint(22)
            found.check()
        with pytest.raises(NotInConfigError, match="there is no instance nobody"):
            made.cloud.existing("nobody")


@pytest.mark.parametrize("seed", ["nocloud", "configdrive"])
def test_user_data_reaches_the_container(
    bench: Callable[..., Bench], plain: artifact.Artifact, seed: str
) -> None:
    made = bench(seed=seed, userdata="#!/bin/sh\ntouch /root/user-data-ran\n")
    access = made.ready(made.boot(plain))
    run = leaks.settled(
        lambda: set() if access.run("test -e /root/user-data-ran").returncode == 0 else {"not yet"}
    )
    assert run == set()


def test_first_seen_host_key(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench(ssh_host_key="first-seen")
    instance = made.boot(plain)
    assert instance.host_keys == HostKeyPolicy(first_seen=True)
    assert made.ready(instance).run("true").returncode == 0


def test_forward_ports(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = bench(forward_ports=[{"guest": 22, "host": port}, {"guest": 80}])
    instance = made.boot(plain)
    assert instance.endpoint(22).port == port
    assert instance.endpoint(80).port not in {0, port}


def test_a_port_that_is_taken_is_named(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = bench(forward_ports=[{"guest": 22, "host": port}])
        request = made.request()
        with pytest.raises(
            InstanceError, match=f"port {port} of this machine cannot lead to the guest.s port 22"
        ) as caught:
            made.boot(plain, request)
    assert "nspawn.forward_ports" in str(caught.value)
    assert not (made.directory / request.name).exists()
    assert groups(request.name) == []


class TestPower:
    @pytest.mark.parametrize("hard", [False, True])
    def test_reboot(self, bench: Callable[..., Bench], plain: artifact.Artifact, *, hard: bool) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        before, port = boot_id(access), instance.endpoint(22)
        access.run("echo kept > /root/file")
        instance.reboot(hard=hard)
        made.again(instance, access)
        assert boot_id(access) != before
        assert instance.endpoint(22) == port
        assert access.run("cat /root/file").output == "kept\n"

    def test_the_container_s_own_reboot(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        before = boot_id(access)
        access.run("echo kept > /root/file; reboot")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            made.again(instance, access)
            if boot_id(access) != before:
                break
            time.sleep(0.2)
        assert boot_id(access) != before
        assert access.run("cat /root/file").output == "kept\n"

    def test_stop_and_start(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        access.run("echo kept > /root/file")
        instance.stop()
        with pytest.raises(InstanceError, match="it is switched off"):
            instance.check()
        instance.start()
        made.again(instance, access)
        assert access.run("cat /root/file").output == "kept\n"

    def test_a_container_that_powers_itself_off(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        access.run("poweroff")

        def is_off() -> set[str]:
            try:
                instance.check()
            except InstanceError as error:
                return set() if "powered itself off" in error.message else {error.message}
            return {"not yet"}

        assert leaks.settled(is_off, seconds=20) == set()

    def test_rebuild_gives_the_image_s_files_again(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        access.run("echo x > /root/file; rm -rf /etc/dropbear /usr/share; echo > /bin/busybox.new")
        started = time.monotonic()
        instance.rebuild()
        seconds = time.monotonic() - started
        made.again(instance, access)
        assert access.run("cat /root/file; ls /bin/busybox.new").returncode != 0
        assert access.run("ls /usr/share/udhcpc").returncode == 0
        assert access.run("hostname").output.strip() == instance.name
        assert seconds < 2

    def test_a_snapshot_is_gone_back_to(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        assert not instance.snapshots_memory
        access.run("echo one > /root/file")
        assert instance.snapshot("first") == "first"
        access.run("echo two > /root/file; touch /root/other")
        for _ in range(2):
            instance.revert("first")
            made.again(instance, access)
            assert access.run("cat /root/file; ls /root/other 2>/dev/null").output == "one\n"
        for name in ("../x", "", "second"):
            with pytest.raises(InstanceError):
                instance.revert(name)
        assert access.run("cat /root/file").output == "one\n"

    def test_a_snapshot_of_a_busy_container_is_whole(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        loop = "n=0; while :; do n=$((n+1)); echo $n > /root/new; mv /root/new /root/count; done"
        access.run(f"(sh -c '{loop}') >/dev/null 2>&1 </dev/null &")
        for number in range(3):
            time.sleep(0.2)
            instance.snapshot(f"at{number}")
        later = int(access.run("cat /root/count", check=True).output)
        counts = []
        for number in range(3):
            instance.revert(f"at{number}")
            made.again(instance, access)
            counts.append(int(access.run("cat /root/count", check=True).output))
        assert counts == sorted(counts)
        assert counts[-1] <= later


class TestEnds:
    def test_delete_leaves_nothing_and_can_be_repeated(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        assert groups(instance.name)
        instance.delete()
        instance.delete()
        assert not instance.directory.exists()
        assert groups(instance.name) == []
        with pytest.raises(InstanceError, match=r"exited|was killed|is gone"):
            instance.check()

    @pytest.mark.parametrize(
        "part", ["guard", "init", "systemd-nspawn", "slirp4netns", "qemu-storage-daemon"]
    )
    def test_the_end_of_a_part_is_told_and_leaves_nothing(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, part: str
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        made.ready(instance)
        [victim, *_] = parts(instance)[part]
        os.kill(victim, signal.SIGKILL)

        def told() -> set[str]:
            try:
                instance.check()
            except InstanceError:
                return set()
            return {"not yet"}

        if part != "qemu-storage-daemon":  # what is in memory already goes on
            assert leaks.settled(told, seconds=10) == set()
        instance.delete()
        assert groups(instance.name) == []

    @pytest.mark.parametrize("keepable", [False, True])
    def test_only_a_container_that_may_be_kept_outlives_its_starter(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path, *, keepable: bool
    ) -> None:
        made = bench()
        name = made.request().name
        code = textwrap.dedent(
            f"""
            import os, signal, sys
            from pathlib import Path
            from pytest_dibctl.image import artifact
            from tests.nspawn.bench import Bench
            made = Bench(Path(sys.argv[1]))
            made.boot(artifact.inspect(Path(sys.argv[2])), made.request({name!r}, keepable={keepable}))
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
        argv = [sys.executable, "-c", code, str(made.directory), str(plain.path)]
        assert subprocess.run(argv, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
        if keepable:
            found = made.cloud.existing(name)
            made.again(found, made.access(found))
            found.delete()
        assert leaks.settled(lambda: guards_of(name), seconds=10) == set()
        made.cloud.remove("instance", name, {})
        made.cloud.remove("instance", name, {})
        assert groups(name) == []
        assert not (made.directory / name).exists()
        assert not leaks.mounts(tmp_path)
        assert leaks.settled(lambda: leaks.loop_devices(tmp_path)) == set()


def guards_of(name: str) -> set[str]:
    """Return the ids of the processes that hold an instance."""
    return {str(found.pid) for found in processes.with_argument(container.instance_option(name))}


def parts(instance: NspawnInstance) -> dict[str, list[int]]:
    """Return the processes that make a container, by what they are."""
    held = int(instance.facts["process"])
    found: dict[str, list[int]] = {"guard": [held], "slirp4netns": [], "qemu-storage-daemon": []}
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line, parents = candidate.cmdline(), [parent.pid for parent in candidate.parents()]
            if line[:1] == ["slirp4netns"] and str(held) in line:
                found["slirp4netns"].append(candidate.pid)
            elif held in parents[:1]:
                found.setdefault(line[0], []).append(candidate.pid)
                if line[0] == "systemd-nspawn":
                    found["init"] = [child.pid for child in candidate.children()]
    return found


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_whole_disk_is_booted(bench: Callable[..., Bench], whole_disk: micro.WholeDisk, kind: str) -> None:
    made = bench()
    access = made.ready(made.boot(artifact.inspect(getattr(whole_disk, kind))))
    assert "ID=micro" in access.run("cat /etc/os-release").output


def test_other_partitions_can_be_written_too(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path
) -> None:
    image = partitioned(micro_files, tmp_path, "LABEL=extra /mnt ext4 defaults 0 2\n")
    made = bench()
    instance = made.boot(artifact.inspect(image))
    access = made.ready(instance)
    script = "cat /mnt/shown; echo more > /mnt/more; cat /mnt/more; stat -c %u /mnt/shown"
    assert access.run(script).output.split() == ["yes", "more", "0"]
    instance.rebuild()
    made.again(instance, access)
    assert access.run("ls /mnt/more").returncode != 0


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vpc", "vhdx"])
def test_other_formats_are_booted(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path, kind: str
) -> None:
    image = tmp_path / f"micro.{kind}"
    process.run(["qemu-img", "convert", "-O", kind, str(micro_files / "micro.qcow2"), str(image)])
    made = bench()
    assert made.ready(made.boot(artifact.inspect(image))).run("true").returncode == 0


def test_directories_of_the_image_can_be_renamed(
    bench: Callable[..., Bench], plain: artifact.Artifact
) -> None:
    made = bench()
    access = made.ready(made.boot(plain))
    script = "set -e; cd /usr; /bin/busybox mv share other; ls other/udhcpc; mkdir share; ls share"
    assert access.run(script).returncode == 0


def test_an_image_that_changed_is_refused(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path
) -> None:
    copy = altered(micro_files / "micro.qcow2", tmp_path / "copy.raw", "true")
    with copy.path.open("ab") as file:
        file.write(b"more")
    made = bench()
    with pytest.raises(ArtifactError, match="bytes now"):
        made.boot(copy)


def test_a_file_that_is_no_image_is_named(bench: Callable[..., Bench], tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(1 << 20)
    made = bench()
    request = made.request()
    with pytest.raises(ArtifactError, match="neither a filesystem nor a partition table"):
        made.boot(artifact.inspect(empty), request)
    assert groups(request.name) == []
    assert not (made.directory / request.name).exists()


def test_records_hold_no_secret(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench()
    instance = made.boot(plain)
    assert "PRIVATE KEY" not in (instance.directory / "instance.json").read_text()
    secret = instance.directory / "container.json"
    assert "PRIVATE KEY" in json.loads(secret.read_text())["host_key"]["private"]
    assert secret.stat().st_mode & 0o777 == 0o600


def test_orders_that_make_no_sense_change_nothing(
    bench: Callable[..., Bench], plain: artifact.Artifact
) -> None:
    made = bench()
    instance = made.boot(plain)
    held = guard.Guard(instance.name, instance.directory, int(instance.facts["process"]))
    with pytest.raises(InstanceError, match="not an order"):
        held.order("format")
    assert held.order("status").state == "running"
    assert (instance.directory / launch.LOG).exists()
