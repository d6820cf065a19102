"""What should not be in an image: how it is told from what is harmless, and the search for it."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree, TreeItem

MOST = 1 << 20
"""Bytes of a file that are searched; no key or credentials file is longer."""

SHOWN = 30
"""Names that a failed test lists before it only counts them."""

PLACES = (
    *("/etc", "/root", "/home", "/opt", "/srv", "/usr/local"),
    *("/var/lib/cloud", "/var/backups", "/var/spool/cron"),
)
"""Where people and build scripts leave files of their own; packages keep examples of keys elsewhere."""

HOME = 5
"""Which field of /etc/passwd is the home directory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
    """Files of one kind that should not be in an image.

    ``names`` are patterns for ``ImageTree.glob``, or for ``find_in_homes`` the ends of names. ``pattern`` is
    searched, line by line, in the first MOST bytes; without one, any content is a finding. ``what`` says in a
    report what it is, and after a semicolon what to do. It never quotes the file.
    """

    names: tuple[str, ...]
    what: str
    pattern: bytes = b""

    def shows(self, content: bytes) -> bool:
        """Whether a file with this content is a finding."""
        return bool(content) and re.search(self.pattern, content, re.MULTILINE) is not None


def content(tree: ImageTree, name: str) -> bytes:
    """Return the first MOST bytes of a file; nothing where there is no regular file."""
    return tree.read_bytes(name, MOST) if tree.is_file(name) else b""


def find(tree: ImageTree, signs: Iterable[Sign]) -> list[str]:
    """Return ``name: what`` for each file that shows one of the signs."""
    found: dict[str, str] = {}
    for sign in signs:
        for name in [name for pattern in sign.names for name in tree.glob(pattern)]:
            if name not in found and sign.shows(content(tree, name)):
                found[name] = f"{name}: {sign.what}"
    return list(found.values())


def find_in_homes(tree: ImageTree, signs: Iterable[Sign]) -> list[str]:
    """Return the same for names that end as the signs say, in PLACES and in every user's home directory."""
    found: dict[str, str] = {}
    names, users = [item.name for item in plain_files(tree)], homes(tree)
    for sign in signs:
        elsewhere = [f"{home}{end}" for home in users for end in sign.names if end.startswith("/")]
        for name in [name for name in names if name.endswith(sign.names)] + elsewhere:
            if name not in found and sign.shows(content(tree, name)):
                found[name] = f"{name}: {sign.what}"
    return list(found.values())


def plain_files(tree: ImageTree) -> Iterator[TreeItem]:
    """Yield the regular files in PLACES."""
    for place in PLACES:
        if tree.path(place).is_dir():
            yield from (item for item in tree.walk(place) if stat.S_ISREG(item.mode))


def homes(tree: ImageTree) -> list[str]:
    """Return the home directories that /etc/passwd names; "" is the image's top."""
    users = [line.split(":") for line in content(tree, "/etc/passwd").decode(errors="replace").splitlines()]
    return sorted({user[HOME].rstrip("/") for user in users if len(user) > HOME})


def present(tree: ImageTree, *patterns: str) -> list[str]:
    """Return what is there and not empty; a directory counts."""
    names = [name for pattern in patterns for name in tree.glob(pattern)]
    found = []
    for name in names:
        path = tree.path(name)
        if path.is_dir() or (path.is_file() and path.stat().st_size):
            found.append(name)
    return found


def refusal(what: str, found: Iterable[str], allowed: str, patterns: Iterable[str]) -> str:
    """Return why an image is refused, empty if all that was found is allowed.

    ``found`` are names, with a note after a colon if there is one; ``allowed`` is the name of the variable
    that the ``patterns`` of allowed names come from.
    """
    allowing = tuple(patterns)
    bad = [line for line in found if not _matches(line.partition(": ")[0], allowing)]
    if not bad:
        return ""
    more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    hint = f"what is there on purpose can be named in {allowed} among environment_variables"
    return "\n  ".join([f"{what}:", *bad[:SHOWN], *more]) + f"\nhint: {hint}"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
