"""The text of a serial console: why a guest will never be ready, and which host keys it printed."""

from __future__ import annotations

import dataclasses
import re

EXCERPT_LINES = 20
"""Lines of the console that an error message quotes."""

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles and the like
    r"|\x1b[ -/]*[0-~]"  # two-character escapes: reset
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a guest will never be ready: a text for the error message, and a hint what to do."""

    text: str
    hint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sign:
    pattern: re.Pattern[str]
    text: str
    hint: str


_ROOT_HINT = (
    "the root filesystem was not found: check root= in qemu.kernel_cmdline, or in the image property "
    "os_command_line (the disk is /dev/vda; a filesystem image has no partitions), and that the initrd has "
    "virtio_blk and the filesystem's module"
)

_BOOT_HINT = (
    "a whole-disk image needs a boot loader (DIB's vm and bootloader elements); a filesystem image needs its "
    "kernel and initrd beside it as <name>.vmlinuz and <name>.initrd (DIB's baremetal element)"
)

# The first pattern that matches names the cause, so particular ones precede general ones. The groups of a
# pattern fill its text.
_SIGNS = tuple(
    _Sign(pattern=re.compile(pattern, re.MULTILINE), text=text, hint=hint)
    for pattern, text, hint in (
        (
            r"Kernel panic - not syncing: (VFS: Unable to mount root fs.*|.*[Uu]nable to mount root.*)",
            "the guest's kernel panicked: {0}",
            _ROOT_HINT,
        ),
        (
            r"Kernel panic - not syncing: (No (?:working )?init found.*|.*[Rr]equested init .*)",
            "the guest's kernel panicked: {0}",
            "the root filesystem holds no init: check the image's elements, and the kernel's init= option",
        ),
        (
            r"Kernel panic - not syncing: (.*(?:[Oo]ut of memory|deadlocked on memory|panic_on_oom).*)",
            "the guest ran out of memory: {0}",
            "give it more: qemu.memory (MiB) of the test environment, or a larger flavor",
        ),
        (
            r"Kernel panic - not syncing: (Attempted to kill init!.*)",
            "the guest's kernel panicked: {0}",
            "process 1 of the guest died: the lines above say why",
        ),
        (
            r"Kernel panic - not syncing: (.*)",
            "the guest's kernel panicked: {0}",
            "the lines above say why",
        ),
        (
            r"^.*(No bootable device)",
            "the firmware found nothing to boot on the image",
            _BOOT_HINT,
        ),
        (
            r"ALERT!\s+(\S+) does not exist",
            "the guest's initramfs gave up: {0} does not exist",
            _ROOT_HINT,
        ),
        (
            r"^\(initramfs\)|dracut-initqueue.*timeout|^dracut:/#",
            "the guest's initramfs gave up and opened a shell",
            _ROOT_HINT,
        ),
        (
            r"^(grub rescue>|grub>)",
            "the guest's boot loader gave up and opened a shell",
            "GRUB found neither its files nor its configuration on the image: look at the bootloader element",
        ),
        (
            r"You are in (emergency|rescue) mode|Entering (emergency) mode",
            "the guest's systemd stopped in emergency mode",
            "a unit that boot needs failed, often a mount in /etc/fstab whose device is not there",
        ),
        (
            r"systemd\[1\]: (Freezing execution|Caught <.*>, dumped core)",
            "the guest's systemd crashed: {0}",
            "the lines above say why",
        ),
        (
            r"Out of memory: Killed process \d+ \((systemd|init|sshd|cloud-init|dropbear)\)",
            "the guest ran out of memory and killed {0}",
            "give it more: qemu.memory (MiB) of the test environment, or a larger flavor",
        ),
        (
            r"Failed to start .*(cloud-init(?:-local|-main|-network)?\.service)",
            "cloud-init failed in the guest ({0}), so no login can succeed",
            "its log is /var/log/cloud-init.log in the image's root; the lines above may say why",
        ),
    )
)


LIMIT = 16 << 20
"""Bytes of a console that are looked at; a boot writes less than one part in a hundred of that."""


def limited(text: str) -> str:
    """Return the end of a console that a service gives whole, with a line that says so where it is cut."""
    if len(text) <= LIMIT:
        return text
    return f"[dibctl: the console has {len(text)} characters; this is its end]\n{text[-LIMIT:]}"


def clean(raw: bytes) -> str:
    """Return console bytes as text without escape sequences; lines end with a line feed alone."""
    text = _ESCAPES.sub("", raw.decode(errors="replace"))
    return re.sub(r"\r+\n?", lambda match: "\n" if match[0].endswith("\n") else "", text)


def diagnose(text: str) -> tuple[Cause, int] | None:
    """Return why the guest that printed ``text`` will never be ready, and the offset where it says so.

    Returns None when the text names no fatal cause.
    """
    for sign in _SIGNS:
        if match := sign.pattern.search(text):
            groups = [group.strip() for group in match.groups() if group]
            return Cause(text=sign.text.format(*groups), hint=sign.hint), match.start()
    return None


def excerpt(text: str, lines: int = EXCERPT_LINES) -> str:
    """Return the last ``lines`` lines that are not blank.

    When the last 64 KiB name a fatal cause, the excerpt ends at most five lines after it.
    """
    diagnosis = diagnose(text[-64 * 1024 :])
    shown = text.splitlines()
    if diagnosis:
        start = len(text) - len(text[-64 * 1024 :]) + diagnosis[1]
        shown = shown[: text.count("\n", 0, start) + 6]
    return "\n".join([line.rstrip() for line in shown if line.strip()][-lines:])


_KEY_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\n(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(r"((?:ssh-|ecdsa-sha2-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2})(?:\s|$)")


def host_keys(text: str) -> tuple[str, ...]:
    """Return the ssh host keys that cloud-init printed last, as lines of public keys.

    A rebuilt guest makes new keys and prints them further down.
    """
    blocks = _KEY_BLOCK.findall(text)
    return tuple(dict.fromkeys(_KEY.findall(blocks[-1]))) if blocks else ()


_STAGE = re.compile(r"Cloud-init v\. \S+ (?:running '|(?P<finished>finished) at)")
MOST_USERS = 5
_KEYS_OF = re.compile(r"Authorized keys from \S+ for user ([^\s+]{1,32})")


def cloud_init_has_finished(text: str) -> bool | None:
    """Return whether the cloud-init of the last boot has come to its end; None if it is not heard of."""
    stages = list(_STAGE.finditer(text))
    return bool(stages[-1]["finished"]) if stages else None


def users_with_keys(text: str) -> tuple[str, ...]:
    """Return the users to whom cloud-init says that it gave an ssh key."""
    return tuple(dict.fromkeys(_KEYS_OF.findall(text)))[:MOST_USERS]
