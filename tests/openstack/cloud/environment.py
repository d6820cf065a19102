"""The Python environment that the services run in: pinned, made once, kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from pytest_dibctl.errors import CommandError
from pytest_dibctl.system import process
from tests.openstack.cloud.layout import Layout

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

COMPILED = ("libvirt-python", "uwsgi")
"""What is built on this machine, with Debian's compiler and headers."""

BEGUN = "begun"
"""The mark of an environment that lacks only those."""

INSTALL_TIMEOUT = 1200
"""Seconds for all packages."""


def path(layout: Layout) -> Path:
    """Return where the environment for today's requirements and Python is, or will be."""
    return layout.base / f"venv-{digest()}"


def digest() -> str:
    """Return what changes when an environment of its own is needed."""
    made_of = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:8]


def begin(layout: Layout) -> None:
    """Install what needs no compiler, while Debian's packages are still on their way.

    ``ensure`` does the rest, and everything where this failed.
    """
    directory = path(layout)
    layout.base.mkdir(parents=True, exist_ok=True)
    with FileLock(layout.lock), contextlib.suppress(CommandError):
        if not directory.exists():
            plain = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith(COMPILED)]
            _install(directory, "\n".join(plain))
            (directory / BEGUN).touch()


def ensure(layout: Layout, progress: Callable[[str], None]) -> Path:
    """Return the environment's directory, made now if it is not there; raises CommandError when pip fails."""
    directory = path(layout)
    # Scripts in it name its own path, so it is made in its place; the mark says that it is whole.
    complete = directory / "complete"
    if complete.exists():
        return directory
    for stale in layout.base.glob("venv-*"):
        if not (stale == directory and (stale / BEGUN).exists()):
            shutil.rmtree(stale)
    progress("installing the services' Python packages")
    try:
        _install(directory, REQUIREMENTS.read_text())
    except CommandError:
        # uv does not find every machine's index; pip has more ways to be told of it.
        process.run([sys.executable, "-m", "venv", "--clear", str(directory)])
        pip = [str(_python(directory)), "-m", "pip", "--quiet", "install", "--no-deps"]
        process.run([*pip, "--requirement", str(REQUIREMENTS)], timeout=INSTALL_TIMEOUT)
    complete.touch()
    return directory


def _install(directory: Path, requirements: str) -> None:
    """Install packages by uv, for its speed, into an environment that is made unless it is there.

    Nothing is compiled to bytecode here: the services import a third of it, and keep what they compile.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    python = _python(directory)
    if not python.exists():
        process.run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)])
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "--requirement", "-"]
    process.run(install, stdin=requirements, timeout=INSTALL_TIMEOUT)


def _python(directory: Path) -> Path:
    return directory / "bin" / "python"
