"""The root filesystem is clean, going by its own checker, which only reads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl import run_command, tool_path

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

CHECK_MAY_TAKE = 600
"""Seconds."""

CHECKERS = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ("e2fsck", "-n", "-f")),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly", "--force"),
}
"""What checks each filesystem without changing it; these programs are this machine's."""


def test_filesystem_is_clean(image_tree: ImageTree) -> None:
    """Nothing in the filesystem's own books contradicts itself, and its journal is empty.

    If this fails, the filesystem was not unmounted before the image was packed, the disk of the build machine
    was full, or its memory is bad: build again and read the log.
    """
    checker = CHECKERS.get(image_tree.filesystem)
    if checker is None:
        pytest.skip(f"there is no check for {image_tree.filesystem}")
    if shutil.which(checker[0], path=tool_path()) is None:
        pytest.skip(f"this machine has no {checker[0]}")
    argv = [*checker, str(image_tree.device)]
    result = run_command(argv, check=False, join_stderr=True, timeout=CHECK_MAY_TAKE)
    said = result.output.strip()
    assert result.returncode == 0, f"{' '.join(checker)} exited with {result.returncode}:\n{said}"
    assert "journal recovery" not in said, f"the journal was not empty:\n{said}"
