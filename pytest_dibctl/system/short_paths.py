"""Directories with short paths for unix sockets, whose paths may have 107 bytes.

Such a directory lies in /tmp. A link in the directory that it belongs to says where: what removes that
directory after a crash finds the other one by the link.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

_LINK = "elsewhere-"
_BASE = Path("/tmp")  # noqa: S108 -- mkdtemp makes each directory there for this user alone
_PREFIX = "dibctl-"


def make(owner: Path, name: str) -> Path:
    """Make a directory with a short path for ``owner``; ``name`` tells it from others of the same owner.

    The caller removes it with ``remove``. Raises OSError.
    """
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_BASE))
    (owner / f"{_LINK}{name}").symlink_to(directory)
    return directory


def remove(directory: Path, owner: Path) -> None:
    """Remove a directory that ``make`` returned, and the links of ``owner`` that lead to nothing."""
    shutil.rmtree(directory, ignore_errors=True)
    for link in owner.glob(f"{_LINK}*"):
        if not link.exists():
            link.unlink(missing_ok=True)


def remove_all(owner: Path) -> None:
    """Remove all directories that ``make`` made for ``owner``; the links stay.

    Anything else that a link may lead to stays, too.
    """
    with contextlib.suppress(FileNotFoundError):
        for link in sorted(owner.glob(f"{_LINK}*")):
            with contextlib.suppress(OSError):
                directory = link.readlink()
                if directory.parent == _BASE and directory.name.startswith(_PREFIX):
                    shutil.rmtree(directory, ignore_errors=True)
