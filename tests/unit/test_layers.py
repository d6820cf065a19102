"""Imports point one way, file by file, and what is heavy is imported only where it is used."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import pytest

from tests.support.rooms import MODULES, floor, graph, imported, room_of

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


def test_imports_go_down() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in sorted(others)
        if room_of(other) != room_of(module) and floor(other) >= floor(module)
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)


def test_libraries_are_imported_in_their_rooms_only() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in sorted(imported(path))
        if not may_import(module, name)
    ]
    assert wrong == []


def may_import(module: str, name: str) -> bool:
    rooms = MAY_IMPORT.get(name.split(".", maxsplit=1)[0])
    return rooms is None or any(f"{module}.".startswith(f"{room}.") for room in rooms)


def test_modules_are_short_enough_to_be_read_at_once() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST} == {}


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
    ("module", "more"),
    [
        ("pytest_dibctl.cli.main", {"pydantic", "yaml", "rich", "argcomplete"}),
        ("pytest_dibctl.config.catalog", set()),
        ("pytest_dibctl.run.target_run", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_clouds_and_what_else_takes_long_are_imported_only_when_needed(module: str, more: set[str]) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"openstack", "qemu.qmp", "paramiko", "pycdlib", "pytest_dibctl.clouds.qemu.cloud"}
    assert (heavy | more) & set(loaded) == set()
