"""The root of a container: the image's files, read-only, and over them a disk that takes what is written.

The disk is a file of limited size in the instance's directory, with a filesystem of ours, so that no
container fills this machine's disk or memory. The image's files show the owners that the container's users
are outside.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.errors import ArtifactError, CommandError, InstanceError
from pytest_dibctl.guards import container_files, container_machine, image_mount
from pytest_dibctl.guards.image_views import mount_points, users_for
from pytest_dibctl.guards.mounts import filesystem_at, mount
from pytest_dibctl.system import kernel, process

TREE: Final = "tree"
"""Where everything of the image is mounted, in the instance's directory."""
DISK: Final = "disk.img"
LOWER, WRITTEN, ROOT = "lower", "written", "container"
"""In there: the image's filesystems, the mounted disk, and the container's root."""
GIB: Final = 1 << 30
COPIED: Final = 600.0
"""Seconds that a copy of the disk may take."""

_OVERLAY: Final = ("nodev", "redirect_dir=on", "metacopy=off", "index=off", "volatile")
"""The written data is thrown away, so no answer has to wait for the disk."""


class ContainerRoot:
    """The root of the instance whose files are in ``directory``; ``notes`` say what of the image is missing.

    It is mounted at ``path`` after ``prepare``.
    """

    def __init__(self, directory: Path, spec: Mapping[str, Any], points: list[str], notes: list[str]) -> None:
        self.notes = notes
        self.path = directory / TREE / ROOT
        self._directory = directory
        self._spec = spec
        self._points = points
        self._mounted: list[Path] = []

    @classmethod
    def opened(cls, directory: Path, spec: Mapping[str, Any]) -> ContainerRoot:
        """Mount the image read-only, and a first disk; raises DibctlError and OSError."""
        here = container_machine.moved(directory)
        tree = here / TREE
        opened = image_mount.mount_image(Path(spec["image"]), spec["format"], tree)
        container_machine.close_to_writing({here, tree})
        (tree / LOWER).mkdir()
        points = [str(point.relative_to(opened.root)) for point in mount_points(opened.root)]
        with users_for("the container") as users:
            for number, point in enumerate(points):
                show_to_users(users, opened.root, point, tree / LOWER / str(number))
        root = cls(here, spec, points, opened.notes)
        for name in (WRITTEN, ROOT):
            (tree / name).mkdir()
        root.renew()
        return root

    def prepare(self, *, first: bool) -> None:
        """Write, before the ``first`` boot from a new disk, what the container is to find there.

        Raises InstanceError for an image that cannot be booted or logged in to, and OSError.
        """
        container_files.refuse_links(self.path)
        if first:
            container_files.write(self.path, self._spec)

    def has_systemd(self) -> bool:
        """Whether systemd is what systemd-nspawn will find as init."""
        return container_files.has_systemd(self.path)

    def renew(self, snapshot: str | None = None) -> None:
        """Have the root be as in the image again, or as in a snapshot; raises DibctlError and OSError."""
        self._unmount()
        disk = self._directory / DISK
        disk.unlink(missing_ok=True)
        if snapshot is None:
            _make_filesystem(disk, self._spec["disk"] * GIB)
        else:
            _copy(self.require_snapshot(snapshot), disk)
        self._mount(disk)

    def snapshot(self, name: str) -> None:
        """Copy the disk as it is now; no process may write to it meanwhile.

        The filesystem is not frozen: a frozen one would outlive this process, and its mount, for ever.
        Raises InstanceError where there is not enough room, and OSError.
        """
        disk, copy = self._directory / DISK, self._snapshot_file(name)
        draft = copy.with_suffix(".draft")
        written = os.open(self._directory / TREE / WRITTEN, os.O_RDONLY | os.O_DIRECTORY)
        try:
            kernel.write_filesystem(written)
            needed, free = disk.stat().st_blocks * 512, shutil.disk_usage(self._directory).free
            if free < needed:
                raise InstanceError(
                    f"a snapshot takes {needed >> 20} MiB, and {free >> 20} MiB are free",
                    hint=f"make room on the filesystem of {self._directory}, or set TMPDIR to a larger one",
                )
            _copy(disk, draft)
            draft.replace(copy)
        finally:
            os.close(written)
            draft.unlink(missing_ok=True)

    def require_snapshot(self, name: str) -> Path:
        """Return the file of a snapshot; raises InstanceError when there is none."""
        path = self._snapshot_file(name)
        if not path.exists():
            raise InstanceError(f"there is no snapshot {name}")
        return path

    def _snapshot_file(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
            raise InstanceError(f"{name!r}: not a name for a snapshot")
        return self._directory / f"at-{name}.img"

    def _mount(self, disk: Path) -> None:
        written = self._directory / TREE / WRITTEN
        mount(str(disk), written, kind="ext4", options=("loop", "nodev", "noatime"))
        self._mounted.append(written)
        for number, point in enumerate(self._points):
            self._lay_over(number, point)

    def _lay_over(self, number: int, point: str) -> None:
        """Lay room to write over one filesystem of the image."""
        tree = self._directory / TREE
        lower, target = tree / LOWER / str(number), self.path / point
        upper, work = tree / WRITTEN / f"upper{number}", tree / WRITTEN / f"work{number}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if not upper.exists():
            upper.mkdir()
            status = lower.stat()
            os.chown(upper, status.st_uid, status.st_gid)
            upper.chmod(status.st_mode & 0o7777)
        layers = (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")
        try:
            mount("overlay", target, kind="overlay", options=(*_OVERLAY, *layers))
        except CommandError as error:
            if point == ".":
                raise ArtifactError(
                    f"nothing can be laid over the image's files: {error.message.splitlines()[-1].strip()}",
                    hint="the container engine needs overlayfs on mapped mounts: Linux 5.19 or newer",
                ) from None
            # FAT knows no such layers: it is shown as it is.
            mount(str(lower), target, options=("bind",))
            self.notes.append(f"/{point} cannot be written in the container")
        self._mounted.append(target)

    def _unmount(self) -> None:
        while self._mounted:
            process.run(["umount", str(self._mounted[-1])], timeout=60)
            self._mounted.pop()


def show_to_users(users: int, root: Path, point: str, target: Path) -> None:
    """Mount what is mounted at ``point`` of the tree ``root`` at ``target``, its owners mapped to ``users``.

    Raises ArtifactError where the filesystem, or this kernel's driver of it, cannot map owners.
    """
    source = root / point
    target.mkdir()
    copy = kernel.clone_mount(str(source))
    try:
        kernel.map_owners(copy, users)
        kernel.attach_mount(copy, str(target))
    except OSError as error:
        where, kind = os.path.normpath(f"/{point}"), filesystem_at(source)
        raise ArtifactError(
            f"{where} of the image is {kind}, and Linux {platform.release()} cannot show files of a {kind} "
            f"to the container's users: {error.strerror}",
            hint="boot it as a machine (--dib-env=local), or give the image a filesystem whose owners can be "
            "mapped, such as ext4, xfs or btrfs",
        ) from None
    finally:
        os.close(copy)


def _make_filesystem(path: Path, size: int) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)
    # Nothing of it has to outlive a crash: no journal, and no inode table that is cleared before it is used.
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-m", "0"]
    process.run(["mkfs.ext4", "-q", *options, str(path)], timeout=60)


def _copy(source: Path, target: Path) -> None:
    process.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], timeout=COPIED)
