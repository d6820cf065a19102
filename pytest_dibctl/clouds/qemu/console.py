"""The serial console: what the guest said, and which of its last words mean that it will never be ready."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

EXCERPT_LINES = 20
CARRY = 2048
"""Characters read again with the next piece, so that a message cut in two is still recognised."""

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles and the like
    r"|\x1b[ -/]*[0-~]"  # two-character escapes: reset
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a guest will not get ready, in the words to show."""

    text: str
    hint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sign:
    pattern: re.Pattern[str]
    text: str
    hint: str


_ROOT_HINT = (
    "the root filesystem was not found: check root= in qemu.kernel_cmdline (the disk is /dev/vda; a "
    "filesystem image has no partitions), and that the initrd has virtio_blk and the filesystem's module"
)

_BOOT_HINT = (
    "a whole-disk image needs a boot loader (DIB's vm and bootloader elements); a filesystem image needs its "
    "kernel and initrd beside it as <name>.vmlinuz and <name>.initrd (DIB's baremetal element)"
)

# The first that matches names the cause: the particular before the general. Groups go into the text.
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
            "the root filesystem holds no init: check the image's elements, and init= in qemu.kernel_cmdline",
        ),
        (
            r"Kernel panic - not syncing: (.*(?:[Oo]ut of memory|deadlocked on memory|panic_on_oom).*)",
            "the guest ran out of memory: {0}",
            "give it more: qemu.memory (MiB) of the test environment",
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
            "give it more: qemu.memory (MiB) of the test environment",
        ),
        (
            r"Failed to start .*(cloud-init(?:-local|-main|-network)?\.service)",
            "cloud-init failed in the guest ({0}), so nobody can log in",
            "its log is /var/log/cloud-init.log in the image's root; the lines above may say why",
        ),
    )
)


def clean(raw: bytes) -> str:
    """Return console bytes as text without escape sequences; lines end with a line feed alone."""
    text = _ESCAPES.sub("", raw.decode(errors="replace"))
    return re.sub(r"\r+\n?", lambda match: "\n" if match[0].endswith("\n") else "", text)


def diagnose(text: str) -> tuple[Cause, int] | None:
    """Return why the guest that printed ``text`` will not get ready and where it says so, or None."""
    for sign in _SIGNS:
        if found := sign.pattern.search(text):
            groups = [group.strip() for group in found.groups() if group]
            return Cause(text=sign.text.format(*groups), hint=sign.hint), found.start()
    return None


class Console:
    """The file a guest's serial console is written to. Reading is cheap to repeat."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._carry = ""
        self._cause: Cause | None = None

    def text(self) -> str:
        """Return all that was said so far; empty when there is nothing."""
        return clean(b"".join(self._read_from(0)))

    def excerpt(self, lines: int = EXCERPT_LINES) -> str:
        """Return the last lines; when one of them names a fatal cause, at most five after that one."""
        text = self.text()
        found = diagnose(text[-64 * 1024 :])
        kept = text.splitlines()
        if found:
            start = len(text) - len(text[-64 * 1024 :]) + found[1]
            kept = kept[: text.count("\n", 0, start) + 6]
        return "\n".join([line.rstrip() for line in kept if line.strip()][-lines:])

    def forget(self) -> None:
        """Look only at what is said from now on: the guest is about to boot anew."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0
        self._carry = ""
        self._cause = None

    def trouble(self) -> Cause | None:
        """Return why the guest will never be ready, if what was said since the last look tells."""
        if self._cause is not None:
            return self._cause
        for piece in self._read_from(self._offset):
            self._offset += len(piece)
            text = self._carry + clean(piece)
            self._carry = text[-CARRY:]
            if found := diagnose(text):
                self._cause = found[0]
                return self._cause
        return None

    def _read_from(self, offset: int) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(1 << 20):
                    yield piece
        except FileNotFoundError:
            return
