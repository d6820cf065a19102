"""Whether a guest's processors still run an operating system: the proof of the last words on its console.

A panicked Linux has halted all processors but one for good, and that one goes round in the kernel. Of a
living one, some processor is in a program, or idle, which means halted until the next interrupt, at one of a
few looks. So a guest that only prints a panic is found alive.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds.qemu import qmp
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.boot_causes import Proof

LOOKS: Final = 8
PAUSE: Final = 0.05
"""Seconds between two looks."""
_STATE: Final = re.compile(
    r"^[RE]IP=\S+ [RE]FL=(?P<flags>[0-9a-f]+) .* CPL=(?P<level>\d) .* HLT=(?P<halted>\d)", re.MULTILINE
)
_EFER: Final = re.compile(r"^EFER=([0-9a-f]+)", re.MULTILINE)
_INTERRUPTS: Final = 1 << 9
_LONG_MODE: Final = 1 << 10
_KERNEL_LEVEL: Final = 0


def bears_out(control: Path, arch: str, proof: Proof) -> bool:
    """Whether the machine behind QEMU's control socket is as ``proof`` says.

    Of an architecture whose registers are not understood here, and of a shell, the silence of the console is
    all that there is: true. False, too, when QEMU does not answer.
    """
    if proof is Proof.SHELL or arch != "x86_64":
        return True
    try:
        for look in range(LOOKS):
            if look:
                time.sleep(PAUSE)
            registers = qmp.monitor(control, "info registers -a")
            if proof is Proof.FIRMWARE:
                return not in_long_mode(registers)
            if is_alive(registers):
                return False
    except InstanceError:
        return False
    return True


def is_alive(registers: str) -> bool:
    """Whether a processor runs a program or waits for an interrupt, by ``info registers -a``."""
    for state in _STATE.finditer(registers):
        idle = state["halted"] == "1" and int(state["flags"], 16) & _INTERRUPTS
        if idle or int(state["level"]) != _KERNEL_LEVEL:
            return True
    return False


def in_long_mode(registers: str) -> bool:
    """Whether a processor is in the mode of a 64-bit operating system; firmware and boot loaders are not."""
    return any(int(value, 16) & _LONG_MODE for value in _EFER.findall(registers))
