"""The serial console shows the boot, and lets an operator in when the network does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

pytestmark = [pytest.mark.usefixtures("instance"), pytest.mark.dib_needs("kernel")]

SERIAL = re.compile(r"tty(S|AMA|USB|LP|mxc)\d+|hvc\d+|sclp\d*|ttysclp\d+")

BOOT_MESSAGES = re.compile(r"Linux version |\[ *\d+\.\d+\] |systemd\[1\]: |Starting .*\.\.\.|Welcome to ")

PROMPT_MAY_TAKE = 240
"""Seconds after ssh answers; the prompt comes late in the boot of a slow guest."""


@pytest.fixture
def output(instance: Instance) -> str:
    """All of the console so far; skips in clouds that have none."""
    try:
        return instance.console_output()
    except NotImplementedError:
        pytest.skip("this cloud has no serial console")


@pytest.fixture
def serial_consoles(host: Host) -> list[str]:
    """The serial lines among the guest's consoles."""
    active = host.run("cat /sys/class/tty/console/active").stdout.split()
    return [name for name in active if SERIAL.fullmatch(name)]


@pytest.mark.dib_first_boot
def test_boot_is_on_the_console(instance: Instance, output: str) -> None:
    """The console holds messages of the kernel or the init system.

    If this fails, a boot that hangs cannot be examined: add ``console=ttyS0`` to the kernel's command line.
    """
    assert BOOT_MESSAGES.search(output), (
        f"no boot message in the {len(output)} characters on {instance.name}'s console; "
        f"the last of them:\n{output[-500:]}"
    )


def test_kernel_uses_a_serial_console(host: Host, serial_consoles: list[str]) -> None:
    """The kernel writes its messages to a serial line.

    If this fails, ``console=ttyS0`` (``ttyAMA0`` on ARM) is missing on the command line, or the driver is.
    """
    assert serial_consoles, (
        f"consoles: {host.run('cat /sys/class/tty/console/active').stdout.split()}; "
        f"command line: {host.run('cat /proc/cmdline').stdout.strip()}"
    )


@pytest.mark.dib_first_boot
def test_login_prompt_is_on_the_console(
    host: Host,
    instance: Instance,
    serial_consoles: list[str],
    variable: Callable[..., str],
    settle: Callable[..., None],
) -> None:
    """A login prompt waits on the serial console, where the image promises one.

    systemd promises one on every serial console of the kernel, inittab on those it names; CONSOLE_LOGIN in
    ``environment_variables`` says ``yes`` or ``no`` for the image. If this fails, is serial-getty masked?
    """
    inittab = host.run("grep -E '^[^#].*getty' /etc/inittab 2>/dev/null").stdout
    promised = host.file("/run/systemd/system").is_directory or any(
        name in inittab for name in serial_consoles
    )
    wanted = variable("CONSOLE_LOGIN", "yes" if promised and serial_consoles else "no").lower()
    if wanted in ("no", "false", "0"):
        pytest.skip(f"{instance.name} promises no login on the serial console")

    def problem() -> str:
        shown = instance.console_output()
        if re.search(r"login: ?", shown):
            return ""
        gettys = host.run(
            "systemctl list-units --all --no-legend --plain --no-pager '*getty@*' 2>/dev/null"
        ).stdout
        units = f"getty units:\n{gettys or 'none'}"
        return f"no login prompt on {serial_consoles}; {units}\nlast output:\n{shown[-500:]}"

    settle(problem, PROMPT_MAY_TAKE)
