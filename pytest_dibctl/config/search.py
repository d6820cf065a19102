"""Where configuration files are searched for, and what messages call them."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from pytest_dibctl.config.input_files import exists
from pytest_dibctl.config.kinds import Kind
from pytest_dibctl.config.yaml.problems import Problem
from pytest_dibctl.errors import ConfigError

SYSTEM = Path("/etc/dibctl")
"""The folder of least priority."""
PLACES = ("configs", "dibctl", ".")
"""The folders below the working directory, in ascending priority; SYSTEM comes before them."""
OPTIONS: Mapping[Kind, str] = MappingProxyType(
    {"images": "--images-config", "test": "--test-config", "upload": "--upload-config"},
)
"""The option that names a file of each kind, which is then read instead of a search."""


def working_directory(cwd: Path | None) -> Path:
    """Return ``cwd``, or the current directory, as an absolute path; raises ConfigError if it was removed."""
    try:
        return Path.cwd() if cwd is None else cwd.absolute()
    except FileNotFoundError:
        raise ConfigError(
            "the current directory does not exist any more", hint="change to another one"
        ) from None


def display_path(path: Path, cwd: Path) -> str:
    """Return what messages call ``path``: relative to ``cwd`` where it lies below, else absolute."""
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def find_files(kind: Kind, cwd: Path, system: Path) -> tuple[list[Path], list[Problem]]:
    """Return the existing files of ``kind``, least priority first, and the folders that cannot be read.

    A file that two places lead to is returned once, at its higher priority.
    """
    paths: dict[str, Path] = {}
    problems: list[Problem] = []
    for folder in _folders(cwd, system):
        try:
            for path in _files_in(folder, kind):
                real = os.path.realpath(path)  # Path.resolve raises for a link that leads to itself
                paths.pop(real, None)
                paths[real] = path
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            problems.append(
                Problem(display_name=display_path(folder, cwd), mark=None, key="", message=message)
            )
    return list(paths.values()), problems


def not_found(kind: Kind, cwd: Path, system: Path) -> ConfigError:
    """Return the error that says where files of ``kind`` were searched for in vain."""
    folders = _folders(cwd, system)
    names = [display_path(folder / f"{kind}.yaml", cwd) for folder in folders]
    misnamed = [
        display_path(folder / f"{kind}.yml", cwd) for folder in folders if exists(folder / f"{kind}.yml")
    ]
    above = _above(kind, cwd)
    where = f"{shlex.quote(str(above))}, which has one" if above else "the directory that has it"
    option = OPTIONS[kind].removeprefix("--")
    hint = f"change to {where}, or give its path with --dib-{option} (dibctl: --{option})"
    if kind == "images" and not above:
        hint += "; `dibctl init` writes a first one"
    return ConfigError(
        f"there is no {kind}.yaml; looked in {cwd} for {', '.join(names)} and {kind}.d/*.yaml beside each",
        hint=f"rename {misnamed[0]} to {kind}.yaml" if misnamed else hint,
    )


def _above(kind: Kind, cwd: Path) -> Path | None:
    """Return the nearest folder above ``cwd`` in which a run would find files of ``kind``."""
    for folder in cwd.parents:
        with contextlib.suppress(OSError):
            if any(True for name in PLACES for _ in _files_in(folder / name, kind)):
                return folder
    return None


def _folders(cwd: Path, system: Path) -> tuple[Path, ...]:
    return (system, *(cwd / name for name in PLACES))


def _files_in(folder: Path, kind: Kind) -> Iterator[Path]:
    single, several = folder / f"{kind}.yaml", folder / f"{kind}.d"
    # Since Python 3.14, Path.exists and its like answer False for a place that cannot be looked at.
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(path.name for path in several.iterdir())
    try:
        single.lstat()  # a dangling link is an error to report, not an absence
    except (FileNotFoundError, NotADirectoryError):
        pass
    else:
        yield single
    yield from (several / name for name in names if name.endswith(".yaml") and not name.startswith("."))
