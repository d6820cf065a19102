"""The clock is right and something keeps it right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host


pytestmark = pytest.mark.usefixtures("instance")

SYNCHRONISING_MAY_TAKE = 60
"""Seconds until a service that was started at boot must be up."""

# One call for all services would end at the first that is missing, before systemd 254.
ENABLED = """\
for unit in systemd-timesyncd chrony chronyd ntp ntpd ntpsec openntpd; do \
    state=$(systemctl is-enabled $unit 2>/dev/null); \
    echo "$unit $state"; \
    case $state in enabled | enabled-runtime | static) exit 0 ;; esac; \
done; exit 1"""
PROCESSES = frozenset({"systemd-timesyn", "chronyd", "ntpd"})
"""As the kernel calls them: at most 15 characters."""


@pytest.mark.dib_first_boot
@pytest.mark.dib_needs("clock")
def test_clock_agrees_with_ours(host: Host, variable: Callable[..., str]) -> None:
    """The guest's clock and the clock of the machine that runs the tests agree.

    CLOCK_TOLERANCE in ``environment_variables`` is the allowed difference in seconds (60). If this fails,
    compare both with a third clock first; then see whether the hardware clock is taken for local time.
    """
    tolerance = float(variable("CLOCK_TOLERANCE", "60"))
    before = time.time()
    guest = int(host.check_output("date -u +%s"))
    after = time.time()
    off = max(before - guest - 1, guest - after, 0.0)
    assert off <= tolerance, (
        f"the guest's clock is {off:.0f} s off: {guest} there, {after:.0f} here (seconds, UTC)"
    )


def synchronised(host: Host) -> bool:
    """Say whether the kernel's clock is disciplined right now."""
    said = host.run(
        "timedatectl show -p NTPSynchronized --value 2>/dev/null || timedatectl 2>/dev/null"
    ).stdout
    return said.strip() == "yes" or "synchronized: yes" in said


@pytest.mark.dib_needs("clock")
def test_time_source_runs(host: Host, settle: Callable[..., None]) -> None:
    """The clock is synchronised, or a time service runs that would do it once its servers answer.

    If this fails, put systemd-timesyncd or chrony into the image and see that it is enabled, not masked.
    """

    def problem() -> str:
        running = host.run("cat /proc/[0-9]*/comm 2>/dev/null").stdout.split()
        # timedatectl starts a service in the guest, which takes a second of a slow one.
        if PROCESSES.intersection(running) or synchronised(host):
            return ""
        return f"the clock is not synchronised and none of {', '.join(sorted(PROCESSES))} runs"

    settle(problem, SYNCHRONISING_MAY_TAKE)


@pytest.mark.usefixtures("systemd")
def test_time_service_starts_at_boot(host: Host) -> None:
    """A time service is enabled, so that it comes back with the next boot.

    If this fails, it was started by hand: ``systemctl enable`` it in the image.
    """
    look = host.run("sh -c %s", ENABLED)
    assert look.rc == 0, f"no time service is enabled:\n{look.stdout}"
