"""The loop devices by which Cinder's volumes, which are files, become disks."""

from __future__ import annotations

import json

from pytest_dibctl.system import process
from tests.openstack.cloud.layout import Layout


def attached(layout: Layout) -> list[str]:
    """Return the devices that are backed by files of the cloud, removed ones included."""
    listing = process.run(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]).output
    devices = json.loads(listing)["loopdevices"] if listing.strip() else []
    return [str(one["name"]) for one in devices if str(one["back-file"]).startswith(f"{layout.volumes}/")]


def detach(layout: Layout) -> None:
    """Free all of them; the kernel does it as soon as nobody uses one any more."""
    for device in attached(layout):
        process.run(["losetup", "--detach", device], check=False)
