"""What the entries of ``tests_list`` stand for: files, folders of scripts, and the tests that we ship."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest_dibctl
from pytest_dibctl.config.catalog import exists, resolve_input
from pytest_dibctl.config.messages import suggestion
from pytest_dibctl.errors import ConfigError, NotInConfigError

if TYPE_CHECKING:
    from pytest_dibctl.config.catalog import Entry
    from pytest_dibctl.config.models import Image, TestEntry

GENERIC = "generic:"
"""``pytest: generic:NAME`` names a shipped test, ``generic:all`` all of them."""
ALL = "all"


@functools.cache
def generic_tests() -> Mapping[str, Path]:
    """Return the shipped tests: "dns" -> .../test_dns.py, in alphabetical order.

    They lie inside the installed package, or, in a source checkout, beside it.
    """
    package = Path(pytest_dibctl.__file__).parent
    for folder in (package / "image_tests", package.parent / "image_tests"):
        if found := sorted(folder.glob("test_*.py")):
            return MappingProxyType({path.stem.removeprefix("test_"): path for path in found})
    return MappingProxyType({})


def generic_paths(name: str) -> tuple[Path, ...]:
    """Return the files of a shipped test or, for "all", of every one.

    Raises NotInConfigError, with near names.
    """
    known = generic_tests()
    if name == ALL and known:
        return tuple(known.values())
    if name in known:
        return (known[name],)
    near = suggestion(name, [*known, ALL], listed="there are")
    raise NotInConfigError(f"there is no generic test {name!r}", hint=near or f"there are {', '.join(known)}")


def expand(
    entry: TestEntry,
    image: Entry[Image],
    cwd: Path,
    *,
    index: int | None = None,
) -> tuple[Path, ...]:
    """Return the files that an entry of ``image`` names, in the order they run.

    A shell entry gives executable files (of a folder: all, recursively, sorted), a pytest entry one file
    or folder, or shipped tests. ``index`` is the entry's place in ``tests_list``; without it, the entry is
    looked up there.

    Raises ConfigError when something is missing or cannot be run, with the place that names it.
    """
    where = _where(entry, image, index)
    if entry.kind == "pytest" and entry.path.startswith(GENERIC):
        try:
            return generic_paths(entry.path.removeprefix(GENERIC))
        except NotInConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    path = _existing(entry, image, cwd, where)
    if entry.kind == "shell":
        return _scripts(path, where)
    if path.is_file() and path.suffix != ".py":
        raise ConfigError(
            f"{where}: {path} is not a Python file, which a pytest entry needs",
            hint=f"a script is an entry of the other kind: `- shell: {entry.path}`",
        )
    return (path,)


def _where(entry: TestEntry, image: Entry[Image], index: int | None) -> str:
    if index is None:
        listed = image.settings.tests.tests_list
        index = next((number for number, other in enumerate(listed) if other is entry), None)
    return image.at(f"tests.tests_list[{index}].{entry.kind}" if index is not None else "tests.tests_list")


def _existing(entry: TestEntry, image: Entry[Image], cwd: Path, where: str) -> Path:
    path = resolve_input(entry.path, image, cwd)
    if exists(path):
        return path
    beside = image.path.parent / entry.path
    looked = str(path) if beside == path or not beside.is_absolute() else f"{path} or {beside}"
    hint = f"shipped tests are named `{GENERIC}NAME`" if entry.path in generic_tests() else None
    raise ConfigError(f"{where}: there is no {looked}", hint=hint)


def _scripts(path: Path, where: str) -> tuple[Path, ...]:
    if not path.is_dir():
        if os.access(path, os.X_OK):
            return (path,)
        raise ConfigError(f"{where}: {path} is not executable", hint=f"chmod +x {shlex.quote(str(path))}")
    files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    scripts = tuple(file for file in files if file.is_file() and os.access(file, os.X_OK))
    if not scripts:
        raise ConfigError(
            f"{where}: {path} holds no executable file",
            hint=f"chmod +x {shlex.quote(str(files[0]))}"
            if files
            else "put scripts there, and make them executable",
        )
    return scripts
