"""systemd has started everything it was to start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

# In a container systemd leaves out the units that wait for devices, mounts and modules.
pytestmark = [
    pytest.mark.usefixtures("instance", "systemd"),
    pytest.mark.dib_first_boot,
    pytest.mark.dib_needs("kernel", "modules", "disk"),
]

BOOT_MAY_TAKE = 240
"""Seconds after ssh answers until the last service of a slow guest has started."""


def boot_is_over(host: Host) -> str:
    now, _, jobs = host.run(
        "sh -c %s",
        'state=$(systemctl is-system-running); echo "$state"; '
        "case $state in running | degraded) ;; *) systemctl list-jobs --no-legend --no-pager ;; esac",
    ).stdout.partition("\n")
    if now in ("running", "degraded"):
        return ""
    return f"systemd is still {now or 'silent'}; it works on:\n{jobs.strip() or 'nothing'}"


def failed_units(host: Host) -> list[str]:
    lines = host.run("systemctl list-units --failed --no-legend --plain --no-pager").stdout.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def test_boot_comes_to_its_end(host: Host, settle: Callable[..., None]) -> None:
    """No start job is left waiting.

    If this fails, a unit waits for something that never comes: a device, a mount, the network.
    """
    settle(lambda: boot_is_over(host), BOOT_MAY_TAKE)


def test_no_unit_failed(host: Host, settle: Callable[..., None], variable: Callable[..., str]) -> None:
    """No unit is in state "failed".

    ALLOWED_FAILED_UNITS in ``environment_variables`` lists units that may fail. If this fails, the status
    and the journal of each unit are below.
    """
    settle(lambda: boot_is_over(host), BOOT_MAY_TAKE)
    bad = [unit for unit in failed_units(host) if unit not in variable("ALLOWED_FAILED_UNITS").split()]
    told = "\n".join(
        host.run(
            "$(sudo -n true 2>/dev/null && echo sudo -n) systemctl status --no-pager --full %s 2>&1", unit
        ).stdout
        for unit in bad
    )
    assert not bad, f"failed: {', '.join(bad)}\n{told}"
