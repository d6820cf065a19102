"""The cache of kept trees, in the user's cache directory: readable by the user only, limited in size.

A layer is a directory named by its key. It appears and disappears by a rename, so that a reader finds all
of it or none. A lock beside it is held, shared, while a build uses the layer, and alone while a build makes
it: other builds wait for that one instead of doing the same work, and the kernel releases the lock of one
that dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.guards import kept_tree
from pytest_dibctl.system import files, locks

SIZE_VARIABLE: Final = "DIBCTL_CACHE_SIZE"
"""GiB that all layers together may have; 0 switches them off."""
DEFAULT_SIZE: Final = 10.0
_GIB: Final = 1 << 30

_ABOUT: Final = "about.json"
_SALT: Final = "salt"
_KEY: Final = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a layer.

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


class Store:
    """The layers of this user."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or files.user_cache() / "dibctl" / "layers"

    def salt(self) -> str:
        """Return the salt of all digests of secrets here, made at the first use; raises OSError."""
        self._make()
        file = self.directory / _SALT
        with contextlib.suppress(FileExistsError):
            draft = self.directory / f".{_SALT}.{secrets.token_hex(4)}"
            files.write_atomically(draft, secrets.token_hex(16), mode=0o600)
            try:
                os.link(draft, file)  # fails where another process was quicker: its salt counts
            finally:
                draft.unlink()
        return file.read_text()

    def find(self, key: str) -> Layer | None:
        """Return the layer of that key if it is there and whole."""
        path = self.directory / key
        try:
            data = json.loads((path / _ABOUT).read_text())
            about = About(**data)
            whole = all((path / name).stat().st_size == size for name, size in about.sizes.items())
            return (
                Layer(key=key, path=path, about=about, used=(path / _ABOUT).stat().st_mtime)
                if whole
                else None
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def layers(self) -> list[Layer]:
        """Return all layers, the one used last first."""
        names = self.directory.iterdir() if self.directory.is_dir() else ()
        found = [self.find(path.name) for path in names if _KEY.fullmatch(path.name) and path.is_dir()]
        return sorted((layer for layer in found if layer is not None), key=lambda layer: -layer.used)

    def touch(self, layer: Layer) -> None:
        """Note that a layer is used now."""
        with contextlib.suppress(OSError):
            os.utime(layer.path / _ABOUT)

    def lock_file(self, key: str) -> Path:
        """Return the file whose lock is that of a layer; raises OSError where it cannot be made."""
        self._make()
        return self.directory / f"{key}.lock"

    def take_in(self, kept: Path, key: str, about: About) -> None:
        """Move what a build has kept into the cache, in the place of what is there; raises OSError.

        The caller holds the lock alone.
        """
        self._make()
        draft = self.directory / f".{key}.{secrets.token_hex(4)}"
        try:
            shutil.move(kept, draft)
            draft.chmod(0o700)
            names = (kept_tree.TREE, kept_tree.EXTRA, kept_tree.STATE)
            sizes = {name: (draft / name).stat().st_size for name in names if (draft / name).exists()}
            whole = dataclasses.asdict(dataclasses.replace(about, sizes=sizes))
            files.write_atomically(draft / _ABOUT, json.dumps(whole), mode=0o600)
            self._discard(self.directory / key)
            draft.rename(self.directory / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def remove(self, layer: Layer) -> bool:
        """Remove a layer unless a build uses or makes it; return whether it is gone."""
        with locks.exclusive_if_free(self.lock_file(layer.key)) as descriptor:
            if descriptor is None:
                return False
            self._discard(layer.path)
        return True

    def discard(self, layer: Layer) -> None:
        """Remove a layer that cannot be used, also while its lock is held."""
        self._discard(layer.path)

    def surplus(self, limit: int, now: float) -> Iterator[Layer]:
        """Yield what is to go: what is too old to be used, and the longest unused above ``limit`` bytes."""
        total = 0
        for layer in self.layers():
            total += layer.size
            if total > limit or now - layer.about.made > layer.about.max_age:
                total -= layer.size
                yield layer

    def sweep(self) -> None:
        """Remove drafts that killed processes left an hour ago or longer."""
        for path in self.directory.glob(".*") if self.directory.is_dir() else ():
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > 3600:  # noqa: PLR2004 -- seconds
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)

    def _discard(self, path: Path) -> None:
        if path.exists():
            gone = self.directory / f".{path.name}.{secrets.token_hex(4)}"
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def limit(environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that all layers together may have."""
    try:
        return max(0, int(float(environment.get(SIZE_VARIABLE) or DEFAULT_SIZE) * _GIB))
    except (ValueError, OverflowError):
        return int(DEFAULT_SIZE * _GIB)


def as_data(layer: Layer) -> dict[str, Any]:
    """Return what is told of a layer; names of components, not digests."""
    return {
        "key": layer.key,
        "after": layer.about.boundary,
        "image": layer.about.image,
        "size": layer.size,
        "made": layer.about.made,
        "used": layer.used,
        "seconds": round(layer.about.seconds, 1),
        "signed": layer.about.sources is not None,
        "elements": sorted(
            name.partition(":")[2] for name in layer.about.components if name.startswith("element:")
        ),
    }
