"""A guest started by a hand-written QEMU command line, for tests of the micro image itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_dibctl.system import process
from tests.support import micro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """A user's key pair and a host's key pair, OpenSSH's ed25519 files in ``directory``."""

    directory: Path

    @classmethod
    def generate(cls, directory: Path) -> Keys:
        """Make both pairs."""
        for name in ("user", "host"):
            process.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)]
            )
        return cls(directory=directory)

    @property
    def user_public(self) -> str:
        """The public key that may log in, one line."""
        return (self.directory / "user.pub").read_text().strip()

    @property
    def host_public(self) -> str:
        """Type and key of the host's public key, without the comment."""
        return " ".join((self.directory / "host.pub").read_text().split()[:2])

    @property
    def host_private(self) -> str:
        """The host's private key."""
        return (self.directory / "host").read_text()


def iso(path: Path, *, label: str, files: Mapping[str, str]) -> Path:
    """Make an iso9660 image with ``files``, their contents by their path."""
    tree = path.with_suffix(".tree")
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    process.run(
        ["genisoimage", "-quiet", "-joliet", "-rock", "-volid", label, "-output", str(path), str(tree)]
    )
    return path


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guest:
    """A running guest and the files it uses, all in ``directory``."""

    directory: Path
    port: int
    qemu: subprocess.Popen[str]
    started: float

    @property
    def console(self) -> str:
        """All of the serial console so far."""
        return (self.directory / "console").read_text(errors="replace")

    def wait_for_console(self, text: str, *, timeout: float = 60, times: int = 1) -> float:
        """Return the seconds since power-on once the console has ``text`` so many times.

        Raises AssertionError when it never has.
        """
        deadline = time.monotonic() + timeout
        while self.console.count(text) < times:
            assert time.monotonic() < deadline, f"no {text!r} on the console:\n{self.console[-3000:]}"
            assert self.qemu.poll() is None, f"QEMU ended before {text!r}:\n{self.console[-3000:]}"
            time.sleep(0.05)
        return time.monotonic() - self.started

    def wait_for_banner(self, *, timeout: float = 60) -> float:
        """Return the seconds since power-on once sshd says its name."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and "Kernel panic" not in self.console:
            # QEMU accepts for a guest that does not listen yet, then hangs up or says nothing.
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                if probe.recv(4) == b"SSH-":
                    return time.monotonic() - self.started
            time.sleep(0.05)
        raise AssertionError(f"sshd never answered:\n{self.console[-3000:]}")

    def ssh(self, keys: Keys, command: str, *, username: str = "root", check: bool = True) -> process.Result:
        """Run a command in the guest, whose host key must be the one of ``keys``."""
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {keys.host_public}\n")
        options = {
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
        }
        argv = ["ssh", "-F", "none", "-p", str(self.port), "-i", str(keys.directory / "user"), "-l", username]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        return process.run([*argv, "127.0.0.1", command], timeout=30, check=check)

    def qmp(self, command: str) -> None:
        """Run one QMP command."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(10)
            monitor.connect(str(self.directory / "qmp"))
            stream = monitor.makefile("rw")
            stream.readline()
            for execute in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": execute}) + "\n")
                stream.flush()
                answer: dict[str, Any] = {}
                while not answer.keys() & {"return", "error"}:
                    answer = json.loads(stream.readline())
                assert "return" in answer, answer

    def wait_for_end(self, *, timeout: float = 30) -> int:
        """Return QEMU's exit status once the guest has powered itself off."""
        return self.qemu.wait(timeout)


@contextlib.contextmanager
def running(
    directory: Path,
    *,
    disk: Path,
    seed: Path | None,
    kernel: Path | None = None,
    initrd: Path | None = None,
    append: str = micro.FAST,
    size: str = "1G",
    extra: Sequence[str] = (),
) -> Iterator[Guest]:
    """Boot an overlay of ``disk``, grown to ``size``; the guest is gone when the block ends."""
    overlay = directory / "overlay.qcow2"
    source = str(disk.resolve())
    backing = ["-b", source, "-F", "raw" if disk.suffix == ".raw" else "qcow2"]
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(overlay), size])
    port = free_port()
    argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    argv += ["-m", "256", "-nodefaults", "-display", "none", "-device", "virtio-rng-pci"]
    argv += ["-drive", f"file={overlay},if=virtio"]
    if seed is not None:
        argv += ["-drive", f"file={seed},if=virtio,format=raw,readonly=on"]
    argv += [
        "-netdev",
        f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device",
        "virtio-net-pci,netdev=net",
    ]
    argv += ["-serial", f"file:{directory}/console", "-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
    if kernel is not None:
        argv += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
    (directory / "console").touch()
    with process.spawn([*argv, *extra]) as qemu:
        yield Guest(directory=directory, port=port, qemu=qemu, started=time.monotonic())
