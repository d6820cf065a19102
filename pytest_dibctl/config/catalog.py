"""All configuration of a run: which files were read, what they define, and what replaces what."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from pytest_dibctl.config.entry import Entry, T_co
from pytest_dibctl.config.merge import QEMU_PORT_WAIT
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.keystone import IDENTITY_V2
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.test import EnvironmentTests, TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.config.validation_errors import problems as translated
from pytest_dibctl.config.validation_errors import suggestion
from pytest_dibctl.config.yaml import source
from pytest_dibctl.config.yaml.problems import Problem, config_error, in_file_order
from pytest_dibctl.config.yaml.source import Document
from pytest_dibctl.errors import ConfigError, NotInConfigError

Kind = Literal["images", "test", "upload"]
KINDS: Mapping[Kind, type[Section]] = MappingProxyType(
    {"images": Image, "test": TestEnvironment, "upload": UploadEnvironment},
)
NOUNS: Mapping[Kind, str] = MappingProxyType(
    {"images": "image", "test": "test environment", "upload": "upload environment"},
)
OPTIONS: Mapping[Kind, str] = MappingProxyType(
    {"images": "--images-config", "test": "--test-config", "upload": "--upload-config"},
)

NEEDED: tuple[Kind, ...] = ("images",)
"""The kinds without which there is nothing to do."""

SYSTEM = Path("/etc/dibctl")
PLACES = ("configs", "dibctl", ".")
"""Where files are looked for below the working directory, later ones winning; SYSTEM comes before."""
LOCAL = "local"
"""The label of the built-in test environment."""
BUILT_IN = "built-in"


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
    """A file that was read, and the labels it defines."""

    kind: Kind
    path: Path
    shown: str
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that is configured."""

    images: Mapping[str, Entry[Image]]
    environments: Mapping[str, Entry[TestEnvironment]]
    uploads: Mapping[str, Entry[UploadEnvironment]]
    warnings: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    overrides: tuple[Override, ...] = ()

    def image(self, label: str) -> Entry[Image]:
        """Return an image; raises NotInConfigError, with near labels."""
        return self._find("images", self.images, label)

    def environment(self, label: str) -> Entry[TestEnvironment]:
        """Return a test environment; raises NotInConfigError, with near labels."""
        return self._find("test", self.environments, label)

    def upload(self, label: str) -> Entry[UploadEnvironment]:
        """Return an upload environment; raises NotInConfigError, with near labels."""
        return self._find("upload", self.uploads, label)

    def environment_for(self, image: Entry[Image], override: str | None = None) -> Entry[TestEnvironment]:
        """Return where ``image`` is tested: ``override``, else what it names, else ``local``.

        Raises NotInConfigError, which says where the name is written.
        """
        named = image.settings.tests.environment_name
        label = override or named or LOCAL
        if label in self.environments:
            return self.environments[label]
        error = self._missing("test", self.environments, label)
        if override:
            raise error
        raise NotInConfigError(f"{image.at('tests.environment_name')}: {error.message}", hint=error.hint)

    def select_images(self, patterns: Sequence[str]) -> tuple[Entry[Image], ...]:
        """Return the images that ``patterns`` name: labels, globs or ``all``, each possibly a comma list.

        The order is that of the patterns, within one pattern that of the files; no image comes twice.
        Raises NotInConfigError for a pattern that matches nothing.
        """
        return self._select("images", self.images, patterns)

    def select_environments(self, patterns: Sequence[str]) -> tuple[Entry[TestEnvironment], ...]:
        """Return the test environments that ``patterns`` name, as ``select_images`` does for images."""
        return self._select("test", self.environments, patterns)

    def select_uploads(self, patterns: Sequence[str]) -> tuple[Entry[UploadEnvironment], ...]:
        """Return the upload environments that ``patterns`` name, as ``select_images`` does for images."""
        return self._select("upload", self.uploads, patterns)

    def _select(
        self, kind: Kind, entries: Mapping[str, Entry[T_co]], patterns: Sequence[str]
    ) -> tuple[Entry[T_co], ...]:
        chosen: dict[str, Entry[T_co]] = {}
        for pattern in self._patterns(kind, entries, patterns):
            for label in self._matching(kind, entries, pattern):
                chosen.setdefault(label, entries[label])
        return tuple(chosen.values())

    def _patterns(self, kind: Kind, entries: Mapping[str, object], patterns: Sequence[str]) -> Iterator[str]:
        """Yield single patterns; a label may contain a comma and then counts as one."""
        for pattern in patterns:
            if pattern in entries:
                yield pattern
                continue
            parts = [part.strip() for part in pattern.split(",") if part.strip()]
            if not parts:
                article = "an" if NOUNS[kind][0] in "aeiou" else "a"
                raise NotInConfigError(
                    f"{article} {NOUNS[kind]} label is empty", hint=self._hint(kind, entries)
                )
            yield from parts

    def _matching(self, kind: Kind, entries: Mapping[str, object], pattern: str) -> list[str]:
        if pattern in entries:
            return [pattern]
        if pattern == "all" and entries:
            return list(entries)
        found = fnmatch.filter(entries, pattern)
        if not found:
            raise self._missing(kind, entries, pattern)
        return found

    def _find(self, kind: Kind, entries: Mapping[str, Entry[T_co]], label: str) -> Entry[T_co]:
        if label not in entries:
            raise self._missing(kind, entries, label)
        return entries[label]

    def _missing(self, kind: Kind, entries: Mapping[str, object], label: str) -> NotInConfigError:
        near = suggestion(label, entries, listed=f"{NOUNS[kind]}s:")
        return NotInConfigError(
            f"there is no {NOUNS[kind]} {label!r}", hint=near or self._hint(kind, entries)
        )

    def _hint(self, kind: Kind, entries: Mapping[str, object]) -> str:
        if entries:
            return f"`dibctl validate` lists the {len(entries)} {NOUNS[kind]}s there are"
        read = [file.shown for file in self.files if file.kind == kind]
        return f"no {NOUNS[kind]} is defined in {', '.join(read)}" if read else f"no {kind}.yaml was found"


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
    """Like ``load``, but return what can be used together with all that is wrong."""
    here = working_directory(cwd)
    reader = _Reader(here)
    for kind in KINDS:
        given = (explicit or {}).get(kind)
        reader.read(
            kind, [here / given] if given is not None else _candidates(kind, here, system, reader.problems)
        )
    # A folder that cannot be read is met once for each kind.
    return reader.catalog(), tuple(dict.fromkeys(reader.problems))


def resolve_input(path: str | Path, entry: Entry[Section], cwd: Path) -> Path:
    """Return where an input file lies: below ``cwd``, else beside the file that names it.

    A file that is at neither place is returned as the one below ``cwd``, for the message that follows.
    """
    first = cwd / path
    beside = entry.path.parent / path
    return beside if not exists(first) and exists(beside) else first


def read_user_data(
    section: Nova | Qemu, environment: Entry[TestEnvironment], name: str, cwd: Path
) -> str | None:
    """Return the user data that a section of ``environment``, called ``name``, holds or names.

    Raises ConfigError when its file cannot be read.
    """
    if section.userdata_file is None:
        return section.userdata
    path = resolve_input(section.userdata_file, environment, cwd)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{environment.at(f'{name}.userdata_file')}: {path}: {said}") from None


def exists(path: Path) -> bool:
    """Return whether ``path`` is there; a name too long, or a folder closed to us, is not an error here."""
    with contextlib.suppress(OSError):
        return path.exists()
    return False


def working_directory(cwd: Path | None) -> Path:
    """Return ``cwd``, or the current directory, as an absolute path; raises ConfigError if it was removed."""
    try:
        return Path.cwd() if cwd is None else cwd.absolute()
    except FileNotFoundError:
        raise ConfigError(
            "the current directory does not exist any more", hint="change to another one"
        ) from None


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
            document = source.read(path, _shown(path, self.cwd))
            self.problems += document.problems
            self.files.append(
                SourceFile(kind=kind, path=path, shown=document.shown, labels=tuple(document.data)),
            )
            for label, data in document.data.items():
                self._entry(kind, label, data, document)

    def _entry(self, kind: Kind, label: str, data: Any, document: Document) -> None:
        model = KINDS[kind]
        try:
            settings = model.model_validate({} if data is None else data)
        except ValidationError as error:
            self.problems += in_file_order(translated(error, model, label, document))
            return
        entry = Entry(
            label=label,
            settings=settings,
            path=document.path,
            shown=document.shown,
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
        environments = {LOCAL: built_in_environment(), **self.entries["test"]}
        old = [
            warning
            for kind in KINDS
            for entry in self.entries[kind].values()
            for warning in deprecations(entry)
        ]
        return Catalog(
            images=MappingProxyType(self.entries["images"]),
            environments=MappingProxyType(environments),
            uploads=MappingProxyType(self.entries["upload"]),
            warnings=(*map(str, self.overrides), *old),
            files=tuple(self.files),
            overrides=tuple(self.overrides),
        )


def built_in_environment() -> Entry[TestEnvironment]:
    """Return ``local``: a QEMU guest on this machine with default settings."""
    settings = TestEnvironment(qemu=Qemu(), tests=EnvironmentTests(port_wait_timeout=QEMU_PORT_WAIT))
    return Entry(label=LOCAL, settings=settings, path=Path(BUILT_IN), shown=BUILT_IN)


def deprecations(entry: Entry[Section]) -> Iterator[str]:
    """Yield a warning for everything old that ``entry`` says and that is read in a newer sense."""
    settings = entry.settings
    glance = getattr(settings, "glance", None)
    if glance is not None and glance.api_version == 1:
        yield f"{entry.at('glance.api_version')}: Glance API v1 is gone; v2 is used instead"
    keystone = getattr(settings, "keystone", None)
    if keystone is not None and keystone.api_version == 2:  # noqa: PLR2004 -- a version's name
        where = entry.at(f"keystone.{keystone.key('api_version')}")
        yield f"{where}: Keystone API v2 is gone; v3 is used instead"
    if keystone is not None and keystone.auth_url and IDENTITY_V2.search(keystone.auth_url):
        where = entry.at(f"keystone.{keystone.key('auth_url')}")
        yield f"{where}: names Keystone API v2.0; /v3 is used instead"
    if getattr(settings, "neutron", None) is not None:
        yield f"{entry.at('neutron')}: nothing in this section is used"


def _place(entry: Entry[Section]) -> str:
    mark = entry.mark()
    return f"{entry.name}:{mark.line}:{mark.column}" if mark else entry.name


def _shown(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _candidates(kind: Kind, cwd: Path, system: Path, problems: list[Problem]) -> list[Path]:
    """Return the existing files of ``kind``, least priority first, each once (places may coincide)."""
    found: dict[str, Path] = {}
    for place in (system, *(cwd / name for name in PLACES)):
        for path in _at(place, kind, cwd, problems):
            real = os.path.realpath(path)  # Path.resolve raises for a link that leads to itself
            found.pop(real, None)
            found[real] = path
    return list(found.values())


def _at(place: Path, kind: Kind, cwd: Path, problems: list[Problem]) -> Iterator[Path]:
    single, folder = place / f"{kind}.yaml", place / f"{kind}.d"
    try:
        if single.exists() or single.is_symlink():
            yield single
        if folder.is_dir():
            names = sorted(path.name for path in folder.iterdir())
            yield from (
                folder / name for name in names if name.endswith(".yaml") and not name.startswith(".")
            )
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        problems.append(Problem(shown=_shown(place, cwd), mark=None, key="", message=message))


def not_found(kind: Kind, cwd: Path, system: Path) -> ConfigError:
    """Return the error for a kind of which no file exists."""
    folders = (system, *(cwd / name for name in PLACES))
    places = [_shown(folder / f"{kind}.yaml", cwd) for folder in folders]
    misnamed = [_shown(folder / f"{kind}.yml", cwd) for folder in folders if exists(folder / f"{kind}.yml")]
    hint = f"change to the directory that has it, or give its path with {OPTIONS[kind]}"
    return ConfigError(
        f"there is no {kind}.yaml; looked in {cwd} for {', '.join(places)} and {kind}.d/*.yaml beside each",
        hint=f"rename {misnamed[0]} to {kind}.yaml" if misnamed else hint,
    )
