"""All configuration of a run: which files were read, what they define, and what replaces what."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from pytest_dibctl.config.deprecations import deprecations
from pytest_dibctl.config.entry import Entry, T_co
from pytest_dibctl.config.kinds import KINDS, NOUNS, Kind
from pytest_dibctl.config.merge import LOCAL_PORT_WAIT
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.nspawn import Nspawn
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.test import LOCAL_ENGINES, EnvironmentTests, TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.config.search import SYSTEM, display_path, find_files, not_found, working_directory
from pytest_dibctl.config.selection import Labels
from pytest_dibctl.config.validation_errors import problems as validation_problems
from pytest_dibctl.config.yaml import source
from pytest_dibctl.config.yaml.problems import Problem, config_error, in_file_order
from pytest_dibctl.config.yaml.source import Document
from pytest_dibctl.errors import NotInConfigError

NEEDED: tuple[Kind, ...] = ("images",)
"""The kinds of which a run needs at least one file."""
LOCAL, CONTAINER = "local", "container"
"""The labels of the built-in test environments."""
BUILT_IN = "built-in"
"""The place of a built-in test environment, instead of a file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Override:
    """A label defined twice: ``winner`` and ``loser`` are "path:line:column"."""

    kind: Kind
    label: str
    winner: str
    loser: str

    def __str__(self) -> str:
        return f"{NOUNS[self.kind]} {self.label!r}: {self.winner} replaces {self.loser}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that was read, and the labels it defines. ``display_name`` is its name in messages."""

    kind: Kind
    path: Path
    display_name: str
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that is configured: the entries of each kind by label, overridden ones left out.

    ``files`` and ``overrides`` are in the order of reading; ``warnings`` repeats the overrides and adds
    outdated settings.
    """

    images: Mapping[str, Entry[Image]]
    environments: Mapping[str, Entry[TestEnvironment]]
    uploads: Mapping[str, Entry[UploadEnvironment]]
    warnings: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    overrides: tuple[Override, ...] = ()

    def image(self, label: str) -> Entry[Image]:
        """Return an image; raises NotInConfigError, with near labels."""
        return self._labels("images", self.images).entry(label)

    def environment(self, label: str) -> Entry[TestEnvironment]:
        """Return a test environment; raises NotInConfigError, with near labels."""
        return self._labels("test", self.environments).entry(label)

    def upload(self, label: str) -> Entry[UploadEnvironment]:
        """Return an upload environment; raises NotInConfigError, with near labels."""
        return self._labels("upload", self.uploads).entry(label)

    def environment_for(self, image: Entry[Image], override: str | None = None) -> Entry[TestEnvironment]:
        """Return where ``image`` is tested: ``override``, else what it names, else ``local``.

        Raises NotInConfigError, which says where the name is written.
        """
        label = override or image.settings.tests.environment_name or LOCAL
        if label in self.environments:
            return self.environments[label]
        error = self._labels("test", self.environments).missing(label)
        if override:
            raise error
        raise NotInConfigError(f"{image.at('tests.environment_name')}: {error.message}", hint=error.hint)

    def select_images(self, patterns: Sequence[str]) -> tuple[Entry[Image], ...]:
        """Return the images that ``patterns`` name: labels, globs or ``all``, each possibly a comma list.

        The order is that of the patterns, within one pattern that of the files; no image comes twice.
        Raises NotInConfigError for a pattern that matches nothing.
        """
        return self._labels("images", self.images).select(patterns)

    def select_environments(self, patterns: Sequence[str]) -> tuple[Entry[TestEnvironment], ...]:
        """Return the test environments that ``patterns`` name, as ``select_images`` does for images."""
        return self._labels("test", self.environments).select(patterns)

    def select_uploads(self, patterns: Sequence[str]) -> tuple[Entry[UploadEnvironment], ...]:
        """Return the upload environments that ``patterns`` name, as ``select_images`` does for images."""
        return self._labels("upload", self.uploads).select(patterns)

    def _labels(self, kind: Kind, entries: Mapping[str, Entry[T_co]]) -> Labels[T_co]:
        files = tuple(file.display_name for file in self.files if file.kind == kind)
        # A pattern of test environments means those of the files, and `local`, which was there first.
        built_in = {label for label, entry in entries.items() if entry.display_name == BUILT_IN} - {LOCAL}
        return Labels(kind=kind, entries=entries, files=files, by_name=frozenset(built_in))


def load(
    *,
    cwd: Path | None = None,
    images: Path | None = None,
    test: Path | None = None,
    upload: Path | None = None,
    need: Collection[Kind] = NEEDED,
    system: Path = SYSTEM,
) -> Catalog:
    """Read the configuration of a run in ``cwd`` (the current directory).

    ``images``, ``test`` and ``upload`` are files given by the user, each read instead of a search;
    ``need`` says of which kinds at least one file must exist; ``system`` is the place of least priority.

    Raises one ConfigError with everything that is wrong in all files.
    """
    explicit: dict[Kind, Path | None] = {"images": images, "test": test, "upload": upload}
    catalog, problems = read(cwd=cwd, explicit=explicit, system=system)
    if problems:
        raise config_error(problems)
    for kind in KINDS:
        if kind in need and not any(file.kind == kind for file in catalog.files):
            raise not_found(kind, working_directory(cwd), system)
    return catalog


def read(
    *,
    cwd: Path | None = None,
    explicit: Mapping[Kind, Path | None] | None = None,
    system: Path = SYSTEM,
) -> tuple[Catalog, tuple[Problem, ...]]:
    """Like ``load``, but return what can be used together with all that is wrong.

    Raises ConfigError only when the current directory was removed.
    """
    cwd = working_directory(cwd)
    reader = _Reader(cwd)
    for kind in KINDS:
        path = (explicit or {}).get(kind)
        if path is not None:
            reader.read(kind, [cwd / path])
            continue
        paths, problems = find_files(kind, cwd, system)
        reader.problems += problems
        reader.read(kind, paths)
    # A folder that cannot be read is met once for each kind.
    return reader.catalog(), tuple(dict.fromkeys(reader.problems))


def built_in_environment(engine: str = "qemu") -> Entry[TestEnvironment]:
    """Return ``local``, a QEMU guest on this machine with default settings; of "nspawn", ``container``."""
    tests = EnvironmentTests(port_wait_timeout=LOCAL_PORT_WAIT[engine])
    if engine == "nspawn":
        label, settings = CONTAINER, TestEnvironment(nspawn=Nspawn(), tests=tests)
    else:
        label, settings = LOCAL, TestEnvironment(qemu=Qemu(), tests=tests)
    return Entry(label=label, settings=settings, path=Path(BUILT_IN), display_name=BUILT_IN)


def _built_in() -> dict[str, Entry[TestEnvironment]]:
    entries = map(built_in_environment, LOCAL_ENGINES)
    return {entry.label: entry for entry in entries}


class _Reader:
    """Collects entries, problems and overrides over all files, in the order they are read."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.problems: list[Problem] = []
        self.files: list[SourceFile] = []
        self.overrides: list[Override] = []
        self.entries: dict[Kind, dict[str, Entry[Any]]] = {kind: {} for kind in KINDS}

    def read(self, kind: Kind, paths: Iterable[Path]) -> None:
        for path in paths:
            document = source.read(path, display_path(path, self.cwd))
            self.problems += document.problems
            self.files.append(
                SourceFile(
                    kind=kind, path=path, display_name=document.display_name, labels=tuple(document.data)
                ),
            )
            for label, data in document.data.items():
                self._add(kind, label, data, document)

    def _add(self, kind: Kind, label: str, data: Any, document: Document) -> None:
        """Validate one entry; it takes the place of an older entry of its label."""
        model = KINDS[kind]
        try:
            settings = model.model_validate({} if data is None else data)
        except ValidationError as error:
            self.problems += in_file_order(validation_problems(error, model, label, document))
            return
        entry = Entry(
            label=label,
            settings=settings,
            path=document.path,
            display_name=document.display_name,
            marks=document.marks,
        )
        self._note_override(kind, entry)
        self.entries[kind].pop(label, None)
        self.entries[kind][label] = entry

    def _note_override(self, kind: Kind, entry: Entry[Section]) -> None:
        older = self.entries[kind].get(entry.label)
        if older is not None:
            self.overrides.append(
                Override(kind=kind, label=entry.label, winner=_place(entry), loser=_place(older)),
            )

    def catalog(self) -> Catalog:
        environments = {**_built_in(), **self.entries["test"]}
        outdated = [
            warning
            for kind in KINDS
            for entry in self.entries[kind].values()
            for warning in deprecations(entry)
        ]
        return Catalog(
            images=MappingProxyType(self.entries["images"]),
            environments=MappingProxyType(environments),
            uploads=MappingProxyType(self.entries["upload"]),
            warnings=(*map(str, self.overrides), *outdated),
            files=tuple(self.files),
            overrides=tuple(self.overrides),
        )


def _place(entry: Entry[Section]) -> str:
    mark = entry.mark()
    return f"{entry.name}:{mark.line}:{mark.column}" if mark else entry.name
