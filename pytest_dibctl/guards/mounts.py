"""Mounting in a guard's namespace, with paths that an image's links cannot redirect."""

from __future__ import annotations

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


def filesystem_at(point: Path) -> str:
    """Return the type of the filesystem that is mounted at ``point``, as ext4; raises OSError."""
    kind = "filesystem of an unknown type"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        if Path(where.split()[4].encode().decode("unicode_escape")) == point:
            kind = what.split()[0]  # the last one is on top
    return kind
