"""libvirtd with files of its own, in the cloud's mount namespace."""

from __future__ import annotations

from pathlib import Path

from pytest_dibctl.system import process
from tests.openstack.cloud.layout import Layout
from tests.openstack.cloud.services import Supervisor

PLACES = {
    "etc": Path("/etc/libvirt"),
    "lib": Path("/var/lib/libvirt"),
    "cache": Path("/var/cache/libvirt"),
    "log": Path("/var/log/libvirt"),
}
"""Directories that are compiled into libvirtd, by their names in ours; the packages make them."""

QEMU = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""
"""For machines without systemd, cgroups to write to, and virtlogd."""

LIBVIRTD = """\
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""

SOCKET = Path("/run/libvirt/libvirt-sock")


def private_mounts(layout: Layout) -> None:
    """Put ours in the place of the machine's libvirt files, and an empty /run in that of its own.

    To be called in a mount namespace that nobody else is in.
    """
    process.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
    SOCKET.parent.mkdir()
    for name, place in PLACES.items():
        ours = layout.run / "libvirt" / name
        ours.mkdir(parents=True)
        process.run(["mount", "--bind", str(ours), str(place)])
    (layout.run / "libvirt" / "etc" / "qemu.conf").write_text(QEMU)
    (layout.run / "libvirt" / "etc" / "libvirtd.conf").write_text(LIBVIRTD)


def start(layout: Layout, supervisor: Supervisor) -> None:
    """Start libvirtd; guests that it starts end with the cloud's pid namespace."""
    supervisor.start("libvirtd", "libvirtd", "--config", PLACES["etc"] / "libvirtd.conf")
