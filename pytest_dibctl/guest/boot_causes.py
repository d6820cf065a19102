"""Why guests do not let us in: the causes by name, and the words on a console that give them away.

Data only; ``causes.py`` applies it. The first sign that is found names the cause. So particular signs stand
before general ones, and signs of a fault before signs of its consequences.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class Proof(enum.Enum):
    """Evidence that a line needs before it may end a wait: any program of a guest can print any line."""

    KERNEL = "no process of the guest runs any more"
    FIRMWARE = "no operating system runs yet"
    SHELL = "a shell waits at the console"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A cause: a sentence about it, and a hint."""

    text: str
    hint: str


_MEMORY: Final = (
    "give it more: qemu.memory or nspawn.memory (MiB) of the test environment, or a larger flavor"
)
_ROOT: Final = (
    "check root= in qemu.kernel_cmdline, or in the image property os_command_line (the disk is /dev/vda; a "
    "filesystem image has no partitions), and that the initrd has virtio_blk and the filesystem's module"
)
_ABOVE: Final = "the lines above it on the console say why"

CAUSES: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "kernel-panic": Kind(text="the guest's kernel panicked", hint=_ABOVE),
        "root-not-found": Kind(text="the guest did not find its root filesystem", hint=_ROOT),
        "no-init": Kind(
            text="the guest's root filesystem has no init that can be run",
            hint="check the image's elements (is there /sbin/init?), and the kernel's init= option",
        ),
        "initrd-damaged": Kind(
            text="the guest's kernel cannot read its initrd",
            hint="build the initrd anew, with a compression that the kernel knows",
        ),
        "no-bootable-device": Kind(
            text="the firmware found nothing to boot on the image",
            hint="a whole-disk image needs a boot loader (DIB's vm and bootloader elements); a filesystem "
            "image needs its kernel and initrd beside it as <name>.vmlinuz and <name>.initrd (DIB's "
            "baremetal element)",
        ),
        "boot-loader-failed": Kind(
            text="the guest's boot loader did not find what it should start",
            hint="look at its configuration in the image, and at the bootloader element: it names a kernel "
            "or files that are not there",
        ),
        "boot-loader-menu": Kind(
            text="the guest's boot loader waits at its menu for a choice",
            hint="set a timeout in its configuration (GRUB_TIMEOUT, or TIMEOUT and PROMPT 0 of syslinux)",
        ),
        "initrd-emergency-shell": Kind(
            text="the guest's initrd gave up and opened a shell", hint=f"{_ABOVE}; often: {_ROOT}"
        ),
        "emergency-mode": Kind(
            text="the guest's systemd stopped in emergency or rescue mode",
            hint="a unit that boot needs failed, often a mount in /etc/fstab whose device is not there",
        ),
        "init-crashed": Kind(text="the guest's init crashed", hint=_ABOVE),
        "filesystem-damaged": Kind(
            text="the guest's filesystem is damaged",
            hint="build the image anew; check the disk it was built on",
        ),
        "disk-full": Kind(
            text="a disk of the guest is full",
            hint="raise qemu.disk or nspawn.disk (GiB) or take a larger flavor, and see that the root "
            "filesystem grows at the first boot",
        ),
        "out-of-memory": Kind(text="the guest ran out of memory", hint=_MEMORY),
        "flavor-mismatch": Kind(
            text="the instance is too small for the image",
            hint="take a flavor with more disk and memory, or correct min_disk and min_ram of the image",
        ),
        "selinux-relabel": Kind(
            text="the guest relabels its files for SELinux, and then boots again",
            hint="label the image when it is built (setfiles, no /.autorelabel in the image)",
        ),
        "wrong-architecture": Kind(
            text="the image's programs are for another processor",
            hint="build with the right ARCH (-a amd64), or set qemu.arch or the flavor to the image's",
        ),
        "no-dhcp-lease": Kind(
            text="the guest got no answer to DHCP",
            hint="check the subnet's DHCP, and that the image configures the right interface",
        ),
        "no-network-interface": Kind(
            text="the guest has no network interface",
            hint="the image lacks the driver of its network card (virtio_net), or names an interface that is "
            "not there",
        ),
        "waiting-for-network": Kind(
            text="the guest waits for a network that does not come up",
            hint="the image waits for an interface that it does not configure or that is not there: look at "
            "its network configuration, and at *-wait-online.service",
        ),
        "metadata-unreachable": Kind(
            text="cloud-init does not reach the metadata service",
            hint="set nova.config_drive, or check the route to 169.254.169.254; locally, let cloud-init's "
            "datasource_list name NoCloud or ConfigDrive",
        ),
        "cloud-init-no-datasource": Kind(
            text="cloud-init found no datasource, so the guest got no key",
            hint="datasource_list in the image's /etc/cloud must name NoCloud or ConfigDrive, or OpenStack "
            "(DIB's cloud-init-datasources element, DIB_CLOUD_INIT_DATASOURCES)",
        ),
        "cloud-init-broken": Kind(
            text="cloud-init failed in the guest",
            hint="its log is /var/log/cloud-init.log in the image's root; it reads user data and /etc/cloud",
        ),
        "sshd-not-started": Kind(
            text="the guest runs no ssh server",
            hint="check that the ssh server is installed, enabled, and that its configuration is valid "
            "(sshd -t)",
        ),
        "sshd-refusing": Kind(
            text="the guest's ssh server refuses this login by its configuration",
            hint="look at AllowUsers, DenyUsers, AllowGroups, PermitRootLogin and PubkeyAuthentication in "
            "the image's sshd_config",
        ),
        "key-not-installed": Kind(
            text="the guest did not install the ssh key",
            hint="check that cloud-init (or the program that reads the seed instead) runs and gives the key "
            "to this user",
        ),
        "wrong-user": Kind(
            text="the guest has no login for this user",
            hint="set tests.ssh.username in images.yaml to the image's user",
        ),
        "host-key-not-taken": Kind(
            text="the guest shows another host key than the one it was given",
            hint="cloud-init (or the program that reads the seed instead) must apply ssh_keys before the "
            "ssh server starts; for an image that makes its own key, set ssh_host_key: first-seen in "
            "the environment's section",
        ),
        "security-group": Kind(
            text="packets to the instance get no answer although it has booted",
            hint="open the ssh port in a security group of the project and name it in nova.security_groups; "
            "then look at the guest's firewall and the network's router",
        ),
        "firewall": Kind(
            text="packets to the guest get no answer although it has booted",
            hint="look at the firewall in the image, and whether its network interface stays up",
        ),
        "wrong-port": Kind(
            text="another service than ssh listens at the ssh port",
            hint="set tests.ssh.port to the port of the guest's ssh server",
        ),
        "reset-loop": Kind(
            text="the machine resets again and again before a kernel says anything",
            hint="often it has too little memory for kernel and initrd: raise qemu.memory (MiB), or take a "
            "larger flavor; else the kernel is damaged or for another processor",
        ),
        "powered-off": Kind(
            text="the guest switched itself off", hint="something in the image powers it off: " + _ABOVE
        ),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
    """Words that name a cause. A line is looked at only if it has ``needle``, which is quick to find.

    Lines with ``proof`` end a wait when the machine bears them out and the console has been silent for
    ``quiet`` seconds; others only name the cause of a wait that has failed. ``network`` signs count only
    where nothing answered, not where a login was refused. With ``last``, nothing further down may have the
    needle.
    """

    cause: str
    needle: str
    expression: str
    proof: Proof | None = None
    quiet: float = 0.0
    network: bool = False
    last: bool = False

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled ``expression``; most runs need none, and all would take longer than the imports."""
        return re.compile(self.expression)


_QUIET: Final = MappingProxyType({Proof.KERNEL: 0.6, Proof.FIRMWARE: 1.0, Proof.SHELL: 5.0})
_MENU_QUIET: Final = 12.0
"""Seconds: most menus go on by themselves after five or ten."""


def _sign(
    cause: str,
    needle: str,
    pattern: str | None = None,
    proof: Proof | None = None,
    quiet: float | None = None,
    *,
    network: bool = False,
    last: bool = False,
) -> Sign:
    return Sign(
        cause=cause,
        needle=needle,
        expression=pattern or re.escape(needle),
        proof=proof,
        quiet=quiet if quiet is not None else _QUIET[proof] if proof else 0.0,
        network=network,
        last=last,
    )


_PANIC: Final = "Kernel panic - not syncing"
_KERNEL, _FIRMWARE, _SHELL = Proof.KERNEL, Proof.FIRMWARE, Proof.SHELL

SIGNS: Final = (
    _sign("filesystem-damaged", "needs cleaning", "Structure needs cleaning"),
    _sign("filesystem-damaged", "EXT4-fs error", r"EXT4-fs error \(device \S+\)"),
    _sign("no-network-interface", "SIOCGIFINDEX", r"udhcpc: SIOCGIFINDEX: No such device", network=True),
    _sign(
        "no-network-interface", "Cannot find device", r'Cannot find device "(?:eth|ens|enp)\S*"', network=True
    ),
    _sign(
        "selinux-relabel",
        "elabel",
        r"SELinux \S+ policy relabel is required|Relabeling could take a very long",
    ),
    _sign("wrong-architecture", "(error -8)", r"(?:Failed to execute|couldn't execute it).*\(error -8\)"),
    _sign("wrong-architecture", "Exec format error", r"(?:init|systemd|/s?bin/\S+).*Exec format error"),
    _sign("flavor-mismatch", "Initramfs unpacking failed", r"Initramfs unpacking failed: write error"),
    _sign("initrd-damaged", "Failed to execute /init", r"Failed to execute /init \(error -2\)"),
    _sign("initrd-damaged", "Initramfs unpacking failed", r"Initramfs unpacking failed: (?!write error)"),
    _sign(
        "out-of-memory",
        _PANIC,
        r"(?<!end )Kernel panic - not syncing: .*(?:[Oo]ut of memory|deadlocked on memory|panic_on_oom)",
        _KERNEL,
    ),
    _sign(
        "root-not-found", _PANIC, r"(?<!end )Kernel panic - not syncing: .*[Uu]nable to mount root", _KERNEL
    ),
    _sign("root-not-found", "ALERT!", r"ALERT!\s+\S+ does not exist", _SHELL),
    _sign(
        "root-not-found",
        "mounting",
        r"mount: mounting .{0,200} on /(?:newroot|root|sysroot|mnt/root)\S* failed",
    ),
    _sign("root-not-found", "dracut-initqueue", r"dracut-initqueue.*(?:timeout|Could not boot)", _SHELL),
    _sign("root-not-found", "iving up waiting for root", r"[Gg]iving up waiting for root"),
    _sign("root-not-found", "ave up waiting for root", r"[Gg]ave up waiting for root"),
    _sign(
        "no-init",
        _PANIC,
        r"(?<!end )Kernel panic - not syncing: (?:No (?:working )?init found|.*[Rr]equested init )",
        _KERNEL,
    ),
    _sign("no-init", "/init", r"(?:can't execute|can't run|failed to execute|not found).{0,40}/s?bin/init"),
    _sign("no-init", "requested /sbin/init", r"Target filesystem doesn't have requested /sbin/init"),
    _sign("no-init", "No init found", r"No init found\. Try passing init="),
    _sign("kernel-panic", _PANIC, r"(?<!end )Kernel panic - not syncing", _KERNEL),
    _sign("no-bootable-device", "No bootable device", None, _FIRMWARE),
    _sign("boot-loader-failed", "grub", r"^(?:grub rescue>|grub>)", _FIRMWARE),
    _sign("boot-loader-failed", "Could not find kernel image", None, _FIRMWARE),
    _sign("boot-loader-failed", "No DEFAULT or UI configuration directive found", None, _FIRMWARE),
    _sign("boot-loader-failed", "Failed to load ldlinux", r"Failed to load ldlinux\.\w+", _FIRMWARE),
    _sign("boot-loader-failed", "Loading ", r"Loading \S+\.\.\..{0,80}failed:", _FIRMWARE),
    # The firmware repeats a loader's output on the serial port.
    _sign("boot-loader-menu", "boot:", r"^(?:boot:\s*)+$", _FIRMWARE, _MENU_QUIET),
    _sign(
        "boot-loader-menu",
        "highlighted",
        r"keys to select which entry is highlighted",
        _FIRMWARE,
        _MENU_QUIET,
    ),
    _sign("boot-loader-menu", "Press [Tab] to edit options", None, _FIRMWARE, _MENU_QUIET),
    _sign("filesystem-damaged", "RUN fsck MANUALLY", None, _SHELL),
    _sign("initrd-emergency-shell", "(initramfs)", r"^\(initramfs\)", _SHELL),
    _sign("initrd-emergency-shell", "dracut:", r"^dracut:/#", _SHELL),
    _sign(
        "initrd-emergency-shell",
        "job control turned off",
        r"sh: can't access tty; job control turned off",
        _SHELL,
    ),
    _sign("emergency-mode", "You are in", r"You are in (?:emergency|rescue) mode", _SHELL),
    _sign("emergency-mode", "Entering emergency mode", None, _SHELL),
    _sign("emergency-mode", "Cannot open access to console", r"the root account is locked", _SHELL),
    _sign(
        "init-crashed",
        "systemd[1]:",
        r"systemd\[1\]: (?:Freezing execution|Caught <.*>, dumped core)",
        _SHELL,
    ),
    _sign("init-crashed", "Freezing execution", None, _SHELL),
    _sign(
        "out-of-memory",
        "Out of memory: Killed process",
        r"Killed process \d+ \((?:systemd|init|sshd|cloud-init|dropbear)\)",
    ),
    _sign("disk-full", "No space left on device"),
    _sign("waiting-for-network", "wait-onli", r"(?:Starting|Job) \S*wait-onli", network=True, last=True),
    _sign(
        "waiting-for-network",
        "start job is running",
        r"start job is running for .*(?:[Nn]etwork|networkd)",
        network=True,
    ),
    _sign("no-dhcp-lease", "no lease", r"udhcpc: no lease", network=True),
    _sign(
        "no-dhcp-lease",
        "DHCP",
        r"No DHCPOFFERS received|DHCPv4.{0,60}timed out|dhcpcd.{0,60}timed out",
        network=True,
    ),
    _sign(
        "waiting-for-network", "Network", r"Failed to start .*(?:Wait for Network|Wait Online)", network=True
    ),
    _sign(
        "metadata-unreachable",
        "169.254.169.254",
        r"169\.254\.169\.254.{0,200}(?:failed|timed out|refused|unreachable|No route)|Giving up on md from",
    ),
    _sign(
        "cloud-init-no-datasource", "atasource", r"fallback datasource|DataSourceNone|[Dd]atasource not found"
    ),
    _sign("cloud-init-no-datasource", "data source", r"Did not find any data source"),
    _sign("cloud-init-broken", "yaml", r"Failed loading yaml|[Ii]nvalid format at line \d+"),
    _sign("cloud-init-broken", "cloud-init", r"Failed to start .*cloud-init|cloud-init.{0,80}Traceback"),
    _sign(
        "cloud-init-broken", "cloud-config", r"[Ii]nvalid cloud-config|Failed at merging in cloud config part"
    ),
    _sign("cloud-init-broken", "cloudinit", r'File "\S*/cloudinit/\S+", line \d+'),
    _sign(
        "sshd-not-started",
        "Failed to start",
        r"Failed to start .*(?:ssh|SSH|Secure Shell|dropbear)",
        network=True,
    ),
    _sign(
        "sshd-not-started",
        "sshd",
        r"sshd.{0,80}(?:no hostkeys available|Bad configuration option)",
        network=True,
    ),
    _sign(
        "sshd-not-started", "dropbear", r"dropbear.{0,80}(?:not found|[Nn]o hostkeys|[Ff]ailed)", network=True
    ),
    _sign("sshd-not-started", "sshd", r"can't (?:run|execute|open) '?/\S*sshd", network=True),
)

STATUS_SIGNS: Final = (
    _sign("wrong-user", "no user", r"no user \S{1,64} who could be given the key"),
    _sign(
        "flavor-mismatch",
        "oo small",
        r"[Ff]lavor's (?:disk|memory) is too small|too small for requested image",
    ),
    _sign("flavor-mismatch", "inimum", r"smaller than the minimum size|minRam|minDisk"),
    _sign(
        "wrong-architecture",
        "kernel",
        r"invalid kernel header|[Ee]rror loading uncompressed kernel|could not load kernel",
    ),
    _sign("wrong-architecture", "kernel too old", "linux kernel too old to load a ram disk"),
    _sign("wrong-architecture", "Exec format error"),
    _sign("no-init", "init", r"execv\(.*\) failed: No such file|[Nn]o such file or directory.*init"),
)
"""The same for the words of a cloud, QEMU or systemd-nspawn about an instance."""
