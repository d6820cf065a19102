"""Rebuilding a real guest, and going back to snapshots of one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.clouds.qemu.cloud import QemuInstance
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process
from tests.qemu.test_end_to_end import Operator
from tests.qemu.test_qemu_cloud import READY, Bench, boot_id, web_page

pytestmark = pytest.mark.real

Ready = tuple[Bench, QemuInstance, SshAccess]


@pytest.fixture(scope="module")
def plain(micro_files: Path) -> artifact.Artifact:
    return artifact.inspect(micro_files / "micro.qcow2")


@contextlib.contextmanager
def guest(directory: Path, built: artifact.Artifact, **qemu: object) -> Iterator[Ready]:
    """Boot a guest and log in to it."""
    made = Bench(directory, **qemu)
    with made.stack:
        instance = made.boot(built)
        yield made, instance, made.ready(instance)


@pytest.fixture(scope="module")
def running(plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """One guest for all tests, which leave it running."""
    with guest(tmp_path_factory.mktemp("shared") / "run", plain) as ready:
        yield ready


@pytest.fixture
def login(running: Ready) -> Callable[[], float]:
    """``login()``: wait until the guest, which is not the one it was, lets us log in; return the seconds."""
    made, instance, access = running

    def wait() -> float:
        access.trust(instance.host_keys)
        return access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)

    return wait


def sh(access: SshAccess, command: str) -> str:
    return access.run(command, check=True, timeout=60).output.strip()


def test_revert_brings_back_disk_memory_and_services(running: Ready, login: Callable[[], float]) -> None:
    _, instance, access = running
    sh(access, "mkdir -p /run/www; echo hello > /run/www/index.html; httpd -p 8080 -h /run/www")
    page = instance.endpoint(8080)
    sh(access, "echo disk > /root/kept; echo memory > /run/kept; sync")
    before = boot_id(access)
    access.disconnect()
    assert instance.snapshot("served") == "served"

    sh(access, "rm /root/kept /run/kept; touch /root/new; sync; killall httpd")
    later = instance.endpoint(8081)
    instance.revert("served")
    login()

    assert boot_id(access) == before
    assert sh(access, "cat /root/kept /run/kept") == "disk\nmemory"
    assert access.run("test -e /root/new").returncode == 1
    assert web_page(page) == "hello\n"
    assert (instance.endpoint(8080), instance.endpoint(8081)) == (page, later)


def test_a_snapshot_can_be_gone_back_to_again_and_again_and_replaced(
    running: Ready, login: Callable[[], float]
) -> None:
    _, instance, access = running
    for round_ in ("one", "two"):
        sh(access, f"echo {round_} > /root/round; sync")
        access.disconnect()
        instance.snapshot("again")
        for _ in range(2):
            sh(access, "echo spoilt > /root/round; sync")
            instance.revert("again")
            login()
            assert sh(access, "cat /root/round") == round_


def test_rebuild_gives_the_image_s_disk_to_the_same_instance(
    running: Ready, login: Callable[[], float]
) -> None:
    _, instance, access = running
    endpoint, interfaces, number = instance.endpoint(22), instance.interfaces, instance.id
    before = boot_id(access)
    sh(access, "echo here > /root/before; sync")
    access.disconnect()
    instance.snapshot("before")
    access.run("echo left > /root/left; sync; dd if=/dev/zero of=/dev/vda bs=1M count=8; sync")

    instance.rebuild()
    login()
    assert boot_id(access) != before
    assert access.run("ls /root/before /root/left").output == ""
    assert sh(access, "hostname") == instance.name
    assert (instance.endpoint(22), instance.interfaces, instance.id) == (endpoint, interfaces, number)
    scanned = process.run(["ssh-keyscan", "-t", "ed25519", "-p", str(access.port), access.ip]).output
    assert " ".join(instance.host_keys.known[0].split()[:2]) in scanned
    assert instance.console_output().count(f"micro: {instance.name} ready") == 2

    instance.revert("before")
    login()
    assert boot_id(access) == before
    assert sh(access, "cat /root/before") == "here"


@pytest.mark.parametrize("end", ["poweroff -f", "echo c > /proc/sysrq-trigger"], ids=["off", "panic"])
@pytest.mark.parametrize("way", ["rebuild", "revert"])
def test_a_guest_that_is_off_or_panicked_comes_back(
    running: Ready, login: Callable[[], float], end: str, way: str
) -> None:
    _, instance, access = running
    access.disconnect()
    instance.snapshot("alive")
    access.run(f"(sleep 1; {end}) > /dev/null 2>&1 &")
    access.disconnect()
    with pytest.raises(InstanceError, match=r"powered itself off|panicked"):
        _until_raises(instance)
    if way == "rebuild":
        instance.rebuild()
    else:
        instance.revert("alive")
    login()
    instance.check()


def test_a_stopped_guest_is_not_remembered_and_can_be_reverted(
    running: Ready, login: Callable[[], float]
) -> None:
    _, instance, access = running
    access.disconnect()
    instance.snapshot("up")
    instance.stop()
    with pytest.raises(InstanceError, match="of a guest that does not run"):
        instance.snapshot("down")
    instance.revert("up")
    login()
    instance.check()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "there is no snapshot nonsense"),
        ("1", "there is no snapshot 1"),
        ("power-on", "there is no snapshot power-on"),
        ("a b", "not a name for a snapshot"),
        ('"; quit', "not a name for a snapshot"),
    ],
)
def test_an_unknown_snapshot_changes_nothing(running: Ready, name: str, words: str) -> None:
    _, instance, access = running
    before = boot_id(access)
    with pytest.raises(InstanceError, match=words):
        instance.revert(name)
    assert boot_id(access) == before
    instance.check()


def test_another_process_goes_back_too(running: Ready, login: Callable[[], float]) -> None:
    made, instance, access = running
    sh(access, "echo shared > /root/shared; sync")
    access.disconnect()
    instance.snapshot("shared")
    sh(access, "rm /root/shared; sync")
    made.cloud.existing(instance.id).revert("shared")
    login()
    assert sh(access, "cat /root/shared") == "shared"


def test_a_dead_qemu_is_named(plain: artifact.Artifact, tmp_path: Path) -> None:
    made = Bench(tmp_path / "run")
    with made.stack:
        instance = made.boot(plain)
        instance.snapshot("early")
        os.kill(int(instance.facts["process"]), signal.SIGKILL)
        with pytest.raises(InstanceError, match="its QEMU process"):
            _until_raises(instance)
        for operation in (instance.rebuild, lambda: instance.revert("early"), lambda: instance.snapshot("x")):
            with pytest.raises(InstanceError, match="its QEMU process was killed by SIGKILL"):
                operation()


def test_a_rebuilt_guest_s_first_seen_host_key_is_seen_anew(plain: artifact.Artifact, tmp_path: Path) -> None:
    with guest(tmp_path / "run", plain, ssh_host_key="first-seen") as (made, instance, access):
        first = access.known_hosts.read_text()
        instance.rebuild()
        access.trust(instance.host_keys)
        access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
        assert access.known_hosts.read_text() not in {"", first}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small filesystem")
def test_a_full_disk_is_named_and_the_guest_runs_on(plain: artifact.Artifact, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=30m", "small", str(small)])
    try:
        with guest(small / "run", plain) as (_, instance, access):
            before = boot_id(access)
            with pytest.raises(InstanceError, match="QEMU cannot take a snapshot: ") as caught:
                instance.snapshot("large")
            assert "TMPDIR" in str(caught.value)
            # The room that is left is the guest's: its writes must not halt it.
            sh(access, "dd if=/dev/urandom of=/root/more bs=64k count=32 && sync")
            assert boot_id(access) == before
            instance.check()
    finally:
        process.run(["umount", str(small)])


PRISTINE_TESTS = """
import time
import pytest

pristine = pytest.mark.dib_pristine

def boots(instance):
    # Not by the boot id: a kernel makes it when it is first read, which is after the snapshot.
    return instance.console_output().count(f"micro: {instance.name} ready")

def assert_clock(access):
    before = time.time()
    guest = int(access.run("date +%s", check=True).output)
    # It was told a time that had to travel; one that was told none is behind by what test_use slept.
    assert before - 6 <= guest <= time.time() + 2

def test_use(host):
    host.check_output("touch /root/used /run/used && sync")
    time.sleep(10)

@pristine
def test_after_use(host, ssh_access, instance):
    assert not host.file("/root/used").exists
    assert not host.file("/run/used").exists
    assert boots(instance) == 1
    assert_clock(ssh_access)
    host.check_output("touch /root/used && sync")

@pristine
def test_after_marked(ssh_client):
    _, out, _ = ssh_client.exec_command("ls /root")
    assert b"used" not in out.read()

def test_rebuild(rebuild, host, instance):
    host.check_output("touch /root/used && sync")
    assert rebuild(timeout=180) > 1
    assert not host.file("/root/used").exists
    assert boots(instance) == 2

def test_revert(revert, instance, host):
    host.check_output("touch /root/rebuilt && sync")
    instance.snapshot("here")
    host.check_output("touch /root/later && sync")
    assert revert("here") < 60
    assert host.file("/root/rebuilt").exists
    assert not host.file("/root/later").exists

@pristine
def test_after_a_rebuild(host, instance):
    assert not host.file("/root/rebuilt").exists
    assert boots(instance) == 2
"""


def test_marked_tests_get_the_instance_as_it_first_was(micro_files: Path, tmp_path: Path) -> None:
    operator = Operator(path=tmp_path)
    operator.write("test_it.py", PRISTINE_TESTS)
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    finished = operator.pytest("--junit-xml=junit.xml")
    assert finished.code == 0, finished.output
    assert "6 passed" in finished.output
    facts = operator.junit()["test_after_a_rebuild[micro]"]
    assert 0 < float(facts["dib_seconds_pristine"]) < 60


def _until_raises(instance: QemuInstance) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        instance.check()
        time.sleep(0.05)
