"""The cache of ready states, in the user's cache directory: readable by the user only, limited in size.

A state is a directory named by its key, with the disk of a guest that was ready, its memory inside. It
appears and disappears by a rename. A lock beside it is held, shared, while a guest is made of it, and alone
by the process that makes it; the kernel releases the lock of a process that dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.system import files, locks

SIZE_VARIABLE: Final = "DIBCTL_WARM_SIZE"
"""GiB that all states together may have; 0 switches them off."""
DEFAULT_SIZE: Final = 5.0
MAX_AGE: Final = 30 * 86400.0
"""Seconds after which an unused state goes."""
DISK: Final = "disk.qcow2"
_GIB: Final = 1 << 30
_ABOUT: Final = "about.json"
_KEY: Final = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a state: the guest's ``name`` and login key (a public line), and its file.

    ``made`` is seconds since the epoch, ``seconds`` what the boot took, ``size`` bytes; ``label`` is the
    name of the image's file.
    """

    label: str
    name: str
    mac: str
    public_key: str
    made: float
    seconds: float
    size: int = 0
    sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadyState:
    """A state in the cache; ``used`` is when it was used last, seconds since the epoch."""

    key: str
    path: Path
    about: About
    used: float

    @property
    def disk(self) -> Path:
        """The file."""
        return self.path / DISK


class ReadyStore:
    """The ready states of this user."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or files.user_cache() / "dibctl" / "ready"

    def find(self, key: str) -> ReadyState | None:
        """Return the state of that key if it is there, ours and of the right size."""
        path = self.directory / key
        try:
            about = About(**json.loads((path / _ABOUT).read_text()))
            disk = (path / DISK).lstat()
            ours = stat.S_ISREG(disk.st_mode) and disk.st_uid == path.lstat().st_uid == os.geteuid()
            if ours and disk.st_size == about.size:
                used = (path / _ABOUT).stat().st_mtime
                return ReadyState(key=key, path=path, about=about, used=used)
        except (OSError, ValueError, TypeError):
            pass
        return None

    def states(self) -> list[ReadyState]:
        """Return all states, the one used last first."""
        names = self.directory.iterdir() if self.directory.is_dir() else ()
        found = [self.find(path.name) for path in names if _KEY.fullmatch(path.name)]
        return sorted((state for state in found if state is not None), key=lambda state: -state.used)

    def touch(self, state: ReadyState) -> None:
        """Note that a state is used now."""
        with contextlib.suppress(OSError):
            os.utime(state.path / _ABOUT)

    def lock_file(self, key: str) -> Path:
        """Return the file whose lock is that of a state; raises OSError where it cannot be made."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        return self.directory / f"{key}.lock"

    def take_in(self, disk: Path, key: str, about: About) -> None:
        """Copy a disk into the cache, in the place of what is there; raises OSError.

        The caller holds the lock alone, and nobody writes to the disk.
        """
        self.remove_drafts(key)
        draft = self.directory / f".{key}.{secrets.token_hex(4)}"
        try:
            draft.mkdir(mode=0o700)
            size = files.copy(disk, draft / DISK)
            whole = dataclasses.replace(about, size=size, sha256=digest(draft / DISK))
            files.write_atomically(draft / _ABOUT, json.dumps(dataclasses.asdict(whole)), mode=0o600)
            self._discard(self.directory / key)
            draft.rename(self.directory / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def remove(self, state: ReadyState) -> bool:
        """Remove a state unless a guest is made of it; return whether it is gone."""
        with locks.exclusive_if_free(self.lock_file(state.key)) as descriptor:
            if descriptor is None:
                return False
            self._discard(state.path)
        return True

    def discard(self, state: ReadyState) -> None:
        """Remove a state that cannot be used, also while its lock is held."""
        with contextlib.suppress(OSError):
            self._discard(state.path)

    def surplus(self, limit: int, now: float) -> Iterator[ReadyState]:
        """Yield what is to go: what was not used for long, and the longest unused above ``limit`` bytes."""
        total = 0
        for state in self.states():
            total += state.about.size
            if total > limit or now - state.used > MAX_AGE:
                total -= state.about.size
                yield state

    def sweep(self) -> None:
        """Remove what killed processes left, and whatever has a state's name and is none."""
        for path in list(self.directory.iterdir()) if self.directory.is_dir() else ():
            key = path.name.lstrip(".")[:40]
            draft = path.name.startswith(".")
            if not _KEY.fullmatch(key) or path.suffix == ".lock":
                continue
            if not draft and self.find(key) is not None:
                continue
            with contextlib.suppress(OSError), locks.exclusive_if_free(self.lock_file(key)) as descriptor:
                if descriptor is not None and (draft or self.find(key) is None):
                    _remove(path)

    def remove_drafts(self, key: str) -> None:
        """Remove what earlier makers of a state left; the caller holds its lock alone."""
        for path in self.directory.glob(f".{key}.*"):
            _remove(path)

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


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def limit(environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that all states together may have."""
    try:
        return max(0, int(float(environment.get(SIZE_VARIABLE) or DEFAULT_SIZE) * _GIB))
    except (ValueError, OverflowError):
        return int(DEFAULT_SIZE * _GIB)


def as_data(state: ReadyState) -> dict[str, Any]:
    """Return what is told of a state."""
    return {
        "kind": "ready state",
        "key": state.key,
        "image": state.about.label,
        "size": state.about.size,
        "made": state.about.made,
        "used": state.used,
        "seconds": round(state.about.seconds, 1),
    }


def free_now(store: ReadyStore) -> None:
    """Remove what is above the limit, and what killed processes left."""
    store.sweep()
    for state in store.surplus(limit(), time.time()):
        with contextlib.suppress(OSError):
            store.remove(state)
