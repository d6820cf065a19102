"""No user can write what all others rely on.

Names that are so on purpose go, as patterns between blanks, into WORLD_WRITABLE_ALLOWED in
``environment_variables`` of the image or the environment.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree, TreeItem

pytestmark = pytest.mark.usefixtures("image_tree")


def anybody_may_change(item: TreeItem) -> bool:
    """Whether anybody may write a file, or rename and remove what is in a directory."""
    if not item.mode & stat.S_IWOTH:
        return False
    if stat.S_ISDIR(item.mode):
        return not item.mode & stat.S_ISVTX
    # Devices and sockets are meant to be written to, and a link's own permissions mean nothing.
    return stat.S_ISREG(item.mode)


def test_nothing_is_world_writable(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file, and no directory but those with the sticky bit, may be written by everybody.

    If this fails, a build script copied with the permissions of the build machine, or ran with umask 0:
    ``install -m`` and ``chmod o-w`` in the element that writes the file.
    """
    found = [
        f"{item.name}: {stat.filemode(item.mode)}" for item in image_tree.walk() if anybody_may_change(item)
    ]
    refuse("everybody may write", found, "WORLD_WRITABLE_ALLOWED")


SECRET_FILES = ("/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-")


def test_passwords_are_not_readable(image_tree: ImageTree) -> None:
    """Password hashes are for root, and for the group that checks them.

    If this fails, ``chmod 0640`` it, and see what rewrote the file during the build.
    """
    found = []
    for name in SECRET_FILES:
        path = image_tree.path(name)
        if path.is_file() and path.stat().st_mode & stat.S_IRWXO:
            found.append(f"{name} is {stat.filemode(path.stat().st_mode)}")
    assert not found, f"everybody may read password hashes: {', '.join(found)}"
