"""Imports point one way, and what is heavy is imported only where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_dibctl"

LAYERS = (
    {"errors"},
    {"config", "process", "ledger", "shared", "signals"},
    {"artifact", "banner", "ssh", "dib", "fingerprint", "build_log", "build_guard"},
    {"tree", "tree_guard", "guest_script"},
    {"clouds", "preflight", "preprocess", "build_causes", "manifest"},
    {"builder"},
    {"lifecycle", "variables", "scripts", "statements"},
    {"publish"},
    {"content", "targets", "sweep"},
    {"remains", "guardian"},
    {"collect", "accounts", "scheduler"},
    {"summary", "junit"},
    {"active", "attest", "collecting", "controller", "fixtures", "host", "plugin"},
    {"terminal", "completion", "cli_publish", "cli"},
)
PYTEST_LAYERS = {
    "attest",
    "collect",
    "collecting",
    "junit",
    "controller",
    "active",
    "fixtures",
    "host",
    "plugin",
}


NEW_MODULES = """
import pytest, sys
before = set(sys.modules)
import pytest_dibctl.plugin
print(*sorted(set(sys.modules) - before))
"""


def layer(module: str) -> int:
    """Return which layer a module of ours belongs to."""
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imports(path: Path) -> set[str]:
    """Return the modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(path: Path) -> str:
    """Return the module or package, directly below ours, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_from_a_layer_above(path: Path) -> None:
    mine = layer(top(path))
    for name in imports(path):
        if name.startswith("pytest_dibctl."):
            other = name.split(".")[1]
            if (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").exists():
                assert layer(other) <= mine, f"{top(path)} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_pytest_layers_import_pytest(path: Path) -> None:
    if top(path) not in PYTEST_LAYERS:
        assert not {
            name for name in imports(path) if name.split(".")[0] in {"pytest", "_pytest", "testinfra"}
        }


def test_plugin_and_cli_do_not_import_each_other() -> None:
    assert not {name for name in imports(PACKAGE / "cli.py") if name.startswith("pytest_dibctl.plugin")}
    for module in PYTEST_LAYERS:
        assert not {name for name in imports(PACKAGE / f"{module}.py") if name == "pytest_dibctl.cli"}


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
    "module", ["pytest_dibctl.cli", "pytest_dibctl.config.catalog", "pytest_dibctl.lifecycle"]
)
def test_clouds_and_their_libraries_are_imported_only_when_opened(module: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"openstack", "qemu.qmp", "paramiko", "pycdlib", "pytest_dibctl.clouds.qemu"} & set(loaded)
