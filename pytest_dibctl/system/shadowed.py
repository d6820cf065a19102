"""Modules beside tests that stand in the way of Python's own, or of a library's, with the same name.

pytest puts the folders of tests in front of the module path. A library that is imported later gets ``http``
from there, and fails somewhere inside with an AttributeError.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import importlib.metadata
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

DISTRIBUTION, PACKAGE = "pytest-dibctl", __name__.partition(".")[0]
NOT_IMPORTED = frozenset({"diskimage-builder"})
"""Dependencies that run as programs only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clash:
    """A file that is found in the place of the module ``name``; ``owner`` is whose module that is."""

    name: str
    file: Path
    owner: str

    def __str__(self) -> str:
        return f"{self.file} takes the place of {self.owner} module {self.name}, which runs with images need"


def clashes(*, without: Iterable[str] = ()) -> list[Clash]:
    """Return the modules that would be, or were, imported in the place of Python's or a library's.

    A module that was imported from its own place already is safe. ``without`` names distributions whose
    modules will not be imported, nor the modules of their own dependencies.
    """
    candidates = dict(_candidates())
    candidates.pop(PACKAGE, None)  # a source checkout of ours is no clash
    if not candidates:
        return []
    real = _owners(candidates)
    if any(owner != PYTHON for owner in real.values()):
        used = _closure(DISTRIBUTION, NOT_IMPORTED | {_normal(name) for name in without})
        real = {name: owner for name, owner in real.items() if owner == PYTHON or _normal(owner) in used}
    return [
        Clash(name=name, file=candidates[name], owner=owner if owner == PYTHON else f"{owner}'s")
        for name, owner in sorted(real.items())
    ]


PYTHON = "Python's own"


def _candidates() -> Iterator[tuple[str, Path]]:
    """Yield names and files of modules that hide another of the same name, if there is another."""
    front = [place for place in sys.path if not _is_installed(place)]
    for place in reversed(front):
        for name, file in _modules_in(place or "."):
            loaded = sys.modules.get(name)
            origin = getattr(loaded, "__file__", None)
            if loaded is None or (origin is not None and _same(Path(origin), file)):
                yield name, file


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _modules_in(place: str) -> Iterator[tuple[str, Path]]:
    try:
        entries = list(os.scandir(place))
    except OSError:
        return
    for entry in entries:
        name, suffix = os.path.splitext(entry.name)  # noqa: PTH122 -- names only
        if suffix == ".py":
            yield name, Path(entry.path).absolute()
        elif entry.name.isidentifier() and os.path.isfile(os.path.join(entry.path, "__init__.py")):  # noqa: PTH113, PTH118
            yield entry.name, Path(entry.path, "__init__.py").absolute()


def _is_installed(place: str) -> bool:
    """Whether an entry of the path is Python's, or holds installed packages, as pip leaves them."""
    known = sysconfig.get_paths()
    own = {os.path.realpath(known[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    real = os.path.realpath(place)
    if real in own or os.path.dirname(real) in own or real.endswith(".zip"):  # noqa: PTH120
        return True
    try:
        return any(name.endswith((".dist-info", ".egg-info")) for name in os.listdir(real))  # noqa: PTH208
    except OSError:
        return True  # nothing can be imported from it


def _owners(names: Iterable[str]) -> dict[str, str]:
    """Return, of the names that an installed module has, whose it is: Python's, or a distribution's."""
    found = {name: PYTHON for name in names if name in sys.stdlib_module_names}
    places = [place for place in sys.path if _is_installed(place)]
    others = [
        name
        for name in names
        if name not in found and importlib.machinery.PathFinder.find_spec(name, places) is not None
    ]
    if others:  # reading the files of all distributions takes a moment
        distributions = _distributions()
        found |= {name: distributions[name][0] for name in others if distributions.get(name)}
    return found


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Return which distributions hold each installed module; nothing is installed while tests run."""
    return importlib.metadata.packages_distributions()


@functools.cache
def _closure(distribution: str, without: frozenset[str]) -> frozenset[str]:
    """Return the distributions that one depends on, directly or not."""
    left_out, known, todo = set(without), set[str](), [distribution]
    while todo:
        name = _normal(todo.pop())
        if name in known or name in left_out:
            continue
        known.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [
            match.group()
            for requirement in requirements
            if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement))
        ]
    return frozenset(known)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
