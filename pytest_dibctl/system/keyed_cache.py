"""A cache of things that are named by the key of their inputs, in the user's cache directory.

A thing is a directory named by its key. It appears and disappears by a rename, so that a reader finds all of
it or none. A lock beside it is held, shared, while the thing is used. The process that makes the thing holds
the lock alone: other processes wait for it instead of doing the same work. The kernel releases the lock of a
process that dies. Only the user can read the cache.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from pytest_dibctl.system import files, locks

ABOUT: Final = "about.json"
"""The file that describes a thing; its time is that of the last use."""
SALT: Final = "salt"
KEY: Final = re.compile(r"[0-9a-f]{40}")
GIB: Final = 1 << 30
OLD_DRAFT: Final = 3600.0
"""Seconds after which a draft that is of no thing is a dead process's."""


class Thing(Protocol):
    """A thing in a cache; ``size`` is bytes, ``used`` the last use in seconds since the epoch."""

    @property
    def key(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> int: ...
    @property
    def used(self) -> float: ...


ThingT = TypeVar("ThingT", bound=Thing)


class KeyedCache(Generic[ThingT]):
    """The things of this user in one directory; ``read`` returns the whole thing of a directory and a key.

    ``read`` is called for directories of this user's only. For a damaged thing it raises OSError, ValueError,
    TypeError or AttributeError, or returns None. ``is_old`` says whether a thing is too old at a time, in
    seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        read: Callable[[Path, str], ThingT | None],
        is_old: Callable[[ThingT, float], bool],
    ) -> None:
        self.directory = directory
        self._read = read
        self._is_old = is_old

    def find(self, key: str) -> ThingT | None:
        """Return the thing of that key if it is there, ours and whole."""
        path = self.directory / key
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                return self._read(path, key)
        return None

    def things(self) -> list[ThingT]:
        """Return all things, the one used last first."""
        found = [self.find(path.name) for path in self._entries() if KEY.fullmatch(path.name)]
        now = time.time()
        # A clock that was ahead gives no thing a rank for ever.
        return sorted((thing for thing in found if thing), key=lambda thing: -min(thing.used, now))

    def touch(self, thing: ThingT) -> None:
        """Note that a thing is used now."""
        with contextlib.suppress(OSError):
            os.utime(thing.path / ABOUT)

    def lock_file(self, key: str) -> Path:
        """Return the file whose lock is that of a thing; raises OSError where it cannot be made."""
        self.make()
        return self.directory / f"{key}.lock"

    def make(self) -> None:
        """Make the directory, for its user only; raises OSError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)

    def salt(self) -> str:
        """Return the salt of all digests of secrets here, made at the first use; raises OSError."""
        self.make()
        file = self.directory / SALT
        with contextlib.suppress(FileExistsError):
            draft = self.directory / f".{SALT}.{secrets.token_hex(4)}"
            files.write_atomically(draft, secrets.token_hex(16), mode=0o600)
            try:
                os.link(draft, file)  # fails where another process was quicker: its salt counts
            finally:
                draft.unlink()
        return file.read_text()

    @contextlib.contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """Yield the path of a directory yet to be made, which takes the place of the thing of that key.

        It does so after the body, unless that raises. The caller holds the lock alone. Raises OSError.
        """
        self.make()
        for path in self.directory.glob(f".{key}.*"):  # leftovers of earlier makers
            _remove(path)
        draft = self.directory / f".{key}.{secrets.token_hex(4)}"
        try:
            yield draft
            draft.chmod(0o700)
            self._discard(self.directory / key)
            draft.rename(self.directory / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def remove(self, thing: ThingT) -> bool:
        """Remove a thing unless it is used or made; return whether it is gone. Raises OSError."""
        with locks.exclusive_if_free(self.lock_file(thing.key)) as descriptor:
            if descriptor is None:
                return False
            self._discard(thing.path)
        return True

    def discard(self, thing: ThingT) -> None:
        """Remove a thing that cannot be used, also while its lock is held."""
        with contextlib.suppress(OSError):
            self._discard(thing.path)

    def surplus(self, limit: int, now: float) -> Iterator[ThingT]:
        """Yield the things to remove: too old ones, and the longest unused above ``limit`` bytes."""
        total = 0
        for thing in self.things():
            total += thing.size
            if total > limit or self._is_old(thing, now):
                total -= thing.size
                yield thing

    def sweep(self) -> None:
        """Remove the leftovers of killed processes, and files that have the name of a thing and are none."""
        for path in self._entries():
            with contextlib.suppress(OSError):
                self._sweep(path)

    def _sweep(self, path: Path) -> None:
        key, is_draft = path.name.lstrip(".")[:40], path.name.startswith(".")
        if not KEY.fullmatch(key):
            if is_draft and time.time() - path.lstat().st_mtime > OLD_DRAFT:
                _remove(path)
            return
        if path.suffix == ".lock" or (not is_draft and self.find(key) is not None):
            return
        with locks.exclusive_if_free(self.lock_file(key)) as descriptor:
            if descriptor is not None and (is_draft or self.find(key) is None):
                _remove(path)

    def _entries(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return list(self.directory.iterdir())
        return []

    def _discard(self, path: Path) -> None:
        if path.exists() or path.is_symlink():
            gone = self.directory / f".{path.name}.{secrets.token_hex(4)}"
            path.rename(gone)
            _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def place(name: str) -> Path:
    """Return where a cache of that name is."""
    return files.user_cache() / name


def limit_of(variable: str, default: float, environment: Mapping[str, str]) -> int:
    """Return the bytes that a variable allows in GiB; the default's where it says nothing of use."""
    try:
        return max(0, int(float(environment.get(variable) or default) * GIB))
    except (ValueError, OverflowError):
        return int(default * GIB)
