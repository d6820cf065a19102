"""The machine that a guest sees, as QEMU's command line, with files relative to the instance's directory."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pytest_dibctl.system import checks, user_network

Arch = Literal["x86_64", "aarch64"]
Accelerator = Literal["kvm", "tcg"]

DISK, SEED, CONSOLE, CONTROL, LOG = "disk.qcow2", "seed.iso", "console.log", "qmp.sock", "qemu.log"
LINE = "line.sock"
"""The socket of the second serial line, of guests that have one."""
IMAGE_SET, CONSOLE_SET = 1, 2
"""QEMU's numbers for descriptors that it opens like files."""
DISK_NODE = "disk"
"""QEMU's name for the root disk; its overlay holds the snapshots."""

FORMATS: Mapping[str, str] = {
    "qcow2": "qcow2",
    "raw": "raw",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhdx": "vhdx",
}
"""Disk formats that can be booted: Glance's name, and QEMU's."""


TRANSLATED_CODE = 128
"""MiB of translated code that emulation keeps.

QEMU's default of 1024 costs 900 MiB more of this machine's memory for a Debian guest, and saves little time.
It also keeps the code of the previous boot, and unpacking the next kernel over that code can take ten times
as long.
"""


SCREEN_MEMORY = 8
"""MiB of the screen: enough for 1920x1080, and half of QEMU's default, which a snapshot would hold too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Platform:
    """How QEMU emulates an architecture; with ``firmware``, a whole disk boots without a separate kernel.

    ``screen`` is a device that pictures can be taken of.
    """

    program: str
    machine: str
    cpus: Mapping[Accelerator, str]
    serial: str
    firmware: bool
    screen: tuple[str, ...] = ()


PLATFORMS: Mapping[Arch, Platform] = {
    "x86_64": Platform(
        program="qemu-system-x86_64",
        # Without graphics the firmware writes to the serial port: "No bootable device" is on the console.
        machine="q35,graphics=off",
        cpus={"kvm": "host", "tcg": "max"},
        serial="ttyS0",
        firmware=True,
        screen=("-device", f"VGA,vgamem_mb={SCREEN_MEMORY},edid=off"),
    ),
    "aarch64": Platform(
        program="qemu-system-aarch64",
        machine="virt,gic-version=max",
        cpus={"kvm": "host", "tcg": "max,pauth-impdef=on"},
        serial="ttyAMA0",
        firmware=False,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
    """A TCP port of the guest reachable at ``address``; host port 0 lets QEMU take any free one."""

    guest: int
    host: int = 0
    address: str = user_network.LOOPBACK

    def rule(self) -> str:
        """Return the rule in the syntax of QEMU's network options and of its monitor."""
        return f"tcp:{self.address}:{self.host}-:{self.guest}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inherited:
    """Open descriptors that QEMU gets: the console to write, its listening control socket, the image.

    ``line`` is the listening socket of the second serial line, None for a guest without one.
    """

    console: int
    control: int
    image: int
    line: int | None = None

    def all(self) -> tuple[int, ...]:
        """Return all of them."""
        return self.console, self.control, self.image, *(() if self.line is None else (self.line,))


SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's filter of system calls: QEMU starts no program, gains no privilege and changes no priority."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The settings of a machine; ``memory`` is in MiB. Without ``kernel`` the firmware boots the disk.

    ``image_format`` is QEMU's name for the format of the image below the disk.
    """

    uuid: str
    name: str
    arch: Arch
    accelerator: Accelerator
    memory: int
    vcpus: int
    mac: str
    image_format: str = "qcow2"
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""

    @property
    def boot_files(self) -> tuple[Path, ...]:
        """The kernel and its initrd, where there are any."""
        return tuple(path for path in (self.kernel, self.initrd) if path is not None)

    def argv(self, inherited: Inherited) -> list[str]:
        """Return the command line, which must run in the instance's directory with these descriptors."""
        platform_ = PLATFORMS[self.arch]
        accel = f"tcg,thread=multi,tb-size={TRANSLATED_CODE}" if self.accelerator == "tcg" else "kvm"
        return [
            platform_.program,
            *("-sandbox", SANDBOX),
            *("-name", f"guest={self.name}", "-uuid", self.uuid),
            *("-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"),
            *platform_.screen,
            *("-machine", platform_.machine, "-accel", accel, "-cpu", platform_.cpus[self.accelerator]),
            *("-smp", str(self.vcpus), "-m", str(self.memory), "-rtc", "base=utc"),
            *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
            *_disks(self.image_format, inherited.image),
            *self._network(),
            *("-add-fd", f"fd={inherited.console},set={CONSOLE_SET}"),
            *(
                "-chardev",
                f"file,id=console,path=/dev/fdset/{CONSOLE_SET},append=on",
                "-serial",
                "chardev:console",
            ),
            *("-chardev", f"socket,id=control,fd={inherited.control},server=on,wait=off"),
            *("-mon", "chardev=control,mode=control"),
            *_line(inherited.line),
            # QEMU goes on when the guest powers off, so that the guest can be started again.
            "-no-shutdown",
            # The guest is paused before its first instruction: a snapshot of that state serves rebuilds.
            "-S",
            *self._kernel(),
        ]

    def _network(self) -> list[str]:
        # The addresses are QEMU's defaults, spelt out because tests compare them. IPv6 is off: a guest with
        # an address would try IPv6 first, although there is no router.
        net = user_network
        addresses = f"net={net.NETWORK},host={net.GATEWAY},dhcpstart={net.GUEST},dns={net.RESOLVER}"
        user = f"user,id=net0,ipv6=off,{addresses}"
        return [
            *("-netdev", user),
            # An empty romfile prevents a network boot, which would delay "No bootable device" by a minute.
            *("-device", f"virtio-net-pci,netdev=net0,mac={self.mac},romfile="),
        ]

    def _kernel(self) -> list[str]:
        if self.kernel is None:
            return []
        initrd = ["-initrd", str(self.initrd)] if self.initrd is not None else []
        return ["-kernel", str(self.kernel), *initrd, "-append", self.cmdline]


def _line(listening: int | None) -> list[str]:
    """Return the second serial line, through which a guest is renewed that goes on from a saved state."""
    if listening is None:
        return []
    socket = f"socket,id=line,fd={listening},server=on,wait=off"
    return ["-chardev", socket, "-device", "isa-serial,chardev=line,index=1"]


def _disks(image_format: str, image: int) -> list[str]:
    # no-flush: the overlay is deleted with the instance and need not survive a crash of this machine.
    disk = {
        "driver": "qcow2",
        "node-name": DISK_NODE,
        "discard": "unmap",
        "cache": {"direct": False, "no-flush": True},
        "file": {"driver": "file", "filename": DISK, "cache": {"direct": False, "no-flush": True}},
        "backing": {
            "driver": image_format,
            "read-only": True,
            "file": {"driver": "file", "filename": f"/dev/fdset/{IMAGE_SET}", "read-only": True},
        },
    }
    # Both layers are read-only: a writable seed would keep QEMU from making snapshots.
    seed = {
        "driver": "raw",
        "node-name": "seed",
        "read-only": True,
        "file": {"driver": "file", "filename": SEED, "read-only": True},
    }
    return [
        *("-add-fd", f"fd={image},set={IMAGE_SET}"),
        *("-blockdev", json.dumps(disk)),
        *("-device", f"virtio-blk-pci,drive={DISK_NODE},bootindex=1,serial=root"),
        *("-blockdev", json.dumps(seed), "-device", "virtio-blk-pci,drive=seed,serial=seed"),
    ]


def native_arch() -> Arch:
    """Return the architecture of this machine; x86_64 for a machine that is not in ``PLATFORMS``."""
    return "aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"


def require_tools(arch: Arch) -> None:
    """Raise PreflightError when QEMU for ``arch`` or qemu-img is not installed."""
    tools = (PLATFORMS[arch].program, "qemu-img")
    checks.require(map(checks.tool, tools), saying="this machine cannot boot local guests")


def kernel_cmdline(text: str, arch: Arch) -> str:
    """Return a kernel command line with ``console=ttyS0`` replaced by the serial console of ``arch``."""
    return text.replace("console=ttyS0", f"console={PLATFORMS[arch].serial}")
