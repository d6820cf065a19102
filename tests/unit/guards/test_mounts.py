"""Mount points as the kernel lists them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_dibctl.guards import mounts
from pytest_dibctl.guards.namespace import MachineProc
from pytest_dibctl.system import process

NAMES = ["plain", "with space", "tab\tand\nline", "back\\slash", "\\040", "\u00e9\u5168", "\x85", "\udcff"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem")
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_mount_point_is_found_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    point = tmp_path / name
    point.mkdir()
    process.run(["mount", "-t", "tmpfs", "none", str(point)])
    try:
        assert mounts.filesystem_at(point) == "tmpfs"
        assert MachineProc().mount_points(tmp_path) == [str(point)]
    finally:
        process.run(["umount", str(point)])
