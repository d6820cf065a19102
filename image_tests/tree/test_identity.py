"""Every instance of the image becomes itself: nothing that has to be unique is baked in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

HOST_KEYS = ("/etc/ssh/ssh_host_*key*", "/etc/dropbear/*_host_key", "/usr/etc/ssh/ssh_host_*key*")

MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")

MACHINE_ID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)

SEEDS = (
    *("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed"),
    *("/boot/efi/loader/random-seed", "/efi/loader/random-seed"),
)

LEASES = (
    *("/var/lib/dhcp/*.leases", "/var/lib/dhclient/*.lease*", "/var/lib/NetworkManager/*.lease"),
    *("/var/lib/dhcpcd/*.lease*", "/var/lib/dhcpcd/duid", "/var/lib/dhcpcd/secret"),
)

RULES = ("/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/75-persistent-net-generator.rules")

CLOUD_INIT_STATE = (
    *("/var/lib/cloud/instance", "/var/lib/cloud/instances/*"),
    "/var/lib/cloud/data/instance-id",
)


def present(tree: ImageTree, *patterns: str) -> list[str]:
    """Return what is there and not empty; a directory counts."""
    names = [name for pattern in patterns for name in tree.glob(pattern)]
    found = []
    for name in names:
        path = tree.path(name)
        if path.is_dir() or (path.is_file() and path.stat().st_size):
            found.append(name)
    return found


def test_no_host_keys(image_tree: ImageTree) -> None:
    """The ssh server has no key yet: shared by all instances, it would prove nothing.

    If this fails, remove /etc/ssh/ssh_host_* in a finalise.d script; cloud-init makes keys on the first boot,
    elsewhere ``ssh-keygen -A`` has to be run before sshd. Installing openssh-server makes keys.
    """
    found = present(image_tree, *HOST_KEYS)
    assert not found, f"host keys are in the image: {', '.join(found)}"


def test_no_machine_id(image_tree: ImageTree) -> None:
    """The machine id is made on the first boot: machines that share one get one address by DHCP.

    If this fails, empty /etc/machine-id at the very end of the build (DIB: finalise.d), and do not remove it.
    """
    found = [name for name in MACHINE_IDS if MACHINE_ID.search(image_tree.read(name))]
    assert not found, f"a machine id is in the image: {', '.join(found)}"


def test_no_random_seed(image_tree: ImageTree) -> None:
    """No instance starts with the random numbers of another one.

    If this fails, remove the file in a finalise.d script: something was booted, or a service was started.
    """
    found = present(image_tree, *SEEDS)
    assert not found, f"a random seed is in the image: {', '.join(found)}"


def test_no_traces_of_a_boot(image_tree: ImageTree) -> None:
    """Nothing is left of a machine that was: DHCP leases, names of its network cards, cloud-init's state.

    If this fails, the image was made of a machine that ran: ``cloud-init clean --logs`` before it is shut
    down, and remove the files named here.
    """
    found = present(image_tree, *LEASES, *RULES, *CLOUD_INIT_STATE)
    assert not found, f"traces of another machine are in the image: {', '.join(found)}"
