"""The cache of ready states, each the disk of a guest that was ready, its memory inside.

The process that makes a state holds its lock alone; a process that makes a guest of it shares the lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.system import files, keyed_cache
from pytest_dibctl.system.keyed_cache import ABOUT, KeyedCache

SIZE_VARIABLE: Final = "DIBCTL_WARM_SIZE"
"""GiB that all states together may have; 0 switches them off."""
DEFAULT_SIZE: Final = 5.0
MAX_AGE: Final = 30 * 86400.0
"""Seconds after which an unused state goes."""
DISK: Final = "disk.qcow2"
_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The facts of a state: the guest's ``uuid``, ``name`` and login key (a public line), and its file.

    ``made`` is seconds since the epoch, ``seconds`` the time of the boot, ``size`` bytes; ``label`` is the
    name of the image's file.
    """

    label: str
    uuid: str
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

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.about.size


class ReadyStore(KeyedCache[ReadyState]):
    """The ready states of this user."""

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(directory or keyed_cache.place("ready"), read=_read, is_old=_is_old)

    def take_in(self, disk: Path, key: str, about: About) -> None:
        """Copy a disk into the cache, in the place of what is there; raises OSError.

        The caller holds the lock alone, and no process writes to the disk.
        """
        with self.draft(key) as draft:
            draft.mkdir(mode=0o700)
            size = files.copy(disk, draft / DISK)
            whole = dataclasses.replace(about, size=size, sha256=files.sha256(draft / DISK))
            files.write_atomically(draft / ABOUT, json.dumps(dataclasses.asdict(whole)), mode=0o600)


def _read(path: Path, key: str) -> ReadyState | None:
    about = _about(json.loads((path / ABOUT).read_text()))
    disk = (path / DISK).lstat()
    if not (stat.S_ISREG(disk.st_mode) and disk.st_uid == os.geteuid() and disk.st_size == about.size):
        return None
    return ReadyState(key=key, path=path, about=about, used=(path / ABOUT).stat().st_mtime)


def _about(data: Mapping[str, Any]) -> About:
    """Return the facts in a file; raises TypeError and ValueError for a file of no state."""
    about = About(**data)
    texts = (about.label, about.uuid, about.name, about.public_key, about.sha256)
    if not all(isinstance(text, str) for text in texts) or not _MAC.fullmatch(about.mac):
        raise ValueError("not of a ready state")
    return dataclasses.replace(about, made=float(about.made), seconds=float(about.seconds))


def _is_old(state: ReadyState, now: float) -> bool:
    return now - state.used > MAX_AGE


def limit(environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that all states together may have."""
    return keyed_cache.limit_of(SIZE_VARIABLE, DEFAULT_SIZE, environment)


def free_now(store: ReadyStore, size: int) -> None:
    """Remove states above ``size`` bytes, and leftovers of killed processes."""
    store.sweep()
    for state in store.surplus(size, time.time()):
        with contextlib.suppress(OSError):
            store.remove(state)
