"""What this machine must have to open an image's files."""

from __future__ import annotations

from typing import Final

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guards import namespace
from pytest_dibctl.system import checks

TREE_TOOLS: Final = ("qemu-storage-daemon", "nsenter", "blkid", "sfdisk", "bwrap")
"""What opens an image's files, besides mount and the tools of every guard."""


def for_trees(image: Entry[Image]) -> None:
    """Check what ``image`` entries need to open the image's files.

    Raises one PreflightError that names everything that is missing.
    """
    tools = map(checks.tool, (*namespace.TOOLS, *TREE_TOOLS, "mount"))
    checks.require(
        [*tools, checks.root(), checks.loop_devices(), checks.fuse()],
        saying=f"{image.at('tests.tests_list')}: this machine cannot open the image's files",
    )
