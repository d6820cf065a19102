"""The files that a container's root gets before its first boot: the seed, or a key if there is no cloud-init.

The root is an image's, so any name in it may be a link to anywhere. Names are resolved as by a process whose
root it is (openat2). To write a file, an entry of its name is removed and a new file is made.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guards.container_machine import INITS, SYSTEMD
from pytest_dibctl.guards.namespace import FIRST_USER, USERS
from pytest_dibctl.system import kernel

MOUNT_POINTS: Final = ("dev", "proc", "run", "sys", "tmp")
"""Directories of the image that systemd-nspawn mounts on."""
CLOUD_INIT: Final = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init", "/bin/cloud-init")
HOME: Final = 5
"""The field of a line of passwd that says where a user's home is."""
LONGEST: Final = 1 << 20
"""Bytes of a file of the image that is read."""
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(root: Path, spec: Mapping[str, Any]) -> None:
    """Write the seed into ``root``, and for an image without cloud-init the keys to their places.

    Raises InstanceError for an image without an init, or without a possible login.
    """
    tree = _Tree(root)
    try:
        if not any(tree.exists(init) for init in INITS):
            raise InstanceError(
                f"the image has no init ({', '.join(INITS)}), so it cannot be booted as a container",
                hint="add systemd to the image, or test its files with `image` entries",
            )
        for name, text in spec["seed"].items():
            tree.write(name, text, mode=0o600)
        if not any(tree.exists(program) for program in CLOUD_INIT):
            _let_log_in(tree, spec)
    finally:
        tree.close()


def refuse_links(root: Path) -> None:
    """Raise InstanceError where systemd-nspawn would follow a link of ``root`` out of it.

    An image may have such links, and a container may have made them before it boots again.
    """
    for name in MOUNT_POINTS:
        path = root / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise InstanceError(
                f"/{name} of the image is not a plain directory, so the image cannot be booted as a "
                "container",
                hint="find the element that made it; an `image` entry can test it with image_tree",
            )


def has_systemd(root: Path) -> bool:
    """Whether ``root`` has a systemd; a link in there leads nowhere else."""
    tree = _Tree(root)
    try:
        return any(tree.exists(init) for init in SYSTEMD)
    finally:
        tree.close()


def _let_log_in(tree: _Tree, spec: Mapping[str, Any]) -> None:
    """Give the login user the run's key, and the ssh server its host key, in their usual places."""
    user = spec["user"]
    entry = next(
        (
            fields
            for fields in _passwd(tree)
            if fields[0] == user and all(re.fullmatch(r"[0-9]{1,9}", number) for number in fields[2:4])
        ),
        None,
    )
    if entry is None or max(int(entry[2]), int(entry[3])) >= USERS:
        raise InstanceError(
            f"the image has no cloud-init, and no user {user} who could be given the key"
            f"{_other_users(tree, user)}",
            hint="set tests.ssh.username to a user that is in the image, or build it with DIB's cloud-init "
            "or devuser element",
        )
    owner, group, home = int(entry[2]), int(entry[3]), entry[HOME] or "/"
    keys = f"{home}/.ssh/authorized_keys"
    known = tree.read(keys)
    tree.write(
        keys,
        (known if not known or known.endswith("\n") else f"{known}\n") + spec["public_key"] + "\n",
        mode=0o600,
        owner=(owner, group),
        directories=0o700,
    )
    if spec["host_key"] is not None and tree.exists("/etc/ssh"):
        tree.write("/etc/ssh/ssh_host_ed25519_key", spec["host_key"]["private"], mode=0o600)
        tree.write("/etc/ssh/ssh_host_ed25519_key.pub", spec["host_key"]["public"] + "\n", mode=0o644)


def _other_users(tree: _Tree, user: str) -> str:
    """Say who can log in to the image instead, as far as its names and shells tell."""
    names = [
        fields[0]
        for fields in _passwd(tree)
        if fields[0] != user
        and not fields[-1].endswith(("nologin", "false", "sync"))
        and re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", fields[0])
    ]
    return f"; it has {', '.join(names[:5])}" if names else ""


def _passwd(tree: _Tree) -> list[list[str]]:
    lines = [line.split(":") for line in tree.read("/etc/passwd").splitlines()]
    return [fields for fields in lines if len(fields) > HOME]


class _Tree:
    """The root, whose owners 0 and up are ``FIRST_USER`` and up for this process."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def exists(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            os.close(kernel.open_in_root(self._root, name, os.O_PATH))
            return True
        return False

    def read(self, name: str) -> str:
        """Return the text of a regular file, empty where there is none."""
        try:
            file = kernel.open_in_root(self._root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return ""
        with os.fdopen(file, "rb") as opened:
            return opened.read(LONGEST).decode(errors="replace") if _is_regular(file) else ""

    def write(
        self, name: str, text: str, *, mode: int, owner: tuple[int, int] = (0, 0), directories: int = 0o755
    ) -> None:
        """Replace a file; directories on the way to it are made where they are missing."""
        path = PurePosixPath(name)
        try:
            directory = self._directory(str(path.parent), owner, directories)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path.name, dir_fd=directory)
                with os.fdopen(os.open(path.name, _CREATE, 0o600, dir_fd=directory), "w") as file:
                    file.write(text)
                    os.fchmod(file.fileno(), mode)
                    os.fchown(file.fileno(), FIRST_USER + owner[0], FIRST_USER + owner[1])
            finally:
                os.close(directory)
        except OSError as error:
            raise InstanceError(
                f"{name} cannot be written in the image: {error.strerror}",
                hint="a link or a file of the image is in the way, or the image's disk is full",
            ) from None

    def _directory(self, name: str, owner: tuple[int, int], mode: int) -> int:
        opened = os.dup(self._root)
        reached = PurePosixPath("/")
        for part in PurePosixPath(name).parts[1:]:
            reached /= part
            try:
                below = self._open_directory(reached)
            except FileNotFoundError:
                os.mkdir(part, mode, dir_fd=opened)
                below = self._open_directory(reached)
                os.fchmod(below, mode)
                os.fchown(below, FIRST_USER + owner[0], FIRST_USER + owner[1])
            finally:
                os.close(opened)
            opened = below
        return opened

    def _open_directory(self, path: PurePosixPath) -> int:
        return kernel.open_in_root(self._root, str(path), os.O_RDONLY | os.O_DIRECTORY)


def _is_regular(file: int) -> bool:
    return stat.S_ISREG(os.fstat(file).st_mode)
