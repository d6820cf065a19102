"""The Python environment that the services run in: pinned, made once, kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pytest_dibctl.errors import CommandError
from pytest_dibctl.system import process
from tests.openstack.cloud.layout import Layout

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

INSTALL_TIMEOUT = 1200
"""Seconds for all packages, of which two are compiled here."""


def path(layout: Layout) -> Path:
    """Return where the environment for today's requirements and Python is, or will be."""
    return layout.base / f"venv-{digest()}"


def digest() -> str:
    """Return what changes when an environment of its own is needed."""
    made_of = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:8]


def ensure(layout: Layout, progress: Callable[[str], None]) -> Path:
    """Return the environment's directory, made now if it is not there; raises CommandError when pip fails."""
    directory = path(layout)
    # Scripts in it name its own path, so it is made in its place; the mark says that it is whole.
    complete = directory / "complete"
    if complete.exists():
        return directory
    for stale in layout.base.glob("venv-*"):
        shutil.rmtree(stale)
    progress("installing the services' Python packages")
    _install(directory)
    complete.touch()
    return directory


def _install(directory: Path) -> None:
    """Install everything, by uv for its speed; by pip where uv does not find this machine's index.

    Nothing is compiled to bytecode here: the services import a third of it, and keep what they compile.
    """
    options = ["install", "--quiet", "--no-deps", "--requirement", str(REQUIREMENTS)]
    python = str(directory / "bin" / "python")
    try:
        uv = str(Path(sys.executable).with_name("uv"))
        process.run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)])
        process.run([uv, "pip", *options, "--python", python], timeout=INSTALL_TIMEOUT)
    except CommandError:
        process.run([sys.executable, "-m", "venv", "--clear", str(directory)])
        process.run([python, "-m", "pip", *options], timeout=INSTALL_TIMEOUT)
