"""The shell code that the generic tests run in guests, run here: by several shells, on files made up."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from testinfra.backend.base import CommandResult
from testinfra.backend.local import LocalBackend
from testinfra.host import Host

from pytest_dibctl.system.process import Result

FOLDER = Path(__file__).parents[2] / "image_tests"
GUESTS = ("dash", "bash", "busybox", "tcsh", "fish")
"""Login shells; the second shell is busybox's in a guest with that, and else the one of this machine."""
APPLETS = ("sh", "cat", "grep", "id", "ip", "readlink", "test")
"""What a guest with busybox has of it."""


def load(name: str) -> ModuleType:
    """Return a file of the generic tests as a module."""
    spec = importlib.util.spec_from_file_location(f"generic_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CONFTEST, CLOCK, NETWORK, PORTS, REBOOT, ROOTFS = map(
    load, ("conftest", "test_clock", "test_network", "test_ports", "test_reboot", "test_rootfs")
)


class Guest(LocalBackend):  # type: ignore[misc]  # testinfra is not typed here
    """This machine as a guest with a certain login shell, and programs of its own before others."""

    def __init__(self, login: str, programs: Path) -> None:
        super().__init__("local")
        self.login, self.programs = login, programs
        if login == "busybox":
            for applet in APPLETS:
                (programs / applet).symlink_to(str(shutil.which("busybox")))

    def program(self, name: str, script: str) -> None:
        """Put a program into the guest; skip the test where the shell has one of that name in it."""
        if self.login == "busybox" and name in APPLETS:
            pytest.skip(f"busybox's shell has {name} in it")
        file = self.programs / name
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def run(self, command: str, *args: str, **_options: Any) -> CommandResult:
        """Run a command as testinfra would over ssh."""
        line = self.get_command(command, *args)
        done = self.login_shell(line)
        return self.result(done.returncode, self.encode(line), done.stdout, done.stderr)

    def login_shell(self, line: str) -> subprocess.CompletedProcess[bytes]:
        """Run a line as sshd would."""
        shell = self.programs / "sh" if self.login == "busybox" else self.login
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(
            [shell, "-c", line], capture_output=True, check=False, env={**os.environ, "PATH": path}
        )


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    programs = tmp_path / "programs"
    programs.mkdir()
    return Guest(request.param, programs)


def card(folder: Path, name: str, mac: str, *, index: int, link: int, **more: str) -> None:
    """Make an interface; one of hardware has a ``device``, one that lies on another a ``lower_NAME``."""
    files = {"address": mac, "ifindex": str(index), "iflink": str(link), **more}
    for file, text in files.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).write_text(f"{text}\n" if file != "carrier" or text else "")


def test_cards_are_those_that_the_cloud_gave(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a net"
    folder.mkdir()
    (folder / "bonding_masters").write_text("bond0\n")
    card(folder, "eth0", "52:54:00:AA:00:01", index=2, link=2, device="x", carrier="1")
    card(folder, "eth1", "52:54:00:aa:00:02", index=3, link=3, device="x", carrier="")
    card(folder, "eth2", "52:54:00:aa:00:03", index=4, link=4, device="x", carrier="0")
    card(folder, "host0", "52:54:00:aa:00:04", index=5, link=99, carrier="1")
    card(folder, "eth0.7", "52:54:00:aa:00:05", index=6, link=2, lower_eth0="", carrier="1")
    card(folder, "bond0", "52:54:00:aa:00:06", index=7, link=7, lower_eth0="", carrier="1")
    card(folder, "wwan0", "", index=8, link=8, device="x", carrier="1")
    monkeypatch.setattr(NETWORK, "CARDS", NETWORK.CARDS.replace("/sys/class/net", f'"{folder}"'))
    cards = NETWORK.cards_of(Host(guest))
    assert {mac: (card.name, card.carrier) for mac, card in cards.items()} == {
        "52:54:00:aa:00:01": ("eth0", "1"),
        "52:54:00:aa:00:02": ("eth1", "unknown"),
        "52:54:00:aa:00:03": ("eth2", "0"),
        "52:54:00:aa:00:04": ("host0", "1"),
    }


MOUNTS = r"""22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 {first} / / rw,relatime shared:1 - rootfs /dev/root\040disk rw
29 28 8:3 / /mnt/with\040blank rw - ext4 /dev/sda3 rw
28 1 {number} /@rootfs / ro,relatime shared:1 master:2 - btrfs /dev/sda2 rw,subvol=/@rootfs
"""


@pytest.fixture
def sysfs(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sysfs with a disk of two partitions and a device of device-mapper."""
    del guest
    block = tmp_path / "sys/devices/block"
    for name, sectors in {"sda": 1000, "sda/sda1": 100, "sda/sda2": 800, "dm-0": 500}.items():
        (block / name).mkdir(parents=True)
        (block / name / "size").write_text(f"{sectors}\n")
        if "/" in name:
            (block / name / "partition").write_text("1\n")
    (block / "sda/queue").mkdir()
    numbers = tmp_path / "sys/dev/block"
    numbers.mkdir(parents=True)
    for number, name in {"8:0": "sda", "8:2": "sda/sda2", "252:0": "dm-0"}.items():
        (numbers / number).symlink_to(block / name)
    look = ROOTFS.LOOK.replace("/proc/self/mountinfo", str(tmp_path / "mountinfo"))
    monkeypatch.setattr(ROOTFS, "LOOK", look.replace("/sys/dev/block", str(numbers)))
    return tmp_path


def root_of(guest: Guest, tmp_path: Path, number: str) -> Any:
    (tmp_path / "mountinfo").write_text(MOUNTS.format(first="0:2", number=number))
    return ROOTFS.root_device_of(Host(guest), "it")


def test_root_is_the_last_mount_on_it(guest: Guest, sysfs: Path) -> None:
    root = root_of(guest, sysfs, "8:2")
    assert (root.name, root.size, root.disk, root.disk_size) == ("sda2", 800 * 512, "sda", 1000 * 512)
    assert root.partitions == {"sda1": 100 * 512, "sda2": 800 * 512}
    bare = root_of(guest, sysfs, "8:0")
    assert (bare.name, bare.disk, bare.disk_size, bare.partitions) == ("sda", "sda", 1000 * 512, {})


@pytest.mark.parametrize(("number", "why"), [("0:26", "not on a block device"), ("252:0", "is on dm-0")])
def test_a_root_that_is_on_no_disk_is_skipped(guest: Guest, sysfs: Path, number: str, why: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=why):
        root_of(guest, sysfs, number)


def test_a_readlink_that_prints_nothing_means_no_device(guest: Guest, sysfs: Path) -> None:
    guest.program("readlink", "exit 1")
    with pytest.raises(pytest.skip.Exception, match="not on a block device"):
        root_of(guest, sysfs, "0:26")


COMMANDS = {
    "true": (0, ""),
    "exit 3": (3, ""),
    "echo done # a comment": (0, "done\n"),
    """echo "it's" '"quoted"' $((1 + 1))""": (0, 'it\'s "quoted" 2\n'),
    "echo it fails >&2; false": (1, ""),
    "fi": (2, ""),
}


class Ssh:
    """Runs commands in the login shell of a guest, as SshAccess does."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def run(self, command: str, *, timeout: float) -> Result:
        del timeout
        done = self.guest.login_shell(command)
        return Result(
            argv=(command,),
            returncode=done.returncode,
            output=done.stdout.decode(),
            errors=done.stderr.decode(),
            seconds=0,
        )


@pytest.mark.parametrize("is_root", [True, False])
def test_commands_of_roots_are_run_as_they_are(guest: Guest, is_root: bool) -> None:
    guest.program("sudo", 'echo "a lecture" >&2; shift; exec "$@"')
    if guest.login != "busybox":
        guest.program("id", f"echo {0 if is_root else 1000}")
    elif is_root != (os.geteuid() == 0):
        pytest.skip("busybox's shell has id in it")
    for command, (code, output) in COMMANDS.items():
        result = CONFTEST.run_as_root(Ssh(guest), "it", command, 60)
        assert (result.returncode, result.output) == (code, output), command
        assert "as-root" not in result.errors
        assert ("a lecture" in result.errors) == (not is_root)
        assert ("it fails" in result.errors) == ("it fails" in command)


@pytest.mark.parametrize("command", ["echo one\necho two", "cat <<END\none\ntwo\nEND"])
def test_commands_of_roots_may_have_lines(guest: Guest, command: str) -> None:
    if guest.login == "tcsh":
        pytest.skip("csh ends a quoted text at the end of its line")
    guest.program("sudo", 'shift; exec "$@"')
    assert CONFTEST.run_as_root(Ssh(guest), "it", command, 60).output == "one\ntwo\n"


def test_a_refusal_of_sudo_skips(guest: Guest) -> None:
    guest.program("id", "echo 1000")
    guest.program("sudo", 'echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1')
    with pytest.raises(pytest.skip.Exception, match="you must have a tty"):
        CONFTEST.run_as_root(Ssh(guest), "it", "true", 60)


def test_a_lost_connection_is_no_refusal(guest: Guest) -> None:
    guest.program("id", "echo 1000")
    guest.program("sudo", 'echo "Connection closed" >&2; exit 255')
    with pytest.raises(pytest.fail.Exception, match="ssh to it failed: Connection closed"):
        CONFTEST.run_as_root(Ssh(guest), "it", "true", 60)


IS_ENABLED = """
for unit in "$@"; do
    case $unit in
        is-enabled) ;;
        chronyd*) echo enabled ;;
        chrony*) echo alias; exit 1 ;;
        *) echo "Failed to get unit file state" >&2; exit 1 ;;
    esac
done"""
"""As systemd does before version 254: it ends at the first unit that is missing."""


def test_a_time_service_counts_though_others_are_missing(guest: Guest) -> None:
    guest.program("systemctl", IS_ENABLED)
    CLOCK.test_time_service_starts_at_boot(Host(guest))
    guest.program("systemctl", "echo masked; exit 1")
    with pytest.raises(AssertionError, match="systemd-timesyncd masked"):
        CLOCK.test_time_service_starts_at_boot(Host(guest))


def test_listening_sockets_are_found(guest: Guest) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"
    rows = {
        "tcp": (
            "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
            "   2: 0F02000A:C350 0202000A:0050 01 00000000:00000000 02:00000000 00000000     0",
        ),
        "tcp6": (f"   0: {'0' * 32}:0050 {'0' * 32}:0000 0A 00000000:00000000 00:00000000",),
        "udp": (
            "  123: 00000000:007B 00000000:0000 07 00000000:00000000 00:00000000 00000000",
            "nonsense: 0: zz:zz 0A",
            "   0: 000:0016 00000000:0000 07 ",
        ),
    }
    files = [f"/proc/net/{kind}:{row}" for kind, lines in rows.items() for row in (head, *lines)]
    said = "\n".join(files)
    (guest.programs / "said").write_text(f"{said}\n")
    guest.program("grep", f"cat {guest.programs}/said; exit 2")
    assert PORTS.listening(Host(guest)) == {("tcp", 22), ("tcp", 80), ("udp", 123)}
    guest.program("grep", "echo no grep here >&2; exit 127")
    with pytest.raises(AssertionError, match="cannot be read: no grep here"):
        PORTS.listening(Host(guest))


def test_what_a_guest_was_is_noted(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REBOOT, "MARK", str(tmp_path / "mark"))
    guest.program("ip", 'echo "2: eth0    inet 192.0.2.7/24 brd x"')
    guest.program("systemctl", 'echo "broken.service loaded failed failed A thing"')
    before = REBOOT.note(Host(guest))
    assert before.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert before.hostname == Path("/proc/sys/kernel/hostname").read_text().strip()
    assert before.addresses == ["eth0 inet 192.0.2.7/24"]
    assert before.failed == {"broken.service"}
    assert (tmp_path / "mark").read_text().strip() == before.mark


def test_a_guest_that_answers_something_else_fails_clearly(guest: Guest) -> None:
    guest.program("sh", "echo nonsense")
    with pytest.raises(pytest.fail.Exception, match="nonsense"):
        REBOOT.note(Host(guest))
    with pytest.raises(pytest.fail.Exception, match="nonsense"):
        ROOTFS.root_device_of(Host(guest), "it")
    assert NETWORK.cards_of(Host(guest)) == {}


def test_scripts_are_one_line() -> None:
    scripts = (CLOCK.ENABLED, NETWORK.CARDS, ROOTFS.LOOK, CONFTEST.root_script("true", "mark"))
    assert [script for script in scripts if "\n" in script] == [], "csh ends a quoted text at its line's end"
