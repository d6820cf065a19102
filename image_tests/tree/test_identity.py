"""Every instance of the image becomes itself: nothing that has to be unique is baked in.

Names of files that are there on purpose go, as patterns between blanks, into IDENTITY_ALLOWED in
``environment_variables`` of the image or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from .findings import Sign, content, find, present

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

HOST_KEYS = (
    *("/etc/ssh/ssh_host_*key*", "/usr/etc/ssh/ssh_host_*key*", "/etc/dropbear/*_host_key"),
    *("/etc/dropbear-initramfs/*_host_key", "/etc/dropbear/initramfs/*_host_key", "/etc/tinyssh/sshkeydir/*"),
)

MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")

MACHINE_ID = re.compile(rb"[0-9a-f]{32}", re.IGNORECASE)

UUID = rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

SEEDS = (
    *("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed"),
    *("/var/lib/misc/random-seed", "/var/lib/seedrng/seed.*", "/etc/random-seed", "/var/db/random-seed"),
    *("/boot/loader/random-seed", "/boot/efi/loader/random-seed", "/efi/loader/random-seed"),
)

LEASES = (
    *("/var/lib/dhcp/*.leases", "/var/lib/dhcp3/*.leases", "/var/lib/dhclient/*.lease*"),
    *("/var/lib/NetworkManager/*.lease", "/var/lib/systemd/network/*lease*/*", "/run/systemd/netif/leases/*"),
    *("/var/lib/dhcpcd/*.lease*", "/var/lib/dhcpcd/duid", "/var/lib/dhcpcd/secret", "/etc/dhcpcd.duid"),
    *("/etc/dhcpcd.secret", "/var/lib/dhcpv6/*duid*", "/var/lib/wicked/*.xml"),
)

RULES = ("/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/75-persistent-net-generator.rules")

CLOUD_INIT_STATE = (
    *("/var/lib/cloud/instance", "/var/lib/cloud/instances/*", "/var/lib/cloud/sem/*"),
    *("/var/lib/cloud/data/instance-id", "/var/lib/cloud/data/previous-*", "/var/lib/cloud/data/*.json"),
    *("/var/lib/cloud/data/set-hostname", "/run/cloud-init/instance-data*", "/var/log/cloud-init*.log"),
)

JOURNALS = ("/var/log/journal/*/*.journal",)

ADDRESS = rb"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b"

CARD = "belongs to one network card, which no instance has; match by driver or name, or remove the line"

CARDS = (
    Sign(
        names=("/etc/udev/rules.d/*.rules",),
        pattern=rb'^[^#\n]*(?:ATTR|SYSFS)\{address\}==?"' + ADDRESS,
        what=CARD,
    ),
    Sign(
        names=tuple(
            f"/etc/systemd/network/*.{name}"
            for kind in ("link", "network", "netdev")
            for name in (kind, f"{kind}.d/*.conf")
        ),
        pattern=rb"^[ \t]*(?:Permanent)?MACAddress[ \t]*=[^\n]*" + ADDRESS,
        what=CARD,
    ),
    Sign(
        names=("/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*"),
        pattern=rb"^[ \t]*(?:HWADDR|MACADDR|LLADDR)=['\"]?" + ADDRESS,
        what=CARD,
    ),
    Sign(
        names=("/etc/NetworkManager/system-connections/*",),
        pattern=rb"^(?:cloned-)?mac-address=" + ADDRESS,
        what=CARD,
    ),
    Sign(
        names=("/etc/netplan/*.yaml", "/etc/cloud/cloud.cfg.d/*.cfg"),
        pattern=rb"^[^#\n]*\bmac_?address['\"]?:[ \t]*['\"]?" + ADDRESS,
        what=CARD,
    ),
    Sign(
        names=("/etc/network/interfaces", "/etc/network/interfaces.d/*"),
        pattern=rb"^[ \t]*hwaddress[ \t]+(?:ether[ \t]+)?" + ADDRESS,
        what=CARD,
    ),
)
"""Configuration that holds for one network card, or gives all instances its address."""

STORAGE_NAMES = (
    Sign(
        names=("/etc/iscsi/initiatorname.iscsi",),
        pattern=rb"^[ \t]*InitiatorName[ \t]*=[ \t]*\S",
        what="the iSCSI name of one machine; let it hold `GenerateName=yes` instead",
    ),
    Sign(
        names=("/etc/nvme/hostnqn", "/etc/nvme/hostid"),
        pattern=rb"^[ \t]*(?:nqn\.|" + UUID + rb")",
        what="the NVMe name of one machine; remove it (`nvme gen-hostnqn` makes one)",
    ),
    Sign(
        names=("/etc/hostid",),
        pattern=rb"[^\0]",
        what="the host id that ZFS locks pools with; remove it (`zgenhostid` makes one)",
    ),
    Sign(
        names=("/etc/multipath/bindings", "/etc/multipath/wwids"),
        pattern=rb"^[ \t]*[^#\s]",
        what="names of disks of the machine that made the image; remove it, multipathd writes it anew",
    ),
    Sign(
        names=("/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*"),
        pattern=rb"^[^#\n]*\bIDTYPE=",
        what="disks of one machine, and LVM ignores others; remove it (`vgimportdevices -a` makes one)",
    ),
)

IDENTIFIERS = (
    Sign(
        names=("/var/lib/systemd/credential.secret",),
        what="the key that encrypts this machine's credentials; remove it, systemd makes one when needed",
    ),
    Sign(
        names=("/var/lib/NetworkManager/secret_key",),
        what="the secret that stable addresses and client ids come from; remove it",
    ),
    Sign(
        names=("/var/lib/NetworkManager/seen-bssids", "/var/lib/NetworkManager/timestamps"),
        pattern=UUID + rb"=",
        what="remembers connections of another machine; remove it",
    ),
    Sign(
        names=(
            "/etc/systemd/networkd.conf",
            "/etc/systemd/networkd.conf.d/*.conf",
            "/etc/systemd/network/*.network",
        ),
        pattern=rb"^[ \t]*DUIDRawData[ \t]*=[ \t]*\S",
        what="the DHCP identity of one machine, and all instances get one address; remove DUIDRawData",
    ),
    Sign(
        names=("/etc/popularity-contest.conf",),
        pattern=rb"^[ \t]*MY_HOSTID=['\"]?[0-9a-f]{32}",
        what="the id of one machine in Debian's statistics; purge the package, or empty MY_HOSTID",
    ),
    Sign(
        names=("/var/lib/yum/uuid", "/var/lib/zypp/AnonymousUniqueId", "/etc/openvswitch/system-id.conf"),
        pattern=UUID,
        what="the id of one machine; remove it, it is made anew",
    ),
    Sign(
        names=("/var/lib/mysql/auto.cnf",),
        pattern=rb"^[ \t]*server-uuid[ \t]*=[ \t]*" + UUID,
        what="the id of one MySQL server, and replication takes two for one; remove it, mysqld makes one",
    ),
    Sign(names=("/var/lib/whoopsie/whoopsie-id",), what="the id of one machine in crash reports; remove it"),
    Sign(
        names=("/var/lib/snmp/snmpd.conf", "/var/lib/net-snmp/snmpd.conf"),
        pattern=rb"^[ \t]*(?:oldEngineID|usmUser)[ \t]+\S",
        what="the SNMP engine of one machine; remove it, snmpd makes one",
    ),
)
"""What programs tell machines apart by, written when they were installed or first started."""


def test_no_host_keys(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """The ssh server has no key yet: shared by all instances, it would prove nothing.

    If this fails, remove /etc/ssh/ssh_host_* in a finalise.d script; cloud-init makes keys on the first boot,
    elsewhere ``ssh-keygen -A`` has to be run before sshd. Installing openssh-server makes keys.
    """
    refuse("host keys are in the image", present(image_tree, *HOST_KEYS), "IDENTITY_ALLOWED")


def test_no_machine_id(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """The machine id is made on the first boot: machines that share one get one address by DHCP.

    If this fails, empty /etc/machine-id at the very end of the build (DIB: finalise.d), and do not remove it.
    """
    found = [name for name in MACHINE_IDS if MACHINE_ID.search(content(image_tree, name))]
    refuse("a machine id is in the image; empty the file", found, "IDENTITY_ALLOWED")


def test_no_random_seed(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No instance starts with the random numbers of another one.

    If this fails, remove the file in a finalise.d script: something was booted, or a service was started.
    """
    refuse("a random seed is in the image; remove it", present(image_tree, *SEEDS), "IDENTITY_ALLOWED")


def test_no_traces_of_a_boot(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """Nothing is left of a machine that was: DHCP leases, names of its network cards, cloud-init's state.

    If this fails, the image was made of a machine that ran: ``cloud-init clean --logs`` before it is shut
    down, and remove the files named here.
    """
    found = present(image_tree, *LEASES, *RULES, *CLOUD_INIT_STATE, *JOURNALS)
    what = "traces of another machine are in the image; `cloud-init clean --logs`, and remove them"
    refuse(what, found, "IDENTITY_ALLOWED")


def test_no_network_cards(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No configuration names the network card of one machine: instances would stay without a network.

    If this fails, an installer or cloud-init wrote the address of the card it saw. Match by driver or name,
    or leave the file out, and have cloud-init write it.
    """
    refuse("addresses of network cards are in the image", find(image_tree, CARDS), "IDENTITY_ALLOWED")


def test_no_storage_names(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """Storage can tell the instances apart: two initiators of one name break each other's sessions.

    If this fails, remove the file in a finalise.d script. Installing open-iscsi or nvme-cli makes names.
    """
    refuse("names for storage are in the image", find(image_tree, STORAGE_NAMES), "IDENTITY_ALLOWED")


def test_no_identifiers(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No program finds an identifier that it made for another machine.

    If this fails, remove the file in a finalise.d script: the program makes it when it is started.
    """
    refuse(
        "identifiers of another machine are in the image", find(image_tree, IDENTIFIERS), "IDENTITY_ALLOWED"
    )
