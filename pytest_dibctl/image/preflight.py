"""The requirements for opening an image's files on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guards import namespace
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check

TREE_TOOLS: Final = ("qemu-storage-daemon", "nsenter", "blkid", "sfdisk", "bwrap")
"""Programs that open an image's files, besides mount and the tools of every guard."""


def for_trees(image: Entry[Image]) -> None:
    """Check the requirements of ``image`` entries.

    Raises one PreflightError that names everything that is missing.
    """
    saying = f"{image.at('tests.tests_list')}: this machine cannot open the image's files"
    checks.require(tree_checks(), saying=saying)


def tree_checks() -> Iterator[Check]:
    """Yield the checks that must pass before an image's files are opened."""
    yield from map(checks.tool, (*namespace.TOOLS, *TREE_TOOLS, "mount"))
    yield checks.root("`image` entries mount the image")
    if os.geteuid() == 0:  # others may not even look
        yield checks.loop_devices()
    yield checks.fuse()
