"""Mounting in a guard's namespace, with paths that an image's links cannot redirect."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_dibctl.system import process

OPTIONS: Final = ("ro", "nodev", "nosuid")
"""How everything of the image is mounted; what is executable has to look so."""


def mount(
    what: str, where: Path, *, kind: str | None = None, options: Sequence[str] = (), cwd: Path | None = None
) -> None:
    """Mount something; raises CommandError. ``cwd`` is where relative paths among the options begin."""
    typed = ["-t", kind] if kind else []
    joined = ",".join(options) or "defaults"
    process.run(["mount", *typed, "-o", joined, "--", what, str(where)], cwd=cwd)


def inside(root: Path, point: str) -> Path | None:
    """Return the directory ``point`` of the tree if no part of its path is a link, which may lead outside."""
    path = root
    for name in Path(point.lstrip("/")).parts:
        path /= name
        if path.is_symlink() or name == ".." or not path.is_dir():
            return None
    return path


def table() -> list[str]:
    """Return the lines of the table of mounts of this process, in the order in which they were made."""
    return lines(Path("/proc/self/mountinfo").read_bytes())


def lines(content: bytes) -> list[str]:
    """Return the lines of a table of mounts; names may be of any bytes, line ends of Unicode's among them."""
    return [line for line in os.fsdecode(content).split("\n") if line]


def decoded(field: str) -> str:
    """Return a path out of the table of mounts, in which the kernel writes spaces and the like as octal."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(field)))


def point_of(line: str) -> str:
    """Return the mount point that a line of the table of mounts is of."""
    return decoded(line.split(" ")[4])


def filesystem_at(point: Path) -> str:
    """Return the type of the filesystem that is mounted at ``point``, as ext4; raises OSError."""
    kind = "filesystem of an unknown type"
    for line in table():
        if Path(point_of(line)) == point:
            kind = line.partition(" - ")[2].split(" ")[0]  # the last one is on top
    return kind
