"""Parts of the local cloud that need no guest: seed, command line, console, accelerator, state, process."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from pytest_dibctl.clouds import seed
from pytest_dibctl.clouds.console import Console
from pytest_dibctl.clouds.local import mac_address, unchanged
from pytest_dibctl.clouds.protocols import CloudImage
from pytest_dibctl.clouds.qemu import accel, confinement, guest, launch, machine, network, qmp
from pytest_dibctl.clouds.qemu.cloud import QemuCloud
from pytest_dibctl.clouds.qemu.state import State, read_state
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ConfigError, InstanceError, NotInConfigError, PreflightError
from pytest_dibctl.guest.boot_causes import Proof
from pytest_dibctl.guest.console import clean
from pytest_dibctl.guest.keys import make_key
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.system import distribution, package_names, process
from tests.support.uploads import upload_request

UUID = "6f1c2b1e-7d0a-4c57-9e53-000000000001"


def identity(**fields: Any) -> seed.Identity:
    private, public = make_key("guest-1")
    given: dict[str, Any] = {
        "uuid": UUID,
        "name": "guest-1",
        "mac": "52:54:00:6f:1c:2b",
        "key_name": "run-key",
        "public_key": "ssh-ed25519 AAAA run-key",
        "host_key": seed.HostKey(private=private, public=public),
    }
    return seed.Identity(**{**given, **fields})


class TestSeed:
    def test_nocloud_configures_a_device_only_where_it_is_named(self) -> None:
        plain = seed.documents("nocloud", identity())
        named = seed.documents("nocloud", identity(device="eth0"))
        assert set(named) - set(plain) == {"network-config"}
        assert yaml.safe_load(named["network-config"])["ethernets"] == {"eth0": {"dhcp4": True}}
        assert yaml.safe_load(named["meta-data"])["dsmode"] == "local"
        assert "dsmode" not in yaml.safe_load(plain["meta-data"])

    def test_nocloud_names_the_instance_and_gives_the_key(self) -> None:
        meta = yaml.safe_load(seed.documents("nocloud", identity())["meta-data"])
        assert meta == {
            "instance-id": UUID,
            "local-hostname": "guest-1",
            "public-keys": ["ssh-ed25519 AAAA run-key"],
        }

    def test_config_drive_names_the_instance_and_gives_the_key(self) -> None:
        files = seed.documents("configdrive", identity())
        meta = json.loads(files["openstack/latest/meta_data.json"])
        assert (meta["uuid"], meta["name"], meta["hostname"]) == (UUID, "guest-1", "guest-1")
        assert meta["public_keys"] == {"run-key": "ssh-ed25519 AAAA run-key"}
        network = json.loads(files["openstack/latest/network_data.json"])
        assert network["links"][0]["ethernet_mac_address"] == "52:54:00:6f:1c:2b"
        assert network["networks"][0]["link"] == network["links"][0]["id"]

    @pytest.mark.parametrize("kind", ["nocloud", "configdrive"])
    def test_host_key_travels_as_vendor_data(self, kind: seed.SeedKind) -> None:
        given = identity()
        files = seed.documents(kind, given)
        text = (
            files["vendor-data"]
            if kind == "nocloud"
            else json.loads(files["openstack/latest/vendor_data.json"])["cloud-init"]
        )
        assert text.startswith("#cloud-config\n")
        keys = yaml.safe_load(text)["ssh_keys"]
        assert given.host_key is not None
        assert keys["ed25519_private"] == given.host_key.private
        assert keys["ed25519_public"].strip() == given.host_key.public

    def test_guest_makes_its_own_host_key_if_none_is_given(self) -> None:
        assert "ssh_keys" not in seed.documents("nocloud", identity(host_key=None))["vendor-data"]

    @pytest.mark.parametrize(
        ("kind", "name"), [("nocloud", "user-data"), ("configdrive", "openstack/latest/user_data")]
    )
    def test_user_data_is_untouched(self, kind: seed.SeedKind, name: str) -> None:
        text = "#!/bin/sh\necho äöü\n"
        assert seed.documents(kind, identity(user_data=text))[name] == text

    def test_written_image_can_be_read_back(self, tmp_path: Path) -> None:
        given = identity(user_data="x")
        seed.write(tmp_path / "seed.iso", "configdrive", given)
        image = pycdlib.PyCdlib()
        image.open(str(tmp_path / "seed.iso"))
        try:
            for name, text in seed.documents("configdrive", given).items():
                sink = io.BytesIO()
                image.get_file_from_iso_fp(sink, rr_path=f"/{name}")
                assert sink.getvalue().decode() == text
            assert image.pvd.volume_identifier.strip() == b"config-2"
        finally:
            image.close()

    def test_file_is_private_and_never_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "seed.iso"
        seed.write(path, "nocloud", identity())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(FileExistsError):
            seed.write(path, "nocloud", identity())

    @pytest.mark.skipif(shutil.which("blkid") is None, reason="needs blkid")
    @pytest.mark.parametrize(("kind", "label"), [("nocloud", "cidata"), ("configdrive", "config-2")])
    def test_label_is_what_guests_look_for(self, tmp_path: Path, kind: seed.SeedKind, label: str) -> None:
        seed.write(tmp_path / "seed.iso", kind, identity())
        assert f'LABEL="{label}"' in process.run(["blkid", "-p", str(tmp_path / "seed.iso")]).output


INHERITED = machine.Inherited(console=7, control=8, image=9)


def spec(**fields: Any) -> machine.Machine:
    given: dict[str, Any] = {
        "uuid": UUID,
        "name": "guest-1",
        "arch": "x86_64",
        "accelerator": "tcg",
        "memory": 512,
        "vcpus": 2,
        "mac": "52:54:00:00:00:01",
    }
    return machine.Machine(**{**given, **fields})


def after(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


class TestCommandLine:
    def test_whole_disk_is_left_to_the_firmware(self) -> None:
        argv = spec().argv(INHERITED)
        assert "-kernel" not in argv
        assert "bootindex=1" in next(device for device in after(argv, "-device") if "drive=disk" in device)

    def test_kernel_is_booted_directly(self) -> None:
        argv = spec(kernel=Path("/k"), initrd=Path("/i"), cmdline="root=/dev/vda ro").argv(INHERITED)
        assert after(argv, "-kernel") == ["/k"]
        assert after(argv, "-initrd") == ["/i"]
        assert after(argv, "-append") == ["root=/dev/vda ro"]

    def test_kernel_without_initrd(self) -> None:
        assert "-initrd" not in spec(kernel=Path("/k")).argv(INHERITED)

    @pytest.mark.parametrize(
        ("arch", "accelerator", "accel_", "cpu"),
        [
            ("x86_64", "tcg", "tcg,thread=multi,tb-size=128", "max"),
            ("x86_64", "kvm", "kvm", "host"),
            ("aarch64", "tcg", "tcg,thread=multi,tb-size=128", "max,pauth-impdef=on"),
        ],
    )
    def test_accelerator_and_cpu(self, arch: str, accelerator: str, accel_: str, cpu: str) -> None:
        argv = spec(arch=arch, accelerator=accelerator).argv(INHERITED)
        assert after(argv, "-accel") == [accel_]
        assert after(argv, "-cpu") == [cpu]

    def test_forwards_are_on_loopback_unless_qemu_has_a_network_of_its_own(self) -> None:
        assert machine.Forward(guest=22).rule() == "tcp:127.0.0.1:0-:22"
        assert machine.Forward(guest=80, host=8080).rule() == "tcp:127.0.0.1:8080-:80"
        assert "hostfwd" not in after(spec().argv(INHERITED), "-netdev")[0]

    def test_system_calls_are_filtered(self) -> None:
        assert after(spec().argv(INHERITED), "-sandbox") == [machine.SANDBOX]
        assert "elevateprivileges=deny,spawn=deny" in machine.SANDBOX

    def test_format_of_the_image_is_named(self) -> None:
        disk = json.loads(after(spec(image_format="raw").argv(INHERITED), "-blockdev")[0])
        assert disk["backing"]["driver"] == "raw"
        assert disk["backing"]["read-only"] is True

    def test_seed_is_read_only_and_second(self) -> None:
        disks = [json.loads(text) for text in after(spec().argv(INHERITED), "-blockdev")]
        assert [disk["node-name"] for disk in disks] == ["disk", "seed"]
        assert disks[1]["read-only"] is True

    def test_serial_console_of_the_architecture(self) -> None:
        line = "root=/dev/vda rw console=ttyS0"
        assert machine.kernel_cmdline(line, "x86_64") == line
        assert machine.kernel_cmdline(line, "aarch64") == "root=/dev/vda rw console=ttyAMA0"

    def test_mac_is_of_the_instance(self) -> None:
        assert mac_address(UUID) == "52:54:00:6f:1c:2b"

    @pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
    def test_qemu_accepts_it(self, tmp_path: Path) -> None:
        process.run(["qemu-img", "create", "-q", "-f", "qcow2", "image", "16M"], cwd=tmp_path)
        backing = ["-F", "qcow2", "-b", str(tmp_path / "image")]
        process.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, machine.DISK], cwd=tmp_path)
        seed.write(tmp_path / machine.SEED, "nocloud", identity())
        child = launch.start(
            spec(memory=64), tmp_path / "image", tmp_path, keepable=False, host_loopback=True
        )
        try:
            control = tmp_path / machine.CONTROL
            ports = network.HostNetwork(tmp_path)
            ports.publish(22)
            assert list(ports.published()) == [22]
            assert ports.published()[22] > 1023
            with pytest.raises(qmp.QmpError, match="QEMU refused nonsense"):
                qmp.execute(control, "nonsense")
        finally:
            child.kill()
        assert child.ended() == "exited with 0"
        with pytest.raises(qmp.QmpError, match="does not answer"):
            qmp.execute(control, "query-status")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
@pytest.mark.parametrize(
    ("host_loopback", "broken", "said"),
    [
        (False, ["--ro-bind", "/nowhere", "/nowhere"], "Can't find source path /nowhere"),
        (False, ["--no-such-option"], "Unknown option --no-such-option"),
        (True, ["--no-such-option"], "Unknown option --no-such-option"),
    ],
)
def test_a_sandbox_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: list[str], said: str, *, host_loopback: bool
) -> None:
    (tmp_path / "image").touch()
    (tmp_path / machine.DISK).touch()
    (tmp_path / machine.SEED).touch()
    known = confinement._bwrap
    monkeypatch.setattr(confinement, "_bwrap", lambda **given: [*known(**given), *broken])
    with pytest.raises(InstanceError) as caught:
        launch.start(spec(), tmp_path / "image", tmp_path, keepable=False, host_loopback=host_loopback).kill()
    assert said in caught.value.message
    assert "sandbox could not be made" in caught.value.message


@pytest.mark.parametrize("missing", ["bwrap", "slirp4netns", "ip"])
def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    known = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **given: None if name == missing else known(name, **given)
    )
    with pytest.raises(PreflightError, match=f"{missing}: not found") as caught:
        confinement.require(host_loopback=False)
    assert str(package_names.package_of(missing)) in str(caught.value.hint)
    if missing != "bwrap":
        confinement.require(host_loopback=True)


PANIC = (
    '[    1.2] VFS: Cannot open root device "vdz" or unknown-block(0,0): error -6\n'
    "[    1.3] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"
)


class Clock:
    """A clock that stands until it is put on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def yes(_proof: Proof) -> bool:
    return True


class TestConsole:
    def test_escapes_and_carriage_returns_go(self) -> None:
        raw = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSea\x1b[1;31mBIOS\x1b[m\r\n\x1b]0;title\x07next\r\r\nlast\x00\xff"
        assert clean(raw) == "SeaBIOS\nnext\nlast\ufffd"

    def test_no_file_is_an_empty_console(self, tmp_path: Path) -> None:
        console = Console(tmp_path / "none")
        assert (console.text(), console.excerpt(), console.trouble(yes)) == ("", "", None)

    def test_message_cut_in_two_is_recognised(self, tmp_path: Path) -> None:
        clock = Clock()
        console = Console(tmp_path / "console", clock=clock)
        self.append(console, "[ 1.0] Kernel panic - not")
        assert console.trouble(yes) is None
        self.append(console, " syncing: Attempted to kill init!\n")
        console.trouble(yes)
        clock.now += 1
        found = console.trouble(yes)
        assert found is not None
        assert (found.id, found.line) == ("kernel-panic", 1)

    def test_only_new_text_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        console = Console(tmp_path / "console")
        self.append(console, "x" * 1000)
        console.trouble(yes)
        read: list[int] = []
        inner = console._read_from

        def counting(offset: int) -> Iterator[bytes]:
            for piece in inner(offset):
                read.append(len(piece))
                yield piece

        monkeypatch.setattr(console, "_read_from", counting)
        self.append(console, "y" * 10)
        console.trouble(yes)
        assert read == [10]

    def test_trouble_of_the_boot_before_is_forgotten(self, tmp_path: Path) -> None:
        clock = Clock()
        console = Console(tmp_path / "console", clock=clock)
        self.append(console, PANIC)
        console.trouble(yes)
        console.forget()
        self.append(console, "SeaBIOS\n")
        clock.now += 60
        assert console.trouble(yes) is None

    def test_a_panic_is_believed_once_the_console_is_silent(self, tmp_path: Path) -> None:
        clock = Clock()
        console = Console(tmp_path / "console", clock=clock)
        self.append(console, PANIC)
        assert console.trouble(yes) is None
        clock.now += 0.5
        self.append(console, "[    1.4] Call Trace:\n")
        assert console.trouble(yes) is None
        clock.now += 0.7
        found = console.trouble(yes)
        assert found is not None
        assert found.id == "root-not-found"

    def test_a_panic_that_the_machine_does_not_bear_out_is_not_believed(self, tmp_path: Path) -> None:
        clock = Clock()
        console = Console(tmp_path / "console", clock=clock)
        asked: list[Proof] = []

        def no(proof: Proof) -> bool:
            asked.append(proof)
            return False

        self.append(console, PANIC)
        for _ in range(40):
            assert console.trouble(no) is None
            clock.now += 0.25
        assert set(asked) == {Proof.KERNEL}
        assert len(asked) <= 11  # and is looked into once a second only

    @pytest.mark.parametrize(("lines", "believed"), [(5, True), (40, False)])
    def test_a_shell_s_words_are_its_last(self, tmp_path: Path, lines: int, *, believed: bool) -> None:
        clock = Clock()
        console = Console(tmp_path / "console", clock=clock)
        self.append(console, "You are in emergency mode. After logging in, type journalctl\n")
        assert console.trouble(yes) is None
        self.append(console, "".join(f"[  OK  ] Started service {number}.\n" for number in range(lines)))
        self.append(console, "[    9.9] random: crng init done\n" * 40)
        console.trouble(yes)
        clock.now += 6
        assert (console.trouble(yes) is not None) is believed

    def test_excerpt_ends_soon_after_the_cause(self, tmp_path: Path) -> None:
        console = Console(tmp_path / "console")
        before = "".join(f"before {number}\n" for number in range(50))
        trace = "".join(f"trace {number}\n" for number in range(50))
        self.append(console, before + PANIC + trace)
        lines = console.excerpt(around=52).splitlines()
        assert len(lines) == 20
        assert "Kernel panic" in lines[-6]
        assert lines[-1] == "trace 4"

    def test_excerpt_without_cause_is_the_end(self, tmp_path: Path) -> None:
        console = Console(tmp_path / "console")
        self.append(console, "".join(f"line {number}\n\n" for number in range(50)))
        assert console.excerpt(3).splitlines() == ["line 47", "line 48", "line 49"]

    @staticmethod
    def append(console: Console, text: str) -> None:
        with console.path.open("a") as file:
            file.write(text)


needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")


class TestAccelerator:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    @needs_qemu
    def test_payload_runs_to_its_end_where_guests_run(self) -> None:
        assert accel.run_payload("x86_64", "tcg", deadline=60).usable

    @needs_qemu
    def test_payload_that_does_not_end_is_no_kvm(self) -> None:
        verdict = accel.run_payload("x86_64", "tcg", deadline=0.05)
        assert not verdict.usable
        assert "did not get through" in verdict.reason

    def test_payload_is_its_source_assembled(self, tmp_path: Path) -> None:
        if (
            any(shutil.which(tool) is None for tool in ("as", "ld", "objcopy"))
            or machine.native_arch() != "x86_64"
        ):
            pytest.skip("needs binutils for x86_64")
        source = Path(accel.__file__).with_name("kvm_probe.S")
        process.run(["as", str(source), "-o", "probe.o"], cwd=tmp_path)
        process.run(["ld", "-Ttext", "0x7c00", "-e", "start", "-o", "probe.elf", "probe.o"], cwd=tmp_path)
        process.run(["objcopy", "-O", "binary", "-j", ".text", "probe.elf", "probe.bin"], cwd=tmp_path)
        assert (tmp_path / "probe.bin").read_bytes() == accel._BOOT_SECTOR

    def test_no_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accel, "DEVICE", tmp_path / "kvm")
        assert accel.choose("auto", machine.native_arch()).accelerator == "tcg"
        with pytest.raises(PreflightError, match="there is no"):
            accel.choose("kvm", machine.native_arch())

    def test_foreign_architecture_is_emulated(self) -> None:
        foreign: machine.Arch = "aarch64" if machine.native_arch() == "x86_64" else "x86_64"
        assert accel.choose("auto", foreign).accelerator == "tcg"
        with pytest.raises(PreflightError, match="the guest"):
            accel.choose("kvm", foreign)

    def test_verdict_is_found_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        device = tmp_path / "kvm"
        device.touch()
        monkeypatch.setattr(accel, "DEVICE", device)
        runs: list[str] = []

        def payload(arch: str, _: str) -> accel.Verdict:
            runs.append(arch)
            return accel.Verdict(usable=True, reason="it ran")

        monkeypatch.setattr(accel, "run_payload", payload)
        native = machine.native_arch()
        assert [accel.choose("auto", native).accelerator for _ in range(3)] == ["kvm"] * 3
        assert runs == [native]
        accel.probe_kvm(fresh=True)
        assert len(runs) == 2

    def test_damaged_cache_is_no_obstacle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        device = tmp_path / "kvm"
        device.touch()
        monkeypatch.setattr(accel, "DEVICE", device)
        monkeypatch.setattr(accel, "run_payload", lambda *_: accel.Verdict(usable=False, reason="no"))
        cache = accel._cache_file(machine.native_arch())
        cache.parent.mkdir(parents=True)
        cache.write_text("{")
        assert not accel.probe_kvm().usable
        assert json.loads(cache.read_text())["reason"] == "no"


USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   17       127.0.0.1 41039       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  14       127.0.0.1 45897       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]   8       127.0.0.1 40729       10.0.2.15    22     0     0
  UDP[236 sec]       15       10.0.2.15 38211        10.0.2.3    53     0     0
"""


def test_forwards_are_read_from_the_monitor() -> None:
    assert network.forwards(USERNET, "127.0.0.1") == {80: 45897, 22: 40729}


def state(**fields: Any) -> State:
    given: dict[str, Any] = {
        "id": UUID,
        "name": "guest-1",
        "environment": "local",
        "arch": "x86_64",
        "accelerator": "tcg",
        "reason": "asked for",
        "memory": 512,
        "vcpus": 1,
        "disk": 5,
        "mac": "52:54:00:00:00:01",
        "image": "/i.qcow2",
        "private_key_file": "/k",
        "host_keys": ("ssh-ed25519 AAAA",),
        "first_seen": False,
    }
    return State(**{**given, **fields})


class TestState:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        state(pid=7).write(tmp_path)
        assert read_state(tmp_path) == state(pid=7)
        assert [path.name for path in tmp_path.iterdir()] == ["instance.json"]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NotInConfigError, match="no instance is recorded"):
            read_state(tmp_path)

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"version": 1, "host_keys": []}', '{"version": 99, "host_keys": []}']
    )
    def test_of_another_kind(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "instance.json").write_text(text)
        with pytest.raises(NotInConfigError, match="not the record of an instance"):
            read_state(tmp_path)


class TestProcess:
    @pytest.fixture
    def sleeper(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        code = "import time; print(flush=True); time.sleep(60)"
        program = tmp_path / "qemu-system-fake"
        program.symlink_to(sys.executable)
        with process.spawn([str(program), "-c", code, "-uuid", UUID], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()  # until the kernel shows the new command line
            yield child

    def test_is_known_by_the_uuid_on_its_command_line(self, sleeper: subprocess.Popen[str]) -> None:
        assert guest.is_guest(sleeper.pid, UUID)
        assert not guest.is_guest(sleeper.pid, UUID[:-1])
        assert not guest.is_guest(os.getpid(), UUID)

    def test_is_found_without_a_recorded_pid(self, sleeper: subprocess.Popen[str]) -> None:
        found = guest.find(UUID, None)
        assert found is not None
        assert found.pid == sleeper.pid

    def test_recorded_pid_of_another_process_is_not_believed(self) -> None:
        assert guest.find(UUID, os.getpid()) is None

    def test_zombie_is_not_alive(self, sleeper: subprocess.Popen[str]) -> None:
        stranger = guest.Stranger(UUID, sleeper.pid)
        assert stranger.ended() is None
        stranger.kill()  # nobody waits for it: it stays as a zombie
        assert stranger.ended() == "is gone"
        assert stranger.wait(30)


def environment(**qemu: Any) -> Entry[TestEnvironment]:
    return Entry(
        label="here",
        settings=TestEnvironment.model_validate({"qemu": qemu}),
        path=Path("/nowhere/test.yaml"),
    )


def built(path: Path, **fields: Any) -> Artifact:
    given: dict[str, Any] = {
        "disk_format": "qcow2",
        "size": 1,
        "virtual_size": 1,
        "sha512": "0",
        "layout": "disk",
    }
    return Artifact(path=path, **{**given, **fields})


@needs_qemu
class TestPreflight:
    def cloud(self, directory: Path, **qemu: Any) -> QemuCloud:
        return QemuCloud(environment(**{"arch": "x86_64", **qemu}), directory=directory, cwd=directory)

    def test_unknown_format(self, tmp_path: Path) -> None:
        with pytest.raises(PreflightError, match="this is dmg"):
            self.cloud(tmp_path).check(built(tmp_path / "x.dmg", disk_format="dmg"), upload_request())

    def test_filesystem_without_kernel(self, tmp_path: Path) -> None:
        with pytest.raises(PreflightError, match="no kernel lies beside") as caught:
            self.cloud(tmp_path).check(built(tmp_path / "x.qcow2", layout="filesystem"), upload_request())
        assert "x.vmlinuz and x.initrd" in str(caught.value)

    def test_missing_user_data_says_where_it_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"here\.qemu\.userdata_file.*No such file"):
            self.cloud(tmp_path, userdata_file="none").check(built(tmp_path / "x.qcow2"), upload_request())

    def test_qemu_of_another_architecture_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process, "tool_path", lambda: str(tmp_path))
        with pytest.raises(PreflightError, match="qemu-system-aarch64") as caught:
            self.cloud(tmp_path, arch="aarch64").check(built(tmp_path / "x.qcow2"), upload_request())
        packages = sorted(str(package_names.package_of(name)) for name in ("qemu-system-aarch64", "qemu-img"))
        assert str(caught.value.hint).endswith(" ".join(packages))

    @pytest.mark.parametrize(
        ("family", "hint"),
        [
            (distribution.FEDORA, "dnf install qemu-img qemu-system-x86-core"),
            (distribution.SUSE, "zypper install --no-recommends qemu-img qemu-x86"),
            (distribution.RHEL, "dnf install qemu-img; this distribution has no QEMU for whole machines"),
        ],
    )
    def test_a_missing_qemu_is_told_with_this_distribution_s_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: distribution.Family, hint: str
    ) -> None:
        monkeypatch.setattr(process, "tool_path", lambda: str(tmp_path))
        monkeypatch.setattr(distribution, "family", lambda: family)
        with pytest.raises(PreflightError) as caught:
            machine.require_tools("x86_64")
        assert str(caught.value.hint).startswith(hint)

    def test_aarch64_needs_a_kernel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "require_tools", lambda _: None)
        with pytest.raises(PreflightError, match="aarch64 guests boot by their kernel"):
            self.cloud(tmp_path, arch="aarch64").check(built(tmp_path / "x.qcow2"), upload_request())

    def test_image_of_another_cloud_is_refused(self) -> None:
        with pytest.raises(InstanceError, match="was not made by"):
            unchanged(CloudImage(id="1", name="x", disk_format="raw", sha512="0"))
