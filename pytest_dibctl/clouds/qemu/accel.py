"""Choosing an accelerator: KVM only where guests run under it.

On many build machines ``/dev/kvm`` can be opened although guests hang: the machine is a guest itself, and
its hypervisor interprets instructions one by one. A tiny payload that behaves like a kernel therefore runs
under KVM first, with a deadline of seconds. The verdict is kept until the next boot of the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pytest_dibctl.clouds.qemu.machine import PLATFORMS, Accelerator, Arch, native_arch
from pytest_dibctl.errors import CommandError, CommandTimeoutError, PreflightError
from pytest_dibctl.system import files, locks, process

log = logging.getLogger(__name__)

DEVICE = Path("/dev/kvm")
NO_KVM = "no KVM: "
"""How the reason of a choice begins that was not wanted."""
PROBE_DEADLINE = 5.0
"""Seconds; the payload takes about 0.2 s with a working KVM and 0.5 s without any."""

_BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfcbf0010b90020f3ab66c70600100320000066c70600200330000066c706003083000000"
    "66b8001000000f22d80f20e06683c8200f22e066b9800000c00f32660d000100000f300f0116e07c0f20c0660d010000"
    "800f22c0ea697c0800bf00502000bde8030000c7042508300000830000000f013f892f3b2c25005000007537c7042508"
    "300000830020000f013fc707000000003b2c2500500000751a0f20d80f22d8ffcd75c0b980f0fa02ffc975fc66baf803"
    "b04bee66baf400eef4ebfd0f1f440000000000000000000000000000009a20000f00d07c0000"
)
"""``kvm_probe.S``, assembled."""

# The same idea without page tables: count, write K to the PL011 at 0x09000000, PSCI SYSTEM_OFF.
_AARCH64 = b"".join(
    word.to_bytes(4, "little")
    for word in (
        0xD2A12009,  # movz x9, #0x0900, lsl #16
        0x5280096A,  # movz w10, #'K'
        0x52A05F4B,  # movz w11, #0x2fa, lsl #16
        0x7100056B,  # subs w11, w11, #1
        0x54FFFFE1,  # b.ne the line above
        0x3900012A,  # strb w10, [x9]
        0x52B08000,  # movz w0, #0x8400, lsl #16
        0x72800100,  # movk w0, #8
        0xD4000002,  # hvc #0
        0x14000000,  # b here
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether guests run under KVM on this machine; ``reason`` completes "KVM is (not) used: ..."."""

    usable: bool
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The accelerator for a guest, and why."""

    accelerator: Accelerator
    reason: str


def choose(wanted: Literal["auto", "kvm", "tcg"], arch: Arch) -> Choice:
    """Return the accelerator for a guest of ``arch``; "auto" takes KVM where guests run under it.

    Raises PreflightError when "kvm" is wanted and guests do not run under KVM.
    """
    if wanted == "tcg":
        return Choice(accelerator="tcg", reason="asked for")
    if arch != native_arch():
        verdict = Verdict(usable=False, reason=f"this machine is {platform.machine()}, the guest {arch}")
    else:
        verdict = probe_kvm(arch)
    if verdict.usable:
        return Choice(accelerator="kvm", reason=verdict.reason)
    if wanted == "kvm":
        raise PreflightError(
            f"accelerator: kvm is asked for, but KVM cannot be used: {verdict.reason}",
            hint=f"accelerator: auto falls back to emulation; {_cache_file(arch)} keeps the verdict "
            "until the next boot",
        )
    return Choice(accelerator="tcg", reason=f"{NO_KVM}{verdict.reason}")


def known_choice(wanted: Literal["auto", "kvm", "tcg"], arch: Arch) -> Choice | None:
    """Return the result of ``choose`` without a probe: None if the probe has not yet been run."""
    at_hand = arch == native_arch() and DEVICE.exists() and os.access(DEVICE, os.R_OK | os.W_OK)
    if wanted == "kvm" or (wanted == "auto" and at_hand and not _read(_cache_file(arch))):
        return None
    return choose(wanted, arch)


def probe_kvm(arch: Arch | None = None, *, fresh: bool = False) -> Verdict:
    """Return whether guests of ``arch`` (by default this machine's) run under KVM here.

    The verdict comes from the cache of the user, unless ``fresh``; a new one is written to it.
    """
    arch = arch or native_arch()
    if not DEVICE.exists():
        return Verdict(usable=False, reason=f"there is no {DEVICE}")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Verdict(usable=False, reason=f"this user may not use {DEVICE} (add it to the group kvm)")
    cache = _cache_file(arch)
    with contextlib.ExitStack() as stack:
        # Workers that start together wait for the verdict of the first; if locking fails, each probes itself.
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            lock = cache.with_name(f"{cache.name}.lock")
            stack.enter_context(locks.exclusive(lock, mode=0o644, timeout=4 * PROBE_DEADLINE))
        verdict = None if fresh else _read(cache)
        if verdict is None:
            verdict = run_payload(arch, "kvm")
            log.info("KVM probe: %s", verdict.reason)
            _write(cache, verdict)
        return verdict


def run_payload(arch: Arch, accelerator: Accelerator, *, deadline: float = PROBE_DEADLINE) -> Verdict:
    """Run the probe's payload for up to ``deadline`` seconds; return whether it ran to its end."""
    with tempfile.TemporaryDirectory(prefix="dibctl-kvm-") as name:
        directory = Path(name)
        try:
            result = process.run(
                process.die_with_parent(_payload_argv(arch, accelerator, directory)),
                timeout=deadline,
                check=False,
                cwd=directory,
                grace=0.5,
            )
        except CommandTimeoutError:
            return Verdict(usable=False, reason=f"a test payload did not get through in {deadline:g} s")
        except CommandError as error:
            return Verdict(usable=False, reason=error.message)
        serial = directory / "serial"
        if serial.exists() and serial.read_bytes().endswith(b"K"):
            return Verdict(usable=True, reason=f"a test payload ran in {result.seconds:.1f} s")
        errors = [line for line in result.errors.splitlines() if "warning" not in line] or [""]
        ended = process.describe_exit(result.returncode)
        return Verdict(
            usable=False, reason=f"QEMU {ended} at a test payload: {errors[0].strip()}".rstrip(": ")
        )


def _payload_argv(arch: Arch, accelerator: Accelerator, directory: Path) -> list[str]:
    machine = PLATFORMS[arch]
    payload = directory / "payload"
    if arch == "x86_64":
        # Some firmware boots only from disks of whole megabytes.
        payload.write_bytes((_BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
        boot = ["-drive", "file=payload,format=raw,if=virtio,readonly=on", "-device"]
        boot.append("isa-debug-exit,iobase=0xf4,iosize=1")
    else:
        payload.write_bytes(_AARCH64)
        boot = ["-kernel", "payload"]
    return [
        machine.program,
        *("-no-user-config", "-nodefaults", "-display", "none", "-vga", "none", "-m", "64"),
        *("-machine", machine.machine, "-accel", accelerator, "-cpu", machine.cpus[accelerator]),
        *("-chardev", "file,id=serial,path=serial", "-serial", "chardev:serial", *boot),
    ]


def _cache_file(arch: Arch) -> Path:
    return files.user_cache() / f"kvm-{arch}-{_machine_state(arch)}.json"


def _machine_state(arch: Arch) -> str:
    """Return a digest of this boot, kernel and QEMU: a verdict is valid for one digest only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    with contextlib.suppress(CommandError):
        boot += process.run([PLATFORMS[arch].program, "--version"], timeout=10, check=False).output
    return hashlib.sha256(f"{boot}{platform.release()}".encode()).hexdigest()[:16]


def _read(cache: Path) -> Verdict | None:
    try:
        document: Mapping[str, object] = json.loads(cache.read_text())
        return Verdict(usable=bool(document["usable"]), reason=str(document["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(cache: Path, verdict: Verdict) -> None:
    with contextlib.suppress(OSError):
        files.write_atomically(cache, json.dumps(dataclasses.asdict(verdict)))
