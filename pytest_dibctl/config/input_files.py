"""Files that the configuration names: where they lie, and user data read from them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.nspawn import Nspawn
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ConfigError


def exists(path: Path) -> bool:
    """Return whether ``path`` exists; False for a name too long and below a folder closed to us, too."""
    with contextlib.suppress(OSError):
        return path.exists()
    return False


def resolve_input(path: str | Path, entry: Entry[Section], cwd: Path) -> Path:
    """Return where an input file lies: below ``cwd``, else beside the file that defines ``entry``.

    For a file that is at neither place, the path below ``cwd`` is returned, for the caller's error message.
    """
    below_cwd = cwd / path
    beside_file = entry.path.parent / path
    return beside_file if not exists(below_cwd) and exists(beside_file) else below_cwd


def read_user_data(
    section: Nova | Qemu | Nspawn, environment: Entry[TestEnvironment], name: str, cwd: Path
) -> str | None:
    """Return the user data that a section holds, or that the file it names holds; None if it has neither.

    ``section`` belongs to ``environment`` and is called ``name`` there. Raises ConfigError if the file
    cannot be read.
    """
    if section.userdata_file is None:
        return section.userdata
    path = resolve_input(section.userdata_file, environment, cwd)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{environment.at(f'{name}.userdata_file')}: {path}: {reason}") from None
