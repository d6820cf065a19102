"""Where a build starts: at the tree that an earlier one kept after the last phase that is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.build import elements, fingerprint, layer_keys, layer_store, package_sources, preflight
from pytest_dibctl.build.layer_store import About, Layer, Store
from pytest_dibctl.build.plan import Plan
from pytest_dibctl.guards import kept_tree
from pytest_dibctl.guards.phases import BOUNDARIES, Boundary
from pytest_dibctl.system import locks, process
from pytest_dibctl.system.waiting import Every

CLEAN_VARIABLE: Final = "DIBCTL_CLEAN_BUILDS"
"""With any value but 0, builds start from nothing: for a nightly job."""

MINIMUM: Final = 5.0
"""Seconds of scripts that a kept tree has to save; less is not worth packing it."""

WORTH: Final = 4.0
"""How many times the time of packing a tree its scripts have to take."""

_POLL: Final = 0.2
_ELSEWHERE: Final = re.compile(
    r"(?m)^\s*(?:deb\s|uris:).*(?:@|(?<![\w/])(?!https?:)[a-z+]+:/)", re.IGNORECASE
)
"""Sources of packages that are no plain address, of which no index is looked at."""
_SHOWN: Final = {"packages": "the packages of install.d"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where a build starts: after ``boundary``, None for from nothing; ``text`` says so, and why."""

    boundary: str | None
    text: str


class Session:
    """The trees that one build takes from the cache and gives to it.

    ``plan`` is the build's plan with the additions of the cache. ``unusable`` is true when the tree it began
    with could not be put in place, and is no more in the cache: then the build has to be done again.
    """

    def __init__(self, plan: Plan, cache: _Cache | None) -> None:
        self.plan = plan
        self.start = Start(boundary=None, text="")
        self.unusable = False
        self._cache = cache

    def told(self, line: str) -> None:
        """Take in a line of the build's log."""
        cache = self._cache
        if cache is None:
            return
        if line.startswith(kept_tree.KEPT):
            cache.take_in(line.removeprefix(kept_tree.KEPT))
        elif line.startswith(kept_tree.PASSED):
            cache.release(line.removeprefix(kept_tree.PASSED))
        elif line.startswith(kept_tree.UNUSABLE):
            self.unusable = cache.discard_start()
        elif line.startswith(kept_tree.NOT_KEPT):
            cache.note(line)


@contextlib.contextmanager
def session(plan: Plan, *, clean: bool, progress: Callable[[str], None]) -> Iterator[Session]:
    """Choose where a build starts, and have it keep trees; the private directory of the build exists.

    ``clean`` is from nothing. An unusable cache, such as on a full disk, gives a warning and no error.
    """
    with contextlib.ExitStack() as stack:
        chosen = Session(plan, None)
        try:
            if _why_not(plan) is None:
                cache = _Cache(plan, stack, progress)
                chosen = Session(cache.prepared_plan(), cache)
                chosen.start = cache.choose(clean=clean or _always_clean())
                progress(chosen.start.text)
        except OSError as error:
            place = error.filename or Store().directory
            progress(f"warning: no trees are kept or used: {place}: {error.strerror}")
            chosen = Session(plan, None)
        yield chosen


def _always_clean() -> bool:
    return os.environ.get(CLEAN_VARIABLE, "0") not in ("", "0")


def _why_not(plan: Plan) -> str | None:
    if plan.recipe is None or plan.image.settings.dib is None:
        return "there is no disk-image-create in it"
    if not plan.image.settings.dib.cache.enabled or layer_store.limit() == 0:
        return "it is switched off"
    return None if shutil.which("zstd", path=process.tool_path()) else "zstd is not installed"


class _Cache:
    """The cache, from the side of one build; locks are released with ``stack``, or before."""

    def __init__(self, plan: Plan, stack: contextlib.ExitStack, progress: Callable[[str], None]) -> None:
        recipe, dib = plan.recipe, plan.image.settings.dib
        if recipe is None or dib is None:
            raise ValueError("a build without disk-image-create has no phases")
        self._plan, self._recipe, self._settings = plan, recipe, dib.cache
        self._stack, self._progress = stack, progress
        self._store = Store()
        self._directory = plan.building / "layers"
        salt = self._store.salt()
        old = plan.record.components if plan.record is not None else {}
        self._components = {
            boundary.name: layer_keys.components(
                recipe, boundary, target=plan.target.name, cwd=plan.cwd, salt=salt, old=old
            )
            for boundary in layer_keys.boundaries(recipe)
            if layer_keys.runs_before(self._settings.uncacheable, recipe, boundary) is None
        }
        self._keys = {
            boundary.name: layer_keys.key(self._components[boundary.name], boundary)
            for boundary in self._boundaries
        }
        self._sources = package_sources.digests(package_sources.indexes(recipe))
        self._making: dict[str, contextlib.ExitStack] = {}
        self._start: Layer | None = None

    @property
    def _boundaries(self) -> list[Boundary]:
        return [boundary for boundary in BOUNDARIES if boundary.name in self._components]

    def prepared_plan(self) -> Plan:
        """Return the plan of the build with the element that keeps trees, and its scripts' variables."""
        paths = [path for path in self._recipe.environment.get("ELEMENTS_PATH", "").split(":") if path]
        environment = {
            **self._recipe.environment,
            "ELEMENTS_PATH": ":".join(dict.fromkeys([*paths, str(elements.SHIPPED)])),
            kept_tree.DIRECTORY: str(self._directory),
        }
        ours = dict.fromkeys(boundary.element for boundary in layer_keys.boundaries(self._recipe))
        named = (*self._recipe.named, *ours)
        recipe = dataclasses.replace(self._recipe, environment=environment, named=named)
        return dataclasses.replace(self._plan, recipe=recipe)

    # -- before the build --------------------------------------------------------------------------

    def choose(self, *, clean: bool) -> Start:
        """Decide where to start and which trees to keep, and leave orders for the build's scripts."""
        self._store.sweep()
        if clean:
            self._hold_free(self._boundaries)
            start = Start(boundary=None, text="starts from nothing, as asked")
        else:
            start = self._found()
        (self._directory / "kept").mkdir(parents=True, mode=0o700)
        kept_tree.Orders(
            restore=start.boundary,
            layer=str(self._start.path) if self._start is not None else None,
            keep=tuple(self._making),
            minimum=MINIMUM,
            worth=WORTH,
            reserve=preflight.needed_space(self._recipe),
            out=str(self._plan.out),
        ).write(self._directory)
        return start

    def _found(self) -> Start:
        heartbeat = Every(math.inf)
        while True:
            later: list[Boundary] = []
            why = "no tree was kept"
            for boundary in reversed(self._boundaries):
                layer, reason = self._usable(boundary)
                if layer is not None and (held := self._shared(layer)):
                    if busy := self._hold_free(later, all_or_none=True):
                        held.close()
                        break
                    self._stack.push(held)
                    self._start = layer
                    self._store.touch(layer)
                    return self._started(boundary, layer, why if later else "")
                later.insert(0, boundary)
                why = reason or why
            else:
                busy = self._hold_free(later, all_or_none=True)
                if not busy:
                    return Start(boundary=None, text=f"starts from nothing: {why}")
            if heartbeat.is_due():
                self._progress("waiting for another build, whose tree this build can start from")
            self._wait(busy)

    def _usable(self, boundary: Boundary) -> tuple[Layer | None, str | None]:
        layer = self._store.find(self._keys[boundary.name])
        if layer is not None:
            why = layer.about.too_old(self._sources, time.time())
            return (None, f"of the tree after {_shown(boundary.name)}, {why}") if why else (layer, None)
        of_the_image = (
            other
            for other in self._store.things()
            if (other.about.boundary, other.about.image) == (boundary.name, self._plan.image.label)
        )
        last = max(of_the_image, key=lambda other: other.about.made, default=None)
        if last is None:
            return None, None
        return None, fingerprint.changes(last.about.components, self._components[boundary.name]) or None

    @staticmethod
    def _started(boundary: Boundary, layer: Layer, why: str) -> Start:
        minutes = (time.time() - layer.about.made) / 60
        text = f"starts after {_shown(boundary.name)}, with the tree of a build of {layer.about.image}"
        because = f"; not later: {why}" if why else ""
        return Start(boundary=boundary.name, text=f"{text} {minutes:.0f} min ago{because}")

    # -- locks -------------------------------------------------------------------------------------

    def _shared(self, layer: Layer) -> contextlib.ExitStack | None:
        """Hold the lock of a layer, which then stays; None where it is just being made or removed."""
        with contextlib.ExitStack() as stack:
            descriptor = stack.enter_context(locks.opened(self._store.lock_file(layer.key)))
            if locks.try_hold(descriptor, shared=True) and self._store.find(layer.key) is not None:
                return stack.pop_all()
        return None

    def _hold_free(self, wanted: list[Boundary], *, all_or_none: bool = False) -> str | None:
        """Hold the locks of the trees that this build will make; return the key of a lock that is taken."""
        taken = None
        for boundary in wanted:
            key = self._keys[boundary.name]
            with contextlib.ExitStack() as stack:
                if locks.try_hold(stack.enter_context(locks.opened(self._store.lock_file(key)))):
                    self._making[boundary.name] = self._stack.enter_context(stack.pop_all())
                else:
                    taken = key
            if taken and all_or_none:
                for name in list(self._making):
                    self.release(name)
                return taken
        return taken

    def _wait(self, key: str | None) -> None:
        if key is None:
            # A layer was just being removed.
            time.sleep(_POLL)
            return
        with locks.opened(self._store.lock_file(key)) as descriptor:
            locks.hold_by_looking(descriptor, poll=_POLL)

    def release(self, name: str) -> None:
        """Let other builds use the tree that this build has kept at a boundary, or make it."""
        if name in self._making:
            self._making.pop(name).close()

    # -- during the build --------------------------------------------------------------------------

    def take_in(self, name: str) -> None:
        """Move the tree that was kept at a boundary into the cache; a full disk gives only a warning."""
        kept = self._directory / "kept" / name
        if name not in self._making or not kept.is_dir():
            return
        try:
            seconds = float(_state(kept)["seconds"])
            about = About(
                boundary=name,
                image=self._plan.image.label,
                components=self._components[name],
                sources=self._sources_of(kept / kept_tree.SOURCES),
                made=time.time(),
                seconds=seconds,
                max_age=self._settings.max_age,
                unsigned_max_age=self._settings.unsigned_max_age,
            )
            shutil.rmtree(kept / kept_tree.SOURCES)
            self._store.take_in(kept, self._keys[name], about)
        except (OSError, ValueError, KeyError) as error:
            self._progress(f"warning: the tree after {_shown(name)} is not kept: {error}")
        self.release(name)
        for layer in self._store.surplus(layer_store.limit(), time.time()):
            with contextlib.suppress(OSError):
                self._store.remove(layer)

    def discard_start(self) -> bool:
        """Remove the tree that this build began with; return whether there was one."""
        if self._start is None:
            return False
        with contextlib.suppress(OSError):
            self._store.discard(self._start)
        return True

    def note(self, line: str) -> None:
        """Say why a tree is not kept, where the user can do something about it."""
        if "room" in line or "space" in line:
            self._progress(f"warning: {line}")

    def _sources_of(self, apt: Path) -> Mapping[str, str] | None:
        """Return the digests of the signed indexes, if no other source gives packages to the tree."""
        if self._sources is None:
            return None
        texts = [path.read_text(errors="replace") for path in apt.rglob("*") if path.is_file()]
        in_tree = {package_sources.shown(address) for address in package_sources.in_tree(apt)}
        known = in_tree <= self._sources.keys() and not any(map(_ELSEWHERE.search, texts))
        return self._sources if known else None


def _shown(name: str) -> str:
    return _SHOWN.get(name, name)


def _state(kept: Path) -> Mapping[str, float]:
    state: Mapping[str, float] = json.loads((kept / kept_tree.STATE).read_text())
    return state
