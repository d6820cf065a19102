"""Images of other filesystems than ext4 as containers, and filesystems that cannot be in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.guards import container_root, image_views
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process
from tests.nspawn.bench import Bench
from tests.support import micro, overlay

pytestmark = pytest.mark.real

MAKERS = {
    "xfs": 'truncate --size 320M "$2"; mkfs.xfs -q "$2"',
    "btrfs": 'truncate --size 160M "$2"; mkfs.btrfs -q "$2"',
    "squashfs": 'mksquashfs "$1" "$2" -quiet -no-progress -noappend -comp zstd',
}
"""Shell code that makes the image ``$2``; ``$1`` are the files, which go into one that can be mounted."""
PACK = """
set -eu
mkdir "$3/from" "$3/to"
mount -o loop,ro "$0" "$3/from"
{make}
if [ "$4" != squashfs ]; then
    mount -o loop "$2" "$3/to"
    [ -z "$5" ] || btrfs -q subvolume create "$3/to/$5"
    cp -a "$1/." "$3/to/$5"
    umount "$3/to"
fi
"""


def packed(micro_files: Path, directory: Path, filesystem: str, subvolume: str = "") -> artifact.Artifact:
    """Return an image of a filesystem with the files of the micro image."""
    source, image = directory / "micro.raw", directory / f"{filesystem}.raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(micro_files / "micro.qcow2"), str(source)])
    script = PACK.format(make=MAKERS[filesystem])
    arguments = [str(source), str(directory / "from"), str(image), str(directory), filesystem, subvolume]
    process.run(
        ["unshare", "--mount", "--fork", "sh", "-c", script, *arguments], join_stderr=True, timeout=120
    )
    source.unlink()
    return artifact.inspect(image)


@pytest.mark.parametrize(
    ("filesystem", "subvolume"), [("xfs", ""), ("btrfs", ""), ("btrfs", "@"), ("squashfs", "")]
)
def test_it_is_booted_with_its_owners_and_can_be_written(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path, filesystem: str, subvolume: str
) -> None:
    made = bench()
    instance = made.boot(packed(micro_files, tmp_path, filesystem, subvolume))
    access = made.ready(instance)
    owners = access.run("stat -c %u:%g /etc/passwd /bin/busybox / /home/debian").output.split()
    assert owners == ["0:0", "0:0", "0:0", "1000:1000"]
    written = access.run("cd /etc && echo x >> passwd && mv os-release other && rm shadow && df -h /")
    assert written.returncode == 0, written.errors
    instance.rebuild()
    made.again(instance, access)
    listed = access.run("ls /etc/os-release /etc/shadow; ls /etc/other 2>/dev/null").output.split()
    assert listed == ["/etc/os-release", "/etc/shadow"]


def with_efi(micro_files: Path, directory: Path) -> Path:
    """Return a disk whose fstab names an EFI partition of FAT."""
    root = overlay.make(
        micro_files / "micro.qcow2",
        directory / "root.qcow2",
        files={"/etc/fstab": "PARTLABEL=efi /mnt vfat defaults 0 2\n"},
    )
    raw, disk = directory / "root.raw", directory / "disk.raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(root), str(raw)])
    size = raw.stat().st_size // micro.MIB + 1
    process.run(["truncate", "--size", f"{size + 8}M", str(disk)])
    table = (
        "label: gpt\nstart=1MiB, size=4MiB, name=efi, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
        f"start=5MiB, size={size}MiB, type=linux\n"
    )
    process.run(["sfdisk", "--quiet", str(disk)], stdin=table)
    process.run(["mformat", "-i", f"{disk}@@{micro.MIB}", "-T", "8192", "-h", "64", "-s", "32", "::"])
    (directory / "shown").write_text("yes\n")
    process.run(["mcopy", "-i", f"{disk}@@{micro.MIB}", str(directory / "shown"), "::shown"])
    process.run(["dd", f"if={raw}", f"of={disk}", "bs=1M", "seek=5", "conv=notrunc,sparse", "status=none"])
    return disk


def test_a_partition_of_fat_is_shown_as_it_is_or_said_to_be_missing(
    bench: Callable[..., Bench], micro_files: Path, tmp_path: Path
) -> None:
    made = bench()
    access = made.ready(made.boot(artifact.inspect(with_efi(micro_files, tmp_path))))
    told = [line for line in made.told if "/mnt" in line]
    if "\tvfat\n" in Path("/proc/filesystems").read_text():
        assert told == ["/mnt cannot be written in the container"]
        assert access.run("cat /mnt/shown; echo x > /mnt/new").output == "yes\n"
    else:
        [line] = told
        assert line.startswith("partition 1 (vfat, 4 MiB) is not shown as /mnt: ")
        assert access.run("ls /mnt").output == ""


def test_a_filesystem_whose_owners_cannot_be_mapped_is_told(tmp_path: Path) -> None:
    with (
        image_views.users_for("the container") as users,
        pytest.raises(ArtifactError, match=r"^/sys of the image is sysfs, and Linux \d.* cannot") as caught,
    ):
        container_root.show_to_users(users, Path("/"), "sys", tmp_path / "shown")
    assert "--dib-env=local" in str(caught.value.hint)
    assert list((tmp_path / "shown").iterdir()) == []
