"""Which images differ from those of an earlier revision: in recipe, elements, tests or environments."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_dibctl.build import fingerprint, plan
from pytest_dibctl.config import catalog, tests_list
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import resolve_input
from pytest_dibctl.config.kinds import Kind
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image import statements
from pytest_dibctl.repository.revision import Repository

MOST = 5
"""Reasons that are told of one image; others are counted."""
_OF_THE_RECIPE = ("dib", "external_build")
"""Keys of an image that the fingerprint looks at."""
_UNKNOWN = "is named by an absolute path into the repository, so its earlier content is unknown"
_TOOLS = "requirements.txt"
"""The file of the packages that CI installs, by the name that `dibctl init` gives it."""
_SETTINGS_OF_PYTEST = ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tree:
    """Files of one time in a folder of ours: the repository's top, and the working directory below it."""

    top: Path
    cwd: Path
    catalog: Catalog
    problems: tuple[str, ...]
    listed: frozenset[Path]
    """The files that are tests of some image: for another image's tests they do not count."""


def reasons(
    images: Sequence[Entry[Image]],
    environments: Sequence[str],
    revision: str,
    *,
    cwd: Path,
    explicit: Mapping[Kind, Path | None],
) -> dict[str, tuple[str, ...]]:
    """Return the differences from ``revision`` of each of ``images`` that differs, by label.

    ``environments`` are where the images are tested, none for where each says itself. ``explicit`` are files
    that the user gave. Raises DibctlError where git cannot tell.
    """
    repository = Repository.around(cwd)
    commit = repository.commit(revision)
    with tempfile.TemporaryDirectory(prefix="dibctl-") as folder:
        then, now = Path(folder, "then"), Path(folder, "now")
        try:
            for place in (then, now):
                (place / repository.prefix).mkdir(parents=True)
            repository.lay_out(commit, then)
            repository.copy_working_tree(now)
        except (OSError, ValueError) as error:
            raise DibctlError(f"the files of {revision} cannot be laid out: {error}") from None
        compared = _Comparison(
            repository=repository,
            revision=revision,
            then=_tree(then, repository, explicit),
            now=_tree(now, repository, explicit),
            of_all=tuple(_of_all(repository, commit, then, now)),
        )
        reasons_by_label = {image.label: tuple(compared.image(image.label, environments)) for image in images}
    return {label: _few(found) for label, found in reasons_by_label.items() if found}


def _few(found: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(found))
    return (*found[:MOST], f"and {len(found) - MOST} more") if len(found) > MOST else found


def _of_all(repository: Repository, commit: str, then: Path, now: Path) -> Iterator[str]:
    """Yield inputs that cannot be compared for any image; these are rare, and any image may use them."""
    for path in repository.unknown_modules(commit):
        yield f"submodule {path} changed, and its files are not here"
    for tree, other in ((then, now), (now, then)):
        yield from _strays(tree.resolve(), other.resolve(), repository.top.resolve())


def _strays(tree: Path, other: Path, top: Path) -> Iterator[str]:
    """Yield links that leave a tree and lead into the working tree, which both times would share."""
    for directory, names, files in os.walk(tree):
        for link in (Path(directory, name) for name in (*names, *files)):
            if not link.is_symlink() or Path(os.path.realpath(link)).is_relative_to(tree):
                continue
            in_tree, path = Path(os.path.realpath(link)), link.relative_to(tree)
            at_work = Path(os.path.realpath(top / path.parent / link.readlink()))
            if in_tree.is_relative_to(other) or in_tree.is_relative_to(top) or at_work.is_relative_to(top):
                yield f"link {path} leads out of the repository and back, so its earlier target is unknown"


def _tree(top: Path, repository: Repository, explicit: Mapping[Kind, Path | None]) -> _Tree:
    cwd = top / repository.prefix
    moved = {kind: _moved(path, repository, top, cwd) for kind, path in explicit.items()}
    read, problems = catalog.read(cwd=cwd, explicit=moved)
    listed = frozenset(_listed(read, cwd))
    return _Tree(top=top, cwd=cwd, catalog=read, problems=tuple(map(str, problems)), listed=listed)


def _listed(read: Catalog, cwd: Path) -> Iterator[Path]:
    for image in read.images.values():
        for index, entry in enumerate(image.settings.tests.tests_list):
            with contextlib.suppress(DibctlError):
                yield from tests_list.expand(entry, image, cwd, index=index)


def _moved(path: Path | None, repository: Repository, top: Path, cwd: Path) -> Path | None:
    """Return where a file that the user named lies in a tree; one outside of the repository stays."""
    if path is None:
        return None
    place = Path(os.path.normpath(repository.top / repository.prefix / path))
    if not place.is_relative_to(repository.top):  # maybe only by that name
        place = Path(os.path.realpath(place))
    return top / place.relative_to(repository.top) if place.is_relative_to(repository.top) else cwd / path


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Comparison:
    repository: Repository
    revision: str
    then: _Tree
    now: _Tree
    of_all: tuple[str, ...]

    def image(self, label: str, environments: Sequence[str]) -> Iterator[str]:
        """Yield the differences of an image."""
        new, old = self.now.catalog.images.get(label), self.then.catalog.images.get(label)
        if new is None:
            yield "its configuration is not in git"
        elif old is None:
            problem = f": {self.then.problems[0]}" if self.then.problems else ""
            yield f"not in {self.revision}{problem}"
        else:
            yield from self.of_all
            yield from self._out_of_sight(new)
            yield from self._tools()
            yield from self._settings(old, new)
            yield from self._recipe(old, new)
            yield from self._tests(old, new)
            yield from self._environments(new, environments)

    def _tools(self) -> Iterator[str]:
        for folder in dict.fromkeys((self.repository.prefix, PurePosixPath())):
            before, after = (_digest(tree.top / folder / _TOOLS) for tree in (self.then, self.now))
            if before != after:
                yield f"{folder / _TOOLS} changed"

    def _settings(self, old: Entry[Image], new: Entry[Image]) -> Iterator[str]:
        before, after = (entry.settings.model_dump(mode="json") for entry in (old, new))
        for key in sorted({*before, *after} - set(_OF_THE_RECIPE)):
            yield from (f"{name} changed" for name in _differing(before.get(key), after.get(key), key))

    def _recipe(self, old: Entry[Image], new: Entry[Image]) -> Iterator[str]:
        try:
            after = _components(new, self.now.cwd)
        except DibctlError as error:
            yield f"not all of its recipe is in git: {error.message.splitlines()[0]}"
            return
        try:
            before = _components(old, self.then.cwd)
        except DibctlError as error:
            yield f"its recipe was broken: {error.message.splitlines()[0]}"
            return
        if differences := fingerprint.changes(before, after):
            yield differences
        recipe = plan.checked_recipe(new, plan.target_file(new, None, self.now.cwd), self.now.cwd)
        for element in recipe.elements if recipe is not None else ():
            if element.path.resolve().is_relative_to(self.repository.top.resolve()):
                yield f"element {element.name} {_UNKNOWN}"

    def _out_of_sight(self, image: Entry[Image]) -> Iterator[str]:
        """Yield a reason if the image names files of the working tree, which both trees would share."""
        inherited = fingerprint.relevant_environment({}) if image.settings.dib is not None else {}
        text = image.settings.model_dump_json() + json.dumps([*inherited.values()], ensure_ascii=False)
        if any(
            json.dumps(str(top), ensure_ascii=False)[1:-1] in text
            for top in (self.repository.top, self.repository.top.resolve())
        ):
            yield f"a file {_UNKNOWN}"

    def _tests(self, old: Entry[Image], new: Entry[Image]) -> Iterator[str]:
        try:
            after = _test_files(new, self.now)
        except DibctlError as error:
            yield f"not all of its tests are in git: {error.message.splitlines()[0]}"
            return
        try:
            before = _test_files(old, self.then)
        except DibctlError as error:
            yield f"its tests were broken: {error.message.splitlines()[0]}"
            return
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                how = "added" if name not in before else "removed" if name not in after else "changed"
                yield f"{name} {how}"

    def _environments(self, image: Entry[Image], labels: Sequence[str]) -> Iterator[str]:
        for label in labels or [image.settings.tests.environment_name or catalog.LOCAL]:
            before, after = (tree.catalog.environments.get(label) for tree in (self.then, self.now))
            if after is None:
                yield f"environment {label} is not in git"
            elif before is None:
                yield f"environment {label} is new"
            elif _environment(before, self.then) != _environment(after, self.now):
                yield f"environment {label} changed"


def _components(image: Entry[Image], cwd: Path) -> dict[str, str]:
    """Return the fingerprint of a build; files of the image itself lie in no tree of git."""
    target = plan.target_file(image, None, cwd)
    external = image.settings.external_build
    recipe = plan.checked_recipe(image, target, cwd)
    parts = fingerprint.components(recipe, external, salt="", target=target.name, cwd=cwd)
    return parts | fingerprint.arguments(external, target=target, cwd=cwd, old={})


def _differing(before: Any, after: Any, name: str) -> Iterator[str]:
    """Yield the dotted keys of two values that differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _differing(before.get(key), after.get(key), f"{name}.{key}")
    elif before != after:
        yield name


def _environment(entry: Entry[TestEnvironment], tree: _Tree) -> tuple[Any, ...]:
    settings = entry.settings
    sections = (settings.qemu, settings.nspawn, settings.nova)
    named = [section.userdata_file for section in sections if section is not None and section.userdata_file]
    data = [_digest(resolve_input(name, entry, tree.cwd)) for name in named]
    return settings.model_dump(), data  # not as JSON, which hides secrets


# -- files of tests --------------------------------------------------------------------------------


def _test_files(image: Entry[Image], tree: _Tree) -> dict[str, str]:
    """Return the digests of the files that an image's tests are made of, by name.

    These are the listed files and folders, and pytest's settings. They include the files beside a listed file
    and below its folder that are no tests, because the test may import or source them. They include the
    conftest files above, with the modules beside them.
    """
    digests: dict[str, str] = {}
    for index, entry in enumerate(image.settings.tests.tests_list):
        for path in tests_list.expand(entry, image, tree.cwd, index=index):
            if statements.is_shipped(path):
                continue
            for file in (*_own(path), *_around(path, tree)):
                digests[_name(file, tree)] = _digest(file)
        if (folder := tests_list.folder(entry, image, tree.cwd)) is not None:
            digests |= {_name(file, tree): _digest(file) for file in _below(folder)}
    if digests:
        digests |= _settings_of_pytest(tree)
    return digests


def _name(path: Path, tree: _Tree) -> str:
    path = Path(os.path.normpath(path))
    return str(path.relative_to(tree.top)) if path.is_relative_to(tree.top) else str(path)


def _own(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from _below(path)
        return
    yield path


def _around(path: Path, tree: _Tree) -> Iterator[Path]:
    for folder in path.parents:
        if not folder.is_relative_to(tree.top):
            break
        if (conftest := folder / "conftest.py").is_file():
            yield conftest
            yield from _helpers(folder.glob("*.py"), tree)
    if path.is_dir():
        return
    # Of the working directory itself most files have nothing to do with tests.
    in_work = path.parent in (tree.cwd, tree.top)
    paths = path.parent.glob(f"*{path.suffix}") if in_work else _below(path.parent)
    yield from _helpers(paths, tree)


def _helpers(found: Iterable[Path], tree: _Tree) -> Iterator[Path]:
    for file in sorted(found):
        is_test = file.name.startswith("test_") or file.stem.endswith("_test") or file in tree.listed
        if not is_test and file.is_file():
            yield file


def _below(folder: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name != "__pycache__")
        yield from (Path(directory, name) for name in sorted(files))


def _settings_of_pytest(tree: _Tree) -> dict[str, str]:
    found = {}
    for folder in dict.fromkeys((tree.cwd, tree.top)):
        for path in (folder / name for name in _SETTINGS_OF_PYTEST):
            if path.is_file():
                found[_name(path, tree)] = _digest(path)
        project = folder / "pyproject.toml"
        with contextlib.suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            settings = tomllib.loads(project.read_text()).get("tool", {}).get("pytest")
            if settings is not None:
                found[f"[tool.pytest] of {_name(project, tree)}"] = repr(settings)
    return found


def _digest(path: Path) -> str:
    try:
        if not path.is_file():  # a link that leads nowhere, or to a device
            return f"link {path.readlink()}"
        executable = os.access(path, os.X_OK)
        return f"{executable} {statements.digest_of(path)}"
    except OSError as error:
        return f"unreadable: {error.errno}"
