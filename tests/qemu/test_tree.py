"""An image's files without a guest: read-only, and gone whatever happens."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dibctl.errors import ArtifactError, CommandError
from pytest_dibctl.guards import image_mount
from pytest_dibctl.image import artifact, tree
from pytest_dibctl.system import process
from tests.support import hostile, leaks, micro, overlay

pytestmark = pytest.mark.real


def test_files_are_read_and_nothing_can_be_written(micro_files: Path, tmp_path: Path) -> None:
    image = micro_files / "micro.qcow2"
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        assert "ID=micro" in opened.read("/etc/os-release")
        assert opened.path("/../../bin/sh").name == "busybox"
        assert "/bin/busybox" in {item.name for item in opened.walk()}
        command = (
            "touch /x; echo 1 >/proc/sys/kernel/panic; mknod /tmp/n b 7 0; mount -t tmpfs x /mnt; echo $$"
        )
        said = process.run(opened.command(["/bin/sh", "-c", command]), join_stderr=True).output
        assert said.count("Read-only file system") == 2
        assert "Operation not permitted" in said
        with pytest.raises(OSError, match="Read-only"):
            (opened.root / "x").touch()
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
    assert not leaks.loop_devices(tmp_path)
    assert not (tmp_path / "tree").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_dibctl.image import artifact, tree
with tree.opened(artifact.inspect(Path(sys.argv[1])), Path(sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_tool_leaves_no_process_and_no_loop_device(micro_files: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(micro_files / "micro.qcow2"), str(tmp_path / "tree")]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    session = os.environ[leaks.MARKER]
    assert leaks.settled(lambda: set(leaks.processes(session).values())) == set()
    assert leaks.settled(lambda: leaks.loop_devices(tmp_path)) == set()
    tree.remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "qed", "zstd"])
def test_any_format_is_read(micro_files: Path, tmp_path: Path, kind: str) -> None:
    image = tmp_path / f"micro.{kind}"
    source = str(micro_files / "micro.qcow2")
    how = ["-O", "qcow2", "-c", "-o", "compression_type=zstd"] if kind == "zstd" else ["-O", kind]
    process.run(["qemu-img", "convert", *how, source, str(image)])
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        assert "ID=micro" in opened.read("/etc/os-release")
        assert opened.partition == 0
        assert opened.filesystem == "ext4"
        with opened.disk.open("rb") as disk:
            disk.seek(1080)
            assert disk.read(2) == b"\x53\xef"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_the_root_of_a_whole_disk_is_found(whole_disk: micro.WholeDisk, tmp_path: Path, kind: str) -> None:
    with tree.opened(artifact.inspect(getattr(whole_disk, kind)), tmp_path / "tree") as opened:
        assert "ID=micro" in opened.read("/etc/os-release")
        assert opened.partition == 2
        assert len(opened.notes) == 1
        assert "partition 1 (vfat" in opened.notes[0]
        assert not opened.has_efi


def test_partitions_that_fstab_names_are_shown(micro_files: Path, tmp_path: Path) -> None:
    image = partitioned(micro_files, tmp_path, "LABEL=extra /mnt ext4 defaults 0 2\n")
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        assert opened.read("/mnt/shown") == "yes\n"
        assert opened.notes == ()
        assert opened.has_efi
        said = process.run(opened.command(["/bin/cat", "/mnt/shown"])).output
        assert said == "yes\n"


@pytest.mark.parametrize("where", ["/../../mnt", "/link", "/none"])
def test_mount_points_never_lead_out_of_the_image(micro_files: Path, tmp_path: Path, where: str) -> None:
    image = partitioned(micro_files, tmp_path, f"LABEL=extra {where} ext4 defaults 0 2\n")
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        if where == "/../../mnt":
            assert opened.read("/mnt/shown") == "yes\n"
        else:
            assert "is not shown: the image has no plain directory" in opened.notes[0]


def partitioned(micro_files: Path, directory: Path, fstab: str) -> Path:
    """Make a GPT disk of an empty EFI partition, the micro filesystem with ``fstab``, and one more."""
    spoiled = overlay.make(
        micro_files / "micro.qcow2",
        directory / "root.qcow2",
        files={"/etc/fstab": fstab},
        commands=["symlink link /tmp"],
    )
    root, extra, disk = directory / "root.raw", directory / "extra.raw", directory / "disk.raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(spoiled), str(root)])
    (directory / "content").mkdir()
    (directory / "content" / "shown").write_text("yes\n")
    process.run(["mkfs.ext4", "-q", "-L", "extra", "-d", str(directory / "content"), str(extra), "4M"])
    size = root.stat().st_size // micro.MIB + 1
    process.run(["truncate", "--size", f"{size + 16}M", str(disk)])
    table = (
        f"label: gpt\nstart=1MiB, size=4MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
        f"start=5MiB, size={size}MiB, type=linux\nstart={size + 6}MiB, size=4MiB, type=linux\n"
    )
    process.run(["sfdisk", "--quiet", str(disk)], stdin=table)
    for source, start in ((root, 5), (extra, size + 6)):
        options = ["bs=1M", f"seek={start}", "conv=notrunc,sparse", "status=none"]
        process.run(["dd", f"if={source}", f"of={disk}", *options])
    return disk


@pytest.mark.parametrize("content", [b"\0" * 4096, b"no image at all" * 300], ids=["empty", "text"])
def test_a_file_without_a_root_filesystem_is_told(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "bad.raw"
    image.write_bytes(content.ljust(1024 * 1024, b"\0"))
    with (
        pytest.raises(ArtifactError, match="neither a filesystem nor a partition table is on it"),
        tree.opened(artifact.inspect(image), tmp_path / "tree"),
    ):
        pytest.fail("it opened")
    assert not (tmp_path / "tree").exists()


def test_a_filesystem_that_is_no_root_is_told(tmp_path: Path) -> None:
    image = tmp_path / "data.raw"
    process.run(["mkfs.ext4", "-q", str(image), "4M"])
    with (
        pytest.raises(ArtifactError, match="no root filesystem was found on it"),
        tree.opened(artifact.inspect(image), tmp_path / "tree"),
    ):
        pytest.fail("it opened")


def test_a_journal_is_not_replayed(micro_files: Path, tmp_path: Path) -> None:
    """A read-only mount would write the journal's content into the filesystem, which cannot be written."""
    image = overlay.make(
        micro_files / "micro.qcow2", tmp_path / "dirty.qcow2", commands=["feature needs_recovery"]
    )
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        assert "ID=micro" in opened.read("/etc/os-release")


def test_the_daemon_never_has_to_unmount_what_only_it_can_read(micro_files: Path, tmp_path: Path) -> None:
    """It would wait for itself: the last task of a mount namespace unmounts what is there on its way out."""
    directory = tmp_path / "tree"
    with tree.opened(artifact.inspect(micro_files / "micro.qcow2"), directory) as opened:
        session = leaks.processes(os.environ[leaks.MARKER])
        [daemon] = [
            pid
            for pid, line in session.items()
            if line.startswith("qemu-storage-daemon") and str(directory) in line
        ]
        seen = {pid: Path(f"/proc/{pid}/mountinfo").read_text() for pid in (daemon, opened.pid)}
        assert f" {opened.mount_point} " in seen[opened.pid]
        assert f" {opened.mount_point} " not in seen[daemon]
        assert f" {directory}/disk " in seen[daemon]


def spoil(root: Path) -> None:
    (root / "etc/hostname").symlink_to("/etc/name")
    (root / "etc/name").write_text("of the image\n")
    (root / "etc/up").symlink_to("../../../../../../../etc/name")
    (root / "etc/machine").symlink_to("/etc/machine-only")
    (root / "etc/circle").symlink_to("/etc/circle")
    (root / "etc/private").symlink_to("/root")
    (root / "root").mkdir(mode=0o700)
    (root / "etc/shadow").write_text("")
    os.truncate(root / "etc/shadow", 40 << 30)
    os.mkfifo(root / "etc/pipe")
    os.mkfifo(root / "etc/fstab")


READS = """
cd "$1/etc" || exit 1
cat hostname up "$1/usr/../etc/hostname"
for name in machine circle; do cat "$name" 2>/dev/null && echo LEFT; done
readlink -f private
find -L "$1" -samefile /etc/passwd 2>/dev/null
stat -c %a ../root ../etc
touch new 2>/dev/null && echo WRITTEN
true
"""


def test_links_pipes_and_endless_files_do_no_harm(tmp_path: Path) -> None:
    image = hostile.image(tmp_path / "spoiled.raw", spoil)
    marker = Path("/etc/machine-only")
    assert not marker.exists()
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        for name in ("/etc/hostname", "/etc/up", "/../etc/hostname"):
            assert opened.read(name) == "of the image\n"
        assert opened.read("/etc/machine") == ""
        with pytest.raises(OSError, match="symbolic links"):
            opened.read("/etc/circle")
        for name in ("/etc/pipe", "/etc", "/dev"):
            with pytest.raises(OSError, match="no regular file"):
                opened.read(name)
            assert not opened.is_file(name)
        with pytest.raises(OSError, match=f"more than {tree.LONGEST} bytes"):
            opened.read("/etc/shadow")
        assert opened.read_bytes("/etc/shadow", 10) == bytes(10)
        view = str(opened.scripts_root)
        said = process.run(opened.inside(["sh", "-c", READS, "-", view]), join_stderr=True).output
        assert said.splitlines() == [*["of the image"] * 3, f"{view}/root", "700", "755"]


@pytest.mark.parametrize("filesystem", ["minix", "hfsplus", "ntfs", "f2fs"])
def test_filesystems_that_are_not_made_for_hostile_content_are_not_mounted(filesystem: str) -> None:
    part = image_mount.Part(number=0, start=0, size=1, facts={"TYPE": filesystem})
    with pytest.raises(CommandError, match=f"this is {filesystem}"):
        image_mount._own_options(part)


def test_an_image_cannot_ask_for_a_halt_of_this_machine(micro_files: Path, tmp_path: Path) -> None:
    """ext4 does what the superblock says at the first error: halt, if it is "panic"."""
    image = overlay.make(
        micro_files / "micro.qcow2", tmp_path / "halts.qcow2", commands=["set_super_value errors 3"]
    )
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        lines = Path(f"/proc/{opened.pid}/mountinfo").read_text().splitlines()
        [options] = [line.split(" - ")[1] for line in lines if line.split()[4] == str(opened.mount_point)]
        assert "errors=panic" not in options


def test_an_image_can_be_opened_twice(micro_files: Path, tmp_path: Path) -> None:
    built = artifact.inspect(micro_files / "micro.qcow2")
    with tree.opened(built, tmp_path / "one"), tree.opened(built, tmp_path / "two") as second:
        assert "ID=micro" in second.read("/etc/os-release")
    assert not leaks.loop_devices(tmp_path)
