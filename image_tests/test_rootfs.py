"""The root filesystem has grown to the disk that the flavor gives.

An image is built small and grows on its first boot: growpart enlarges the partition, resize2fs or
xfs_growfs the filesystem. When that does not happen the guest works, until its few free megabytes are used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Flavor, Instance

pytestmark = pytest.mark.usefixtures("instance")

MIB = 1024**2
GIB = 1024**3
SECTOR = 512

LOST_TO_METADATA = 0.15
"""Share of a device that journal and inode tables may take, as df counts; DIB's ext4 takes 6 % and 64 MiB."""

ROOT_FACTS = "grep ' / ' /proc/mounts; df -k /; df -i /"

GROWING_MAY_TAKE = 120
"""Seconds; cloud-init may resize in the background."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RootDevice:
    """The block device of the root filesystem and the disk it lies on; sizes in bytes."""

    name: str
    size: int
    disk: str
    disk_size: int
    partitions: dict[str, int]


# The last mount on / is the one that is seen. Then its device's directory in sysfs, and a line for the device
# and for each part of its disk: whether it is a partition, sectors, directory. There is no directory of a
# device that is none, and some readlinks print nothing then. All is one line, since csh ends a quoted text at
# the end of its line.
LOOK = """\
number=; mounted=; \
while read -r _ _ device _ point options _; do \
    if [ "$point" = / ]; then number=$device; mounted=$options; fi; \
done < /proc/self/mountinfo; \
echo "root $number $mounted"; \
here=$(readlink -f "/sys/dev/block/$number"); \
if [ -e "$here/size" ]; then \
    echo "device $here"; \
    for directory in "$here" "${here%/*}" "${here%/*}"/*; do \
        if [ -e "$directory/size" ]; then \
            read -r sectors < "$directory/size"; \
            test -e "$directory/partition" && kind=partition || kind=whole; \
            echo "$kind $sectors $directory"; \
        fi; \
    done; \
fi"""
ROOT = re.compile(r"^root (.*)$", re.MULTILINE)
DEVICE = re.compile(r"^device (/.+)$", re.MULTILINE)
PART = re.compile(r"^(whole|partition) (\d+) (/.+)$", re.MULTILINE)


@pytest.fixture
def root_device(host: Host, instance: Instance) -> RootDevice:
    return root_device_of(host, instance.name)


def root_device_of(host: Host, guest: str) -> RootDevice:
    """Return what the root filesystem lies on; skip the test where that is no plain disk."""
    answer = host.check_output("sh -c %s", LOOK)
    root, device, parts = ROOT.search(answer), DEVICE.search(answer), PART.findall(answer)
    if root is None:
        pytest.fail(f"{guest} does not say what is mounted on /: {answer[:1000]}", pytrace=False)
    if device is None:
        pytest.skip(
            f"the root filesystem of {guest} is not on a block device (device and options: {root[1]})"
        )
    sysfs = device[1]
    parent, _, name = sysfs.rpartition("/")
    sizes = {directory: int(sectors) * SECTOR for _, sectors, directory in parts}
    partitions = {directory for kind, _, directory in parts if kind == "partition"}
    if not sizes.keys() >= {sysfs, *([parent] if sysfs in partitions else [])}:
        pytest.fail(f"{guest} does not say how large {sysfs} is: {answer[:1000]}", pytrace=False)
    if sysfs not in partitions:
        if name.startswith(("dm-", "md")):
            pytest.skip(f"the root filesystem of {guest} is on {name}; only plain disks are understood")
        return RootDevice(name=name, size=sizes[sysfs], disk=name, disk_size=sizes[sysfs], partitions={})
    return RootDevice(
        name=name,
        size=sizes[sysfs],
        disk=parent.rpartition("/")[2],
        disk_size=sizes[parent],
        partitions={
            directory.rpartition("/")[2]: sizes[directory]
            for directory in partitions
            if directory.rpartition("/")[0] == parent
        },
    )


@pytest.mark.dib_first_boot
@pytest.mark.dib_needs("disk", "root-growth")
def test_disk_has_the_size_of_the_flavor(root_device: RootDevice, flavor: Flavor) -> None:
    """The guest sees a disk as large as the flavor promises.

    If this fails, the cloud is at fault, not the image: the disk was made too small, or the instance boots
    from a volume while the flavor has another size.
    """
    if flavor.disk == 0:
        pytest.skip(f"flavor {flavor.name} promises no disk size (boot from volume)")
    assert root_device.disk_size >= flavor.disk * GIB, (
        f"/dev/{root_device.disk} has {root_device.disk_size / GIB:.2f} GiB, "
        f"flavor {flavor.name} promises {flavor.disk} GiB"
    )


@pytest.mark.dib_first_boot
@pytest.mark.dib_needs("disk", "root-growth")
def test_partitions_take_the_whole_disk(root_device: RootDevice) -> None:
    """No space is left outside the partitions (a root filesystem on the bare disk leaves none).

    If this fails, growpart did not run: is ``cloud-guest-utils`` (``cloud-utils-growpart``) in the image,
    is the root partition the last one on the disk? ``grep growpart /var/log/cloud-init.log`` tells.
    """
    used = sum(root_device.partitions.values()) if root_device.partitions else root_device.size
    unused = root_device.disk_size - used
    sizes = {name: f"{size // MIB} MiB" for name, size in root_device.partitions.items()}
    assert unused <= max(64 * MIB, root_device.disk_size // 50), (
        f"{unused // MIB} MiB of /dev/{root_device.disk} ({root_device.disk_size // MIB} MiB) belong to no "
        f"partition; the partitions are {sizes}"
    )


@pytest.mark.dib_first_boot
@pytest.mark.dib_needs("disk", "root-growth")
def test_filesystem_takes_the_whole_device(
    root_device: RootDevice, host: Host, settle: Callable[..., None]
) -> None:
    """The root filesystem is as large as the device it lies on.

    If this fails, the filesystem was not resized: look for ``resizefs`` in /var/log/cloud-init.log; the tool
    (resize2fs, xfs_growfs) may be missing, or ``resize_rootfs`` may be off.
    """

    def problem() -> str:
        kib = int(host.check_output("df -P -k /").splitlines()[-1].split()[1])
        if kib * 1024 >= root_device.size * (1 - LOST_TO_METADATA):
            return ""
        return (
            f"the filesystem on / has {kib // 1024} MiB, "
            f"its device /dev/{root_device.name} has {root_device.size // MIB} MiB"
        )

    settle(problem, GROWING_MAY_TAKE)


@pytest.mark.dib_needs("disk")
def test_root_filesystem_is_writable(host: Host, instance: Instance) -> None:
    """A file can be made on the root filesystem.

    If this fails, it is mounted read-only (``dmesg`` tells of filesystem errors) or it is full.
    """
    command = (
        'f=$(mktemp /var/tmp/dibctl.XXXXXX) && echo kept > "$f" && cat "$f"; code=$?; rm -f "$f"; exit $code'
    )
    result = host.run(command)
    assert result.stdout.strip() == "kept", (
        f"cannot write to /var/tmp in {instance.name}: {result.stderr.strip()}\n{host.run(ROOT_FACTS).stdout}"
    )
