"""The local cloud with real guests: the micro image, which boots in seconds even without KVM."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.clouds.protocols import BootRequest, Endpoint
from pytest_dibctl.clouds.qemu import guest, qmp
from pytest_dibctl.clouds.qemu.cloud import QemuCloud, QemuInstance
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import (
    ArtifactError,
    DibctlError,
    InstanceError,
    NotInConfigError,
    PortTimeoutError,
    PreflightError,
)
from pytest_dibctl.guest import login
from pytest_dibctl.guest.keys import SshKey, make_key
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process
from tests.support import leaks, micro
from tests.support.uploads import upload_request

pytestmark = pytest.mark.real

READY = 180.0
"""Seconds for a micro guest to let us in; it takes 5 on an idle machine."""


def environment(**qemu: Any) -> Entry[TestEnvironment]:
    settings = {"memory": 256, "vcpus": 1, "disk": 1, "kernel_cmdline": micro.FAST, **qemu}
    return Entry(
        label="local",
        settings=TestEnvironment.model_validate({"qemu": settings}),
        path=Path("test.yaml"),
    )


def web_page(endpoint: Endpoint) -> str:
    """Return the first page of a guest's web server; no proxy of this machine is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{endpoint.ip}:{endpoint.port}/", timeout=60) as answer:
        return bytes(answer.read()).decode()


class Bench:
    """A cloud, a key and whatever is booted with them; ends its guests."""

    def __init__(self, directory: Path, **qemu: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.cloud = QemuCloud(environment(**qemu), directory=directory, cwd=directory)
        self.key = SshKey.generate(directory, comment="bench")
        self.told: list[str] = []
        self.stack = contextlib.ExitStack()

    def boot(
        self, built: artifact.Artifact, name: str = "dibctl-micro-0", *, keepable: bool = False
    ) -> QemuInstance:
        self.cloud.check(built, upload_request())
        image = self.cloud.upload(built, upload_request(), progress=self.told.append)
        request = BootRequest(
            name=name,
            key=self.key,
            key_name=self.key.name,
            deadlines=Deadlines(port=READY),
            keepable=keepable,
        )
        instance = self.cloud.boot(image, request, progress=self.told.append)
        self.stack.callback(instance.delete)
        return instance

    def access(self, instance: QemuInstance, **fields: Any) -> SshAccess:
        endpoint = instance.endpoint(22)
        given = {
            "name": instance.name,
            "username": "root",
            "key": self.key,
            "host_keys": instance.host_keys,
            **fields,
        }
        access = SshAccess(ip=endpoint.ip, port=endpoint.port, directory=self.directory, **given)
        self.stack.callback(access.close)
        return access

    def ready(self, instance: QemuInstance, **fields: Any) -> SshAccess:
        access = self.access(instance, **fields)
        access.wait_ready(timeout=READY, check=instance.check, progress=self.told.append)
        return access


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def make(**qemu: Any) -> Bench:
            made = Bench(tmp_path / "run", **qemu)
            stack.callback(made.stack.close)
            return made

        yield make


@pytest.fixture(scope="session")
def plain(micro_files: Path) -> artifact.Artifact:
    return artifact.inspect(micro_files / "micro.qcow2")


@pytest.fixture(scope="module")
def running(
    plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, QemuInstance, SshAccess]]:
    """One guest for all tests that do not mind each other."""
    made = Bench(tmp_path_factory.mktemp("shared") / "run")
    with made.stack:
        instance = made.boot(plain)
        yield made, instance, made.ready(instance)


def boot_id(access: SshAccess) -> str:
    return access.run("cat /proc/sys/kernel/random/boot_id", check=True).output.strip()


class TestRunningGuest:
    def test_hostname_is_instance_name(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, instance, access = running
        assert access.run("hostname").output.strip() == instance.name

    def test_interface_is_as_described(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, instance, access = running
        (interface,) = instance.interfaces
        (address,) = interface.addresses
        found = access.run("ip addr; ip route; cat /etc/resolv.conf").output
        assert f"{interface.mac} " in found
        assert f"{address.ip}/{address.prefix} " in found
        assert f"default via {address.gateway} " in found
        assert f"nameserver {interface.dns[0]}" in found
        assert instance.main_ip == address.ip

    def test_root_disk_has_the_size_of_the_flavor(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, instance, access = running
        sectors = int(access.run("cat /sys/block/vda/size").output)
        assert sectors * 512 == instance.flavor.disk * 1024**3

    def test_guest_presents_the_injected_host_key(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, instance, access = running
        scanned = process.run(["ssh-keyscan", "-t", "ed25519", "-p", str(access.port), access.ip]).output
        assert " ".join(instance.host_keys.known[0].split()[:2]) in scanned

    def test_seed_is_read_only(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, _, access = running
        assert access.run("cat /sys/block/vdb/ro").output.strip() == "1"

    def test_remote_command_gets_stdin_and_returns_its_code(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, _, access = running
        result = access.run("cat; echo to stderr >&2; exit 3", stdin="a line\n")
        assert (result.returncode, result.output, result.errors) == (3, "a line\n", "to stderr\n")

    def test_connection_is_shared(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, _, access = running
        access.run("true", check=True)
        said = process.run(["ssh", "-F", str(access.config_file), "-O", "check", "x"])
        assert "Master running" in said.output + said.errors

    def test_command_that_hangs_is_ended(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, _, access = running
        with pytest.raises(DibctlError, match="did not end within 1 s"):
            access.run("sleep 100", timeout=1)

    def test_config_works_for_a_shell_test(
        self, running: tuple[Bench, QemuInstance, SshAccess], tmp_path: Path
    ) -> None:
        _, instance, access = running
        process.run([*access.command_line(), "true"], cwd=tmp_path)
        named = process.run(["ssh", "-F", str(access.config_file), "whatever", "hostname"], cwd=tmp_path)
        assert named.output.strip() == instance.name

    def test_paramiko_client_pins_the_same_key(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, instance, access = running
        client = access.client()
        try:
            _, stdout, _ = client.exec_command("hostname")
            assert stdout.read().decode().strip() == instance.name
        finally:
            client.close()

    def test_paramiko_client_refuses_another_key(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, _, access = running
        other = access.known_hosts.read_text()
        blob = other.split()[-1]
        try:
            access.known_hosts.write_text(other.replace(blob, blob[:-4] + "AAAA"))
            with pytest.raises(DibctlError, match="Host key"):
                access.client()
        finally:
            access.known_hosts.write_text(other)

    def test_forward_is_added_at_run_time(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, instance, access = running
        access.run(
            "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; httpd -p 8080 -h /tmp/www", check=True
        )
        endpoint = instance.endpoint(8080)
        assert web_page(endpoint) == "hello\n"
        assert instance.endpoint(8080) == endpoint
        assert instance.endpoint(8081) != endpoint

    def test_console_has_boot_messages_without_escapes(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, instance, _ = running
        text = instance.console_output()
        assert f"micro: {instance.name} ready" in text
        assert "\x1b" not in text

    def test_private_files_are_private(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        made, instance, _ = running
        assert instance.directory.stat().st_mode & 0o777 == 0o700
        assert (instance.directory / "seed.iso").stat().st_mode & 0o777 == 0o600
        assert made.key.private_key_file.stat().st_mode & 0o777 == 0o600
        state = (instance.directory / "instance.json").read_text()
        assert "PRIVATE KEY" not in state

    def test_host_private_key_is_on_no_command_line(
        self, running: tuple[Bench, QemuInstance, SshAccess]
    ) -> None:
        _, instance, _ = running
        argv = Path(f"/proc/{instance.facts['process']}/cmdline").read_text()
        assert instance.id in argv
        assert "PRIVATE" not in argv

    def test_check_is_content(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        _, instance, _ = running
        instance.check()

    def test_same_name_twice_is_refused(
        self, running: tuple[Bench, QemuInstance, SshAccess], plain: artifact.Artifact
    ) -> None:
        made, instance, access = running
        with pytest.raises(InstanceError, match="File exists"):
            made.boot(plain, instance.name)
        access.run("true", check=True)


def test_life_of_an_instance(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench()
    instance = made.boot(plain)
    access = made.ready(instance)
    boots = [boot_id(access)]
    access.run("echo still here > /root/note; sync", check=True)

    instance.reboot()
    access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
    boots.append(boot_id(access))

    instance.reboot(hard=True)
    access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
    boots.append(boot_id(access))

    instance.stop()
    with pytest.raises(InstanceError, match="it is switched off"):
        instance.check()
    instance.start()
    access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
    boots.append(boot_id(access))

    assert len(set(boots)) == 4
    assert access.run("cat /root/note").output == "still here\n"
    pid = int(instance.facts["process"])
    access.close()
    instance.delete()
    assert not guest.is_guest(pid, instance.id)
    assert sorted(path.name for path in made.directory.iterdir()) == ["id_ed25519"]
    instance.delete()


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_whole_disk_boots_by_firmware(
    bench: Callable[..., Bench], whole_disk: micro.WholeDisk, kind: str
) -> None:
    made = bench()
    built = artifact.inspect(getattr(whole_disk, kind))
    assert built.kernel is None
    instance = made.boot(built)
    assert made.ready(instance).run("hostname").output.strip() == instance.name


def test_config_drive(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    made = bench(seed="configdrive")
    instance = made.boot(plain)
    access = made.ready(instance)
    assert access.run("hostname").output.strip() == instance.name
    listed = access.run("mount -o ro /dev/vdb /mnt && ls /mnt/openstack/latest", check=True).output.split()
    assert listed == ["meta_data.json", "network_data.json", "vendor_data.json"]


def test_user_data_reaches_the_guest_untouched(
    bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path
) -> None:
    script = '#!/bin/sh\necho "user data ran" > /root/ran\n'
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "user-data").write_text(script)
    made = bench(userdata_file="user-data")
    access = made.ready(made.boot(plain))
    assert access.run("cat /root/ran").output == "user data ran\n"
    assert access.run("mount -o ro /dev/vdb /mnt && cat /mnt/user-data", check=True).output == script


def test_first_seen_host_key_is_kept_and_then_pinned(
    bench: Callable[..., Bench], plain: artifact.Artifact
) -> None:
    made = bench(ssh_host_key="first-seen")
    instance = made.boot(plain)
    assert instance.host_keys.known == ()
    access = made.ready(instance)
    assert access.known_hosts.read_text().startswith(f"[{access.ip}]:{access.port} ssh-ed25519 ")


def test_host_port_that_is_asked_for(bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = bench(forward_ports=[{"guest": 80, "host": port}])
        with pytest.raises(InstanceError, match=f"port {port} of this machine cannot") as caught:
            made.boot(plain)
    assert "forward_ports" in str(caught.value)
    assert not (made.directory / "dibctl-micro-0").exists()
    instance = made.boot(plain)
    assert instance.endpoint(80).port == port


def test_image_bigger_than_the_flavor_grows_the_disk(
    bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path
) -> None:
    for suffix in (".qcow2", ".vmlinuz", ".initrd"):
        shutil.copy(plain.path.with_suffix(suffix), tmp_path / f"big{suffix}")
    process.run(["qemu-img", "resize", "-q", str(tmp_path / "big.qcow2"), "2500M"])
    made = bench(disk=1)
    instance = made.boot(artifact.inspect(tmp_path / "big.qcow2"))
    assert instance.flavor.disk == 3
    assert any("the disk has 3 GiB" in line for line in made.told)


class TestGuestsThatNeverGetReady:
    def test_kernel_panic_is_named_at_once(
        self, bench: Callable[..., Bench], micro_variant: Callable[[str], Path]
    ) -> None:
        made = bench()
        instance = made.boot(artifact.inspect(micro_variant("panic") / "micro.qcow2"))
        with pytest.raises(InstanceError) as caught:
            made.ready(instance)
        assert "panicked [kernel-panic]" in caught.value.message
        assert "Attempted to kill init!" in caught.value.message
        assert "micro: init gives up" in caught.value.message
        assert caught.value.exit_code == 70

    def test_wrong_root_device_is_named(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench(kernel_cmdline="root=/dev/vdz console=ttyS0")
        instance = made.boot(plain)
        with pytest.raises(InstanceError) as caught:
            made.ready(instance)
        assert caught.value.cause == "root-not-found"
        assert "root=/dev/vdz" in caught.value.message

    def test_no_bootable_device_is_named_at_once(self, bench: Callable[..., Bench], tmp_path: Path) -> None:
        empty = tmp_path / "empty.qcow2"
        process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(empty), "64M"])
        made = bench()
        instance = made.boot(artifact.inspect(empty))
        with pytest.raises(InstanceError, match="found nothing to boot") as caught:
            made.ready(instance)
        assert "No bootable device" in caught.value.message
        assert "micro" not in caught.value.message.splitlines()[-1]

    def test_filesystem_without_kernel_is_refused_before_it_is_booted(
        self, bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path
    ) -> None:
        shutil.copy(plain.path, tmp_path / "alone.qcow2")
        with pytest.raises(PreflightError, match="no kernel lies beside it") as caught:
            bench().boot(artifact.inspect(tmp_path / "alone.qcow2"))
        assert "alone.vmlinuz and alone.initrd" in str(caught.value)

    def test_guest_without_sshd(
        self, bench: Callable[..., Bench], micro_variant: Callable[[str], Path]
    ) -> None:
        made = bench()
        instance = made.boot(artifact.inspect(micro_variant("no-sshd") / "micro.qcow2"))
        _await_console(instance, f"{instance.name} ready")
        with pytest.raises(PortTimeoutError) as caught:
            made.access(instance).wait_ready(timeout=15, check=instance.check, progress=made.told.append)
        assert "closed at once: nothing listens in the guest" in caught.value.message
        assert caught.value.exit_code == 71

    def test_wrong_username(self, running: tuple[Bench, QemuInstance, SshAccess]) -> None:
        made, instance, first = running
        other = SshAccess(
            ip=first.ip,
            port=first.port,
            username="nobody-here",
            key=made.key,
            directory=made.directory,
            name="wrong-user",
            host_keys=instance.host_keys,
        )
        with contextlib.closing(other), pytest.raises(PortTimeoutError) as caught:
            other.wait_ready(timeout=20, check=instance.check, progress=made.told.append)
        assert "no login as nobody-here" in caught.value.message
        assert "Permission denied" in caught.value.message
        assert "tests.ssh.username" in str(caught.value)
        assert any("no login as nobody-here yet" in line for line in made.told)

    def test_other_host_key(
        self,
        running: tuple[Bench, QemuInstance, SshAccess],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(login, "FOREIGN_KEY_GRACE", 2.0)
        made, instance, first = running
        other = SshAccess(
            ip=first.ip,
            port=first.port,
            username="root",
            key=made.key,
            directory=made.directory,
            name="wrong-key",
            host_keys=HostKeyPolicy(known=(make_key("another")[1],)),
        )
        started = time.monotonic()
        with contextlib.closing(other), pytest.raises(PortTimeoutError) as caught:
            other.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
        assert "host key that is not the guest's" in caught.value.message
        assert time.monotonic() - started < READY / 2

    def test_guest_that_powers_itself_off(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        instance = made.boot(plain)
        access = made.ready(instance)
        access.run("(sleep 1; poweroff -f) > /dev/null 2>&1 &", check=True)
        with pytest.raises(InstanceError, match="powered itself off"):
            _until_raises(instance)

    def test_qemu_that_is_killed(self, bench: Callable[..., Bench], plain: artifact.Artifact) -> None:
        made = bench()
        instance = made.boot(plain)
        os.kill(int(instance.facts["process"]), signal.SIGKILL)
        with pytest.raises(InstanceError, match="its QEMU process was killed by SIGKILL"):
            _until_raises(instance)


def test_image_truncated_after_it_was_inspected(
    bench: Callable[..., Bench], plain: artifact.Artifact, tmp_path: Path
) -> None:
    for suffix in (".qcow2", ".vmlinuz", ".initrd"):
        shutil.copy(plain.path.with_suffix(suffix), tmp_path / f"cut{suffix}")
    built = artifact.inspect(tmp_path / "cut.qcow2")
    os.truncate(built.path, built.size // 2)
    made = bench()
    with pytest.raises(ArtifactError, match="when it was inspected"):
        made.boot(built)
    assert not (made.directory / "dibctl-micro-0").exists()


def test_qemu_missing(
    bench: Callable[..., Bench],
    plain: artifact.Artifact,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(process, "tool_path", lambda: str(tmp_path))
    with pytest.raises(PreflightError, match="qemu-system-x86_64: not found") as caught:
        bench(arch="x86_64").cloud.check(plain, upload_request())
    assert str(caught.value.hint).endswith("qemu-system-x86 qemu-utils")


def test_existing_instance_is_found_by_id_and_name(running: tuple[Bench, QemuInstance, SshAccess]) -> None:
    made, instance, _ = running
    assert made.cloud.existing(instance.id).name == instance.name
    found = made.cloud.existing(instance.name)
    found.check()
    assert found.endpoint(22) == instance.endpoint(22)
    assert found.host_keys == instance.host_keys
    assert found.private_key_file == made.key.private_key_file
    with pytest.raises(NotInConfigError, match="no instance nonsense"):
        made.cloud.existing("nonsense")


OTHER_PROCESS = """
import json, sys, time
from pathlib import Path
from pytest_dibctl.image import artifact
from tests.qemu.test_qemu_cloud import Bench

directory, built, keepable = Path(sys.argv[1]), artifact.inspect(Path(sys.argv[2])), sys.argv[3] == "keepable"
made = Bench(directory)
instance = made.boot(built, keepable=keepable)
print(json.dumps({"id": instance.id, "pid": int(instance.facts["process"])}), flush=True)
time.sleep(300)
"""


@pytest.fixture
def other_process(
    plain: artifact.Artifact, tmp_path: Path
) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Boot an instance from another process, which then sleeps."""
    started: list[subprocess.Popen[str]] = []

    def boot(how: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        child = process.start(
            [
                sys.executable,
                "-c",
                textwrap.dedent(OTHER_PROCESS),
                str(tmp_path / "run"),
                str(plain.path),
                how,
            ],
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
        )
        started.append(child)
        assert child.stdout is not None
        return child, json.loads(child.stdout.readline())

    yield boot
    for child in started:
        process.stop(child)
        assert child.stdout is not None
        child.stdout.close()


def test_killed_run_takes_its_guest_along(
    other_process: Callable[[str], tuple[subprocess.Popen[str], dict[str, Any]]], tmp_path: Path
) -> None:
    child, made = other_process("own")
    assert guest.is_guest(made["pid"], made["id"])
    child.kill()
    child.wait()
    assert leaks.settled(lambda: {"alive"} if guest.is_guest(made["pid"], made["id"]) else set()) == set()
    cloud = QemuCloud(environment(), directory=tmp_path / "run", cwd=tmp_path)
    left = cloud.existing(made["id"])
    with pytest.raises(InstanceError, match="its QEMU process is gone"):
        left.check()
    left.delete()
    assert not left.directory.exists()


def test_kept_guest_outlives_its_run_and_another_process_deletes_it(
    other_process: Callable[[str], tuple[subprocess.Popen[str], dict[str, Any]]], tmp_path: Path
) -> None:
    child, made = other_process("keepable")
    child.kill()
    child.wait()
    cloud = QemuCloud(environment(), directory=tmp_path / "run", cwd=tmp_path)
    kept = cloud.existing(made["id"])
    try:
        endpoint = kept.endpoint(22)
        access = SshAccess(
            ip=endpoint.ip,
            port=endpoint.port,
            username="root",
            key=SshKey.from_file(kept.private_key_file),
            directory=tmp_path,
            name=kept.name,
            host_keys=kept.host_keys,
        )
        with contextlib.closing(access):
            access.wait_ready(timeout=READY, check=kept.check, progress=print)
            assert access.run("hostname").output.strip() == kept.name
    finally:
        kept.delete()
    assert not guest.is_guest(made["pid"], made["id"])
    assert not kept.directory.exists()


def test_control_socket_answers_below_a_long_path(plain: artifact.Artifact, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    made = Bench(deep / "run")
    with made.stack:
        instance = made.boot(plain)
        assert qmp.execute(instance.directory / "qmp.sock", "query-status")
        access = made.ready(instance)
        assert access.run("true").returncode == 0
        assert len(str(access.control_path)) < 90


def _await_console(instance: QemuInstance, text: str) -> None:
    deadline = time.monotonic() + READY
    while text not in instance.console_output():
        assert time.monotonic() < deadline, instance.console_output()[-2000:]
        time.sleep(0.2)


def _until_raises(instance: QemuInstance) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        instance.check()
        time.sleep(0.05)
