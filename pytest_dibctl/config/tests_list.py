"""The files of ``tests_list`` entries: scripts, folders of scripts, Python files and shipped tests."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest_dibctl
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import exists, resolve_input
from pytest_dibctl.config.models.images import Image, TestEntry, TestKind
from pytest_dibctl.errors import ConfigError, NotInConfigError
from pytest_dibctl.system.suggestions import did_you_mean, suggestion

GENERIC = "generic:"
"""``pytest: generic:NAME`` names a shipped test, ``generic:all`` all shipped tests of the entry's kind."""
ALL = "all"
TREE = "tree"
"""The folder of the shipped tests for ``image`` entries, which read an image's files without a guest."""


@functools.cache
def generic_tests() -> Mapping[str, Path]:
    """Return the shipped tests: "dns" -> .../test_dns.py, in alphabetical order.

    They lie inside the installed package, or, in a source checkout, beside it.
    """
    package = Path(pytest_dibctl.__file__).parent
    for folder in (package / "image_tests", package.parent / "image_tests"):
        files = [*folder.glob("test_*.py"), *folder.glob(f"{TREE}/test_*.py")]
        if files:
            by_name = {path.stem.removeprefix("test_"): path for path in files}
            return MappingProxyType(dict(sorted(by_name.items())))
    return MappingProxyType({})


def generic_kind(path: Path) -> TestKind:
    """Return the kind of entry that a shipped test is for: "pytest" for guests, "image" for files."""
    return "image" if path.parent.name == TREE else "pytest"


def generic_paths(name: str, kind: TestKind = "pytest") -> tuple[Path, ...]:
    """Return the files of a shipped test or, for "all", of every one of a ``kind``.

    Raises NotInConfigError, with near names.
    """
    known = generic_tests()
    if name == ALL and known:
        return tuple(path for path in known.values() if generic_kind(path) == kind)
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

    A shell or ssh entry gives executable files (of a folder: all, recursively, sorted). A pytest entry gives
    one file or folder, or shipped tests. An image entry gives executable files, a Python file, or a folder
    with Python files and the executable files in it. ``index`` is the entry's place in ``tests_list``;
    without it, the entry is searched for there.

    Raises ConfigError, with the place in the configuration, for a file that does not exist or cannot be run.
    """
    where = _where(entry, image, index)
    if entry.kind in ("pytest", "image") and entry.path.startswith(GENERIC):
        return _shipped(entry, where)
    path = _existing(entry, image, cwd, where)
    if entry.kind in ("shell", "ssh"):
        return _scripts(path, where)
    if entry.kind == "image":
        return _content_tests(path, where)
    if path.is_file() and path.suffix != ".py":
        raise ConfigError(
            f"{where}: {path} is not a Python file, which a pytest entry needs",
            hint=f"a script is an entry of another kind: `- shell: {entry.path}`",
        )
    return (path,)


def folder(entry: TestEntry, image: Entry[Image], cwd: Path) -> Path | None:
    """Return the directory that an entry names; None if it names a file or does not exist."""
    path = resolve_input(entry.path, image, cwd)
    return path if path.is_dir() else None


def _shipped(entry: TestEntry, where: str) -> tuple[Path, ...]:
    try:
        paths = generic_paths(entry.path.removeprefix(GENERIC), entry.kind)
    except NotInConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    if not paths:
        raise ConfigError(f"{where}: no shipped test is for {entry.kind} entries")
    if wrong := next((path for path in paths if generic_kind(path) != entry.kind), None):
        kind = generic_kind(wrong)
        subject = "the files of an image, without a guest" if kind == "image" else "a running instance"
        raise ConfigError(
            f"{where}: {entry.path} is a test of {subject}, not for a {entry.kind} entry",
            hint=f"write `- {kind}: {entry.path}`",
        )
    return paths


def _content_tests(path: Path, where: str) -> tuple[Path, ...]:
    """Return what an image entry runs: a Python file, a script, or those of a folder."""
    if not path.is_dir():
        return (path,) if path.suffix == ".py" else _scripts(path, where)
    files = _files_below(path)
    scripts = tuple(file for file in files if file.suffix != ".py" and _is_executable(file))
    if any(file.suffix == ".py" for file in files):
        return (path, *scripts)
    return scripts or _scripts(path, where)


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
    places = str(path) if beside == path or not beside.is_absolute() else f"{path} or {beside}"
    hint = f"shipped tests are named `{GENERIC}NAME`" if entry.path in generic_tests() else _near_files(path)
    raise ConfigError(f"{where}: there is no {places}", hint=hint)


def _near_files(path: Path) -> str | None:
    """Return the hint that names files beside a missing one whose names are like its own."""
    try:
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()]) or None
    except OSError:
        return None


def _scripts(path: Path, where: str) -> tuple[Path, ...]:
    if not path.is_dir():
        if _is_executable(path):
            return (path,)
        raise ConfigError(f"{where}: {path} is not executable", hint=f"chmod +x {shlex.quote(str(path))}")
    files = _files_below(path)
    scripts = tuple(file for file in files if _is_executable(file))
    if not scripts:
        raise ConfigError(
            f"{where}: {path} holds no executable file",
            hint=f"chmod +x {shlex.quote(str(files[0]))}"
            if files
            else "put scripts there, and make them executable",
        )
    return scripts


def _files_below(folder: Path) -> list[Path]:
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


EXTERNAL_NAMES = (
    *("label", "filename", "input_filename", "disk_format", "container_format"),
    *("instance_name", "instance_uuid", "main_ip"),
    *("flavor_id", "flavor_name", "flavor_ram", "flavor_vcpus", "flavor_disk"),
    *("ssh_ip", "ssh_port", "ssh_username", "ssh_config", "ssh_private_key"),
)
"""The names that ``%(name)s`` may have in ``external_tests``."""


def external_place(number: int) -> str:
    """Return the key of an external test's command line."""
    return f"external_tests[{number}].cmdline"


def check_external(image: Entry[Image]) -> None:
    """Raise ConfigError for an external test whose command line has an unknown name or needs a shell."""
    names = dict.fromkeys(EXTERNAL_NAMES, "")
    for number, test in enumerate(image.settings.external_tests):
        interpolate.command(test.cmdline, names, image.at(external_place(number)))
