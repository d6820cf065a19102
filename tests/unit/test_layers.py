"""Imports point one way, file by file, and what is heavy is imported only where it is used."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import pytest

from tests.support.rooms import GRAPH, MODULES, floor, imported, room_of

MAY_IMPORT = {
    "pytest": ("plugin",),
    "_pytest": ("plugin",),
    "pytest_timeout": ("plugin",),
    "testinfra": ("plugin",),
    "xdist": ("plugin",),
    "argparse": ("cli", "guards"),
    "argcomplete": ("cli",),
    "rich": ("cli",),
    "psutil": ("system",),
    "fcntl": ("system",),
    "filelock": (),
    "openstack": ("clouds.openstack", "publish"),
    "keystoneauth1": ("clouds.openstack", "publish"),
    "qemu": ("clouds.qemu",),
}
"""Libraries that only some rooms may import; all others are free."""
LONGEST = 400
"""Lines of a module."""


NEW_MODULES = """
import pytest, sys
before = set(sys.modules)
import pytest_dibctl.plugin
print(*sorted(set(sys.modules) - before))
"""


each_module = pytest.mark.parametrize("module", MODULES)


@each_module
def test_imports_go_down(module: str) -> None:
    for other in GRAPH[module]:
        assert room_of(other) == room_of(module) or floor(other) < floor(module), f"{module} imports {other}"


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)


@each_module
def test_libraries_are_imported_in_their_rooms_only(module: str) -> None:
    for name in imported(MODULES[module]):
        rooms = MAY_IMPORT.get(name.split(".")[0])
        allowed = rooms is None or any(f"{module}.".startswith(f"{room}.") for room in rooms)
        assert allowed, f"{module} imports {name}"


@each_module
def test_module_is_short_enough_to_be_read_at_once(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= LONGEST


def test_the_plugin_imports_nothing_heavy_until_it_is_needed() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            NEW_MODULES,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert loaded == ["pytest_dibctl", "pytest_dibctl.plugin"]


@pytest.mark.parametrize(
    "module", ["pytest_dibctl.cli.main", "pytest_dibctl.config.catalog", "pytest_dibctl.run.target_run"]
)
def test_clouds_and_their_libraries_are_imported_only_when_opened(module: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"openstack", "qemu.qmp", "paramiko", "pycdlib", "pytest_dibctl.clouds.qemu.cloud"}
    assert not heavy & set(loaded)
