"""The guest is called what the cloud calls the instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

pytestmark = pytest.mark.dib_first_boot


def short(name: str) -> str:
    return name.strip().partition(".")[0].lower()


def test_hostname_is_the_instances_name(instance: Instance, host: Host) -> None:
    """The kernel's hostname is the instance's name; a domain behind it does not matter.

    If this fails, the metadata was not read (see the cloud-init tests), ``preserve_hostname`` is set, or
    the image has a fixed name.
    """
    name = host.check_output("cat /proc/sys/kernel/hostname")
    assert short(name) == short(instance.name), f"the guest is called {name}, the instance {instance.name}"


def test_hostname_is_written_down(instance: Instance, host: Host) -> None:
    """/etc/hostname holds the name, so that it outlives a reboot without metadata.

    If this fails while the test above passes, the name came with DHCP only.
    """
    name = host.run("cat /etc/hostname").stdout
    assert short(name) == short(instance.name), f"/etc/hostname says {name.strip()!r}, not {instance.name}"


def test_guest_resolves_its_own_name(instance: Instance, host: Host, tool: Callable[..., str]) -> None:
    """The guest's own name has an address.

    If this fails, sudo and mail complain or wait for DNS: install libnss-myhostname, or let cloud-init
    write /etc/hosts (``manage_etc_hosts: true``).
    """
    result = host.run("%s hosts $(cat /proc/sys/kernel/hostname)", tool("getent"))
    assert result.rc == 0, (
        f"{instance.name} does not know its own name; "
        f"{host.run('grep ^hosts: /etc/nsswitch.conf; cat /etc/hosts').stdout}"
    )
