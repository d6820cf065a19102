"""The instance survives a reboot. The first of these tests reboots it, the others look at what came back."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

pytestmark = [pytest.mark.usefixtures("instance"), pytest.mark.dib_needs("kernel", "boot-loader", "initrd")]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
MARK = "/var/tmp/dibctl-before-the-reboot"  # noqa: S108 -- in the guest; /tmp may be in memory there

BOOT_MAY_TAKE = 240
"""Seconds after ssh answers until the last service of a slow guest has started."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Before:
    """What the guest was like before its reboot."""

    boot_id: str
    mark: str
    hostname: str
    addresses: list[str]
    failed: set[str]


ADDRESSES = "PATH=$PATH:/usr/sbin:/sbin ip -o -4 addr show"
"""IPv4 only: an IPv6 address may need another minute to come back."""

FAILED_UNITS = "systemctl list-units --failed --no-legend --plain --no-pager 2>/dev/null"


def addresses_in(text: str) -> list[str]:
    return sorted(" ".join(line.split()[1:4]) for line in text.splitlines() if line.strip())


def units_in(text: str) -> set[str]:
    """Return the failed units; none where there is no systemd."""
    return {line.split()[0] for line in text.splitlines() if line.strip()}


@pytest.fixture(scope="module")
def memory(instance: Instance) -> dict[str, Before | None]:
    """What was noted of this instance; another instance gets another memory."""
    del instance
    return {}


@pytest.fixture
def before(host: Host, reboot: Callable[..., object], memory: dict[str, Before | None]) -> Before:
    """Reboot the instance, once for all tests of this file, and return what it was like."""
    if "before" not in memory:
        memory["before"] = None
        state = note(host)
        reboot(hard=False)
        memory["before"] = state
    if (noted := memory["before"]) is None:
        pytest.fail("the reboot failed, see the first of these tests", pytrace=False)
    return noted


def note(host: Host) -> Before:
    mark = uuid.uuid4().hex
    # No sync: an orderly shutdown writes everything, and only that is a survived reboot.
    noted = host.check_output(
        "sh -c %s",
        f"rm -f {MARK} && echo {mark} > {MARK} || exit 1; echo {mark}; cat {BOOT_ID}; echo {mark}; "
        f"cat /proc/sys/kernel/hostname; echo {mark}; {ADDRESSES}; echo {mark}; {FAILED_UNITS}; true",
    )
    # Before the first mark is what the login shell of the guest may say.
    parts = noted.split(mark)
    if len(parts) != 5:
        pytest.fail(
            f"the guest does not say what it is like before its reboot: {noted[:1000]}", pytrace=False
        )
    _, boot_id, hostname, addresses, units = parts
    return Before(
        boot_id=boot_id.strip(),
        mark=mark,
        hostname=hostname.strip("\n"),
        addresses=addresses_in(addresses),
        failed=units_in(units),
    )


def test_it_comes_back_from_a_reboot(host: Host, before: Before) -> None:
    """ssh answers again, and it is another boot that answers.

    If this fails in the setup, the guest does not start a second time: read the console's last lines. If the
    boot id is the same, the guest ignored the request: is there an ACPI handler (systemd-logind, acpid)?
    """
    assert host.check_output("cat %s", BOOT_ID) != before.boot_id, f"the boot id is still {before.boot_id}"


def test_files_survive_a_reboot(host: Host, before: Before) -> None:
    """A file written just before the reboot is still there, with its content.

    If this fails, the root filesystem is not kept (overlay in memory?), or the shutdown was not orderly.
    """
    found = host.run("cat %s", MARK)
    assert found.stdout.strip() == before.mark, f"{MARK}: {found.stdout.strip() or found.stderr.strip()}"
    host.run("rm -f %s", MARK)


def test_hostname_survives_a_reboot(host: Host, before: Before) -> None:
    """The guest has the same name as before.

    If this fails, see the hostname tests: the name was never written down, or a service sets another one.
    """
    assert host.check_output("cat /proc/sys/kernel/hostname") == before.hostname


def test_addresses_survive_a_reboot(host: Host, before: Before, settle: Callable[..., None]) -> None:
    """The interfaces have the same names and IPv4 addresses as before.

    If this fails with changed names, interface naming differs between boots (``net.ifnames``, udev rules).
    """

    def problem() -> str:
        now = addresses_in(host.run("sh -c %s", ADDRESSES).stdout)
        return "" if now == before.addresses else f"before: {before.addresses}; now: {now}"

    settle(problem, BOOT_MAY_TAKE)


@pytest.mark.usefixtures("systemd")
def test_no_unit_fails_on_the_second_boot(host: Host, before: Before, settle: Callable[..., None]) -> None:
    """No unit is in state "failed" that was not failed before the reboot.

    If this fails, the unit works on a first boot only: something it makes is already there.
    """

    units: set[str] = set()

    def problem() -> str:
        look = f'echo "$(systemctl is-system-running)"; {FAILED_UNITS}'
        now, _, listed = host.run("sh -c %s", look).stdout.partition("\n")
        units.clear()
        units.update(units_in(listed))
        return "" if now in ("running", "degraded") else f"systemd is still {now or 'silent'}"

    settle(problem, BOOT_MAY_TAKE)
    new = units - before.failed
    assert not new, f"failed since the reboot: {', '.join(sorted(new))}"
