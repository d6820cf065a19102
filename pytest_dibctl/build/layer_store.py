"""The cache of kept trees. A layer's lock is held alone by the build that makes it, shared by its users."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.guards import kept_tree
from pytest_dibctl.system import files, keyed_cache
from pytest_dibctl.system.keyed_cache import ABOUT, KeyedCache

SIZE_VARIABLE: Final = "DIBCTL_CACHE_SIZE"
"""GiB that all layers together may have; 0 switches them off."""
DEFAULT_SIZE: Final = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """Facts of a layer.

    ``made`` is seconds since the epoch, ``seconds`` the time of the scripts since the layer before it,
    ``sizes`` are bytes of its files. ``sources`` are digests of signed package indexes, None where they do
    not say all. ``max_age`` and ``unsigned_max_age`` are the seconds that its image allowed.
    """

    boundary: str
    image: str
    components: Mapping[str, str]
    sources: Mapping[str, str] | None
    made: float
    seconds: float
    max_age: float
    unsigned_max_age: float
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def too_old(self, sources: Mapping[str, str] | None, now: float) -> str | None:
        """Say why the layer must not be used while the packages' indexes are ``sources``; None if it may."""
        age = now - self.made
        if age > self.max_age or age < 0:
            return f"it is older than {self.max_age / 3600:.0f} h (dib.cache.max_age)"
        if self.sources is not None and sources is not None:
            return None if self.sources == sources else "the package indexes have changed"
        if age > self.unsigned_max_age:
            hours = self.unsigned_max_age / 3600
            return f"it is older than {hours:.0f} h, and no signed index tells of newer packages"
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer in the cache; ``used`` is when it was used last, seconds since the epoch."""

    key: str
    path: Path
    about: About
    used: float

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(self.about.sizes.values())


class Store(KeyedCache[Layer]):
    """The layers of this user."""

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(directory or keyed_cache.place("layers"), read=_read, is_old=_is_old)

    def take_in(self, kept: Path, key: str, about: About) -> None:
        """Move a tree that a build has kept into the cache, in the place of an older one; raises OSError.

        The caller holds the lock alone.
        """
        with self.draft(key) as draft:
            shutil.move(kept, draft)
            names = (kept_tree.TREE, kept_tree.EXTRA, kept_tree.STATE)
            sizes = {name: (draft / name).stat().st_size for name in names if (draft / name).exists()}
            whole = dataclasses.asdict(dataclasses.replace(about, sizes=sizes))
            files.write_atomically(draft / ABOUT, json.dumps(whole), mode=0o600)


def _read(path: Path, key: str) -> Layer | None:
    about = About(**json.loads((path / ABOUT).read_text()))
    if any((path / name).stat().st_size != size for name, size in about.sizes.items()):
        return None
    return Layer(key=key, path=path, about=about, used=(path / ABOUT).stat().st_mtime)


def _is_old(layer: Layer, now: float) -> bool:
    return now - layer.about.made > layer.about.max_age


def limit(environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that all layers together may have."""
    return keyed_cache.limit_of(SIZE_VARIABLE, DEFAULT_SIZE, environment)
