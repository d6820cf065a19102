"""Real guests that go on from a ready state: what is new in each, and what happens where that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.clouds.protocols import BootRequest, Warm
from pytest_dibctl.clouds.qemu.cloud import QemuInstance
from pytest_dibctl.clouds.qemu.ready_store import ReadyState, ReadyStore
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import files, process
from tests.qemu.test_end_to_end import Operator
from tests.qemu.test_qemu_cloud import READY, Bench
from tests.support import waiting
from tests.support.uploads import upload_request

pytestmark = pytest.mark.real

# At its first boot the guest gets a machine id, and a DHCP client that stays and counts its leases.
USER_DATA = r"""#!/bin/sh
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > /etc/machine-id
cat > /root/lease <<'END'
#!/bin/sh
case $1 in bound|renew) echo "$1" >> /run/leases ;; esac
END
chmod 755 /root/lease
udhcpc -i eth0 -b -s /root/lease > /dev/null 2>&1
"""


class WarmBench(Bench):
    """A bench whose guests may be warm; each run of the tests' is another."""

    def __init__(self, directory: Path, name: str, **qemu: object) -> None:
        super().__init__(directory, **{"userdata": USER_DATA, "forward_ports": [{"guest": 8080}], **qemu})
        self.name = name

    def start(self, built: artifact.Artifact, warm: Warm = "resume") -> QemuInstance:
        image = self.cloud.upload(built, upload_request(), progress=self.told.append)
        request = BootRequest(
            name=self.name,
            key=self.key,
            key_name=self.key.name,
            deadlines=Deadlines(port=READY),
            warm=warm,
        )
        instance = self.cloud.boot(image, request, progress=self.told.append)
        self.stack.callback(instance.delete)
        return instance

    def login(self, instance: QemuInstance, **fields: object) -> SshAccess:
        access = self.access(instance, **fields)
        access.wait_ready(
            timeout=READY, check=instance.check, progress=self.told.append, listening=instance.resumed
        )
        return access


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    """What was true in the guest whose state was kept."""

    key: SshKey
    name: str
    facts: dict[str, str]
    made: float


Start = Callable[..., WarmBench]


@pytest.fixture(scope="module")
def plain(micro_files: Path) -> artifact.Artifact:
    return artifact.inspect(micro_files / "micro.qcow2")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def sh(access: SshAccess, command: str) -> str:
    return access.run(command, check=True, timeout=60).output.strip()


def facts(access: SshAccess, instance: QemuInstance) -> dict[str, str]:
    """Return what must differ between two guests."""
    # First of all: what both would draw if their kernels went on from the same numbers.
    random = sh(access, "head -c 32 /dev/urandom | od -An -tx1")
    scanned = process.run(["ssh-keyscan", "-t", "ed25519", "-p", str(access.port), access.ip]).output
    return {
        "random numbers": random,
        "hostname": sh(access, "hostname"),
        "machine id": sh(access, "cat /etc/machine-id"),
        "host key": scanned.split()[-1],
        "login key": sh(access, "cat /root/.ssh/authorized_keys"),
        "instance": instance.id,
    }


@pytest.fixture(scope="module")
def first(plain: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> First:
    """A guest that booted, was kept and is gone."""
    made = WarmBench(tmp_path_factory.mktemp("first") / "run", "dibctl-first-00000001")
    with made.stack:
        instance = made.start(plain)
        access = made.login(instance)
        assert not instance.resumed
        found = facts(access, instance)
        assert instance.may_keep_ready
        instance.keep_ready(access)
        assert not instance.may_keep_ready
        # The guest goes on as it was, on time, and nothing of ours is left in it.
        later = facts(access, instance)
        assert {name for name in found if later[name] != found[name]} == {"random numbers"}
        assert abs(int(sh(access, "date -u +%s")) - time.time()) < 5
        assert sh(access, "ls -a /run /tmp /var/tmp /root | grep -c dibctl || true") == "0"
        assert sh(access, "ps | grep -c '[d]ibctl-end' || true") == "0"
        return First(key=made.key, name=instance.name, facts=found, made=time.time())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(name)``: a run of its own."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "dibctl-later-00000002", **qemu: object) -> WarmBench:
            made = WarmBench(tmp_path / name, name, **qemu)
            stack.callback(made.stack.close)
            return made

        yield make


def hello(ip: str, port: int) -> bool:
    with socket.create_connection((ip, port), timeout=60) as connection:
        return connection.recv(10) == b"hello\n"


def the_state() -> ReadyState:
    """Return the state of the first guest; a test with other settings may have kept another one."""
    (state,) = (state for state in ReadyStore().things() if state.about.name == "dibctl-first-00000001")
    return state


def test_two_guests_of_one_state_are_not_each_other_nor_the_first(
    first: First, plain: artifact.Artifact, start: Start
) -> None:
    benches = [start("dibctl-one-00000002"), start("dibctl-two-00000003")]
    instances = [made.start(plain) for made in benches]
    accesses = [made.login(instance) for made, instance in zip(benches, instances, strict=True)]
    found = [facts(access, instance) for access, instance in zip(accesses, instances, strict=True)]
    for fact in first.facts:
        assert len({first.facts[fact], found[0][fact], found[1][fact]}) == 3, fact
    for made, instance, access, new in zip(benches, instances, accesses, found, strict=True):
        assert instance.resumed
        assert "resumed from a ready state" in instance.facts["start"]
        assert new["hostname"] == made.name == sh(access, "cat /etc/hostname")
        assert sh(access, "cat /etc/hosts") == f"127.0.0.1 localhost\n127.0.1.1 {made.name}"
        assert new["login key"].split()[:2] == made.key.public_key.split()[:2]
        assert new["host key"] == instance.host_keys.known[0].split()[1]
        assert abs(int(sh(access, "date -u +%s")) - time.time()) < 5
        assert sh(access, "cat /sys/class/net/eth0/address") == instance.interfaces[0].mac
        assert sh(access, "ls -a /run /tmp /var/tmp /root | grep dibctl || true") in {"", ".dibctl-reseed"}
        assert sh(access, "cat /sys/block/vda/size") == str((1 << 30) // 512)
        sh(access, "(while true; do echo hello | nc -l -p 8080; done) > /dev/null 2>&1 < /dev/null &")
        page = instance.endpoint(8080)
        waiting.until(functools.partial(hello, page.ip, page.port))


def test_the_key_of_the_first_run_opens_no_later_guest(
    first: First, plain: artifact.Artifact, start: Start
) -> None:
    made = start()
    instance = made.start(plain)
    made.login(instance)
    for username in ("root", "debian"):
        old = made.access(instance, name=f"old-{username}", key=first.key, username=username)
        outcome, text = old.try_login(timeout=60)
        assert "denied" in text, outcome
        new = made.access(instance, name=f"new-{username}", username=username)
        assert new.run("id -un", timeout=60).output.strip() == username


def test_the_lease_is_asked_for_anew(first: First, plain: artifact.Artifact, start: Start) -> None:
    del first
    made = start()
    instance = made.start(plain)
    access = made.login(instance)
    deadline = time.monotonic() + 60
    while "renew" not in sh(access, "cat /run/leases") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert sh(access, "tail -n 1 /run/leases") == "renew"


def test_a_rebuild_is_a_first_boot_of_this_instance(
    first: First, plain: artifact.Artifact, start: Start
) -> None:
    del first
    made = start()
    instance = made.start(plain)
    access = made.login(instance)
    before = facts(access, instance)
    sh(access, "echo here > /root/before; sync")
    access.disconnect()
    instance.snapshot("resumed")

    instance.rebuild()
    assert not instance.resumed
    access.trust(instance.host_keys)
    access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append)
    after = facts(access, instance)
    assert instance.console_output().count(f"micro: {instance.name} ready") == 1
    assert access.run("ls /root/before").output == ""
    assert after["machine id"] != before["machine id"]
    assert {name: after[name] for name in ("hostname", "host key")} == {
        name: before[name] for name in ("hostname", "host key")
    }

    access.disconnect()
    instance.revert("resumed")
    assert instance.resumed
    access.wait_ready(timeout=READY, check=instance.check, progress=made.told.append, listening=True)
    assert sh(access, "cat /root/before") == "here"


def test_one_that_has_to_boot_does_and_makes_no_second_state(
    first: First, plain: artifact.Artifact, start: Start
) -> None:
    del first
    made = start()
    instance = made.start(plain, "leave")
    assert not instance.resumed
    assert not instance.may_keep_ready
    made.login(instance)
    assert instance.console_output().count(f"micro: {instance.name} ready") == 1


def test_other_settings_are_another_state(first: First, plain: artifact.Artifact, start: Start) -> None:
    del first
    made = start(memory=192)
    instance = made.start(plain)
    assert not instance.resumed
    assert instance.may_keep_ready


def flip(state: ReadyState) -> None:
    with state.disk.open("r+b") as file:
        file.seek(state.about.size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def empty(state: ReadyState) -> None:
    """Have a disk without any state, told of as if it were whole."""
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(state.disk), "1G"])
    retell(state)


def text(state: ReadyState) -> None:
    """Have something else than a disk."""
    state.disk.write_text("no disk\n" * 1000)
    retell(state)


def retell(state: ReadyState) -> None:
    told = dataclasses.replace(state.about, size=state.disk.stat().st_size, sha256=files.sha256(state.disk))
    (state.path / "about.json").write_text(json.dumps(dataclasses.asdict(told)))


@pytest.fixture
def copied(first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadyStore:
    """A cache with a copy of the state, to be spoilt."""
    del first
    whole = the_state()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = ReadyStore()
    store.make()
    shutil.copy(whole.path.parent / "salt", store.directory)  # or the key would be another one
    store.lock_file(whole.key)
    store.take_in(whole.disk, whole.key, whole.about)
    return store


@pytest.mark.parametrize("spoil", [flip, empty, text])
def test_a_state_that_cannot_be_used_means_a_boot_and_one_line(
    plain: artifact.Artifact, start: Start, copied: ReadyStore, spoil: Callable[[ReadyState], None]
) -> None:
    spoil(the_state())
    made = start()
    instance = made.start(plain)
    assert not instance.resumed
    (line,) = [line for line in made.told if line.startswith("booting, since")]
    assert "\n" not in line
    assert copied.things() == []
    made.login(instance)


def test_a_guest_that_cannot_be_renewed_is_not_kept_and_goes_on(
    plain: artifact.Artifact, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = start()
    instance = made.start(plain)
    access = made.login(instance, username="debian")
    with pytest.raises(DibctlError, match=r"sudo"):
        instance.keep_ready(access)
    assert ReadyStore().things() == []
    assert sh(access, "id -un") == "debian"
    # Another may try now.
    assert not instance.may_keep_ready


# -- whole runs ------------------------------------------------------------------------------------

RUN_TESTS = """
import pytest

def boots(instance):
    return instance.console_output().count(f"micro: {instance.name} ready")

@pytest.mark.parametrize("number", range(4))
def test_any(host, instance, number):
    assert host.check_output("hostname") == instance.name

@pytest.mark.dib_pristine
def test_pristine(host, instance):
    assert not host.file("/root/used").exists
    host.check_output("touch /root/used && sync")

@pytest.mark.dib_pristine
def test_pristine_again(host, instance):
    assert not host.file("/root/used").exists

@pytest.mark.dib_first_boot
def test_first_boot(host, instance):
    assert boots(instance) == 1
"""


def test_runs_keep_resume_boot_and_share(
    micro_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    operator = Operator(path=tmp_path)
    operator.write("test_it.py", RUN_TESTS)
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    kept = operator.pytest("--dib-warm", "-k", "not first_boot")
    assert kept.code == 0, kept.output
    assert "kept the ready state for later runs" in kept.output
    resumed = operator.pytest("--dib-warm", "-k", "not first_boot", "--junit-xml=junit.xml")
    assert resumed.code == 0, resumed.output
    assert "resumed from a ready state" in resumed.output
    assert operator.junit()["test_any[micro-0]"]["dib_start"].startswith("resumed")
    whole = operator.pytest("--dib-warm", "-n2", "--dib-instances=2", "--basetemp=base")
    assert whole.code == 0, whole.output
    assert "7 passed" in whole.output
    listed = operator.dibctl("cache")
    assert "micro.qcow2" in listed.output
    assert "booted and ready" in listed.output


def test_a_run_killed_while_it_keeps_a_state_leaves_a_cache_that_works(
    micro_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = ReadyStore()
    operator = Operator(path=tmp_path)
    operator.write("test_it.py", "def test_it(ssh_access): assert ssh_access.run('true').returncode == 0")
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    with waiting.ended(
        operator.start(["pytest", "--dib-image=micro", "--dib-build=never", "--dib-warm"])
    ) as child:
        deadline = time.monotonic() + READY
        while not list(store.directory.glob(".*")) and not store.things() and time.monotonic() < deadline:
            time.sleep(0.0005)
        child.kill()
        child.wait()
    again = operator.pytest("--dib-warm")
    assert again.code == 0, again.output
    assert "kept the ready state" in again.output or "resumed from a ready state" in again.output
    (state,) = store.things()
    assert {path.name for path in store.directory.iterdir()} == {state.key, f"{state.key}.lock", "salt"}
