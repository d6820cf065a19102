"""The plan of a run: which file of ``tests_list`` is for which images, in which order."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from pytest_dibctl.config import tests_list
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import ExternalTest, Image, TestEntry
from pytest_dibctl.run.targets import Target, unlike

SHIPPED = re.compile(r"image_tests/(?:tree/)?test_(\w+)\.py(.*)$", re.DOTALL)
SCRIPT_KINDS, FILE_KINDS = ("shell", "ssh", "image"), ("pytest", "image")
"""The kinds of entries that may list a script, and a file of pytest tests."""
EXTERNAL = "external"
"""The kind of an external test."""
INSTANCE, TREE = "instance", "tree"
"""The subject of a test: a running instance, or the files of an image."""
RUNNING_ORDER = ("image", EXTERNAL)
"""The kinds that run before all others of an image; what needs no guest comes first."""
SMOKE_TEST = TestEntry(pytest=f"{tests_list.GENERIC}login")
"""The test of an image without ``tests_list``: it boots and accepts a login."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedEntry:
    """One line of an image's ``tests_list`` or ``external_tests``, and the seconds that its tests share.

    ``index`` is its turn among the image's entries, ``place`` the key it is written at. ``paths`` are files
    or directories, for an external test the file that says so; ``folder`` is the directory that a line
    names, if it names one. ``needs`` are the capabilities that all its tests need; ``first_boot`` says that
    they need an instance that boots for the first time.
    """

    image: str
    index: int
    kind: str
    paths: tuple[Path, ...]
    timeout: float
    written: str
    place: str
    folder: Path | None = None
    sudo: bool = False
    needs: frozenset[str] = frozenset()
    first_boot: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """The identity of the entry within a run."""
        return (self.image, self.index)

    def covers(self, path: Path) -> bool:
        """Whether ``path`` is among the entry's files or lies in one of its directories."""
        text = str(path)  # asked for each file and folder that pytest meets: comparing paths takes longer
        return any(text == own or text.startswith(f"{own}/") for own in self._names)

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(map(str, self.paths))

    def runs(self, path: Path) -> bool:
        """Whether the entry names ``path`` as a script, not as a file of pytest tests."""
        if path not in self.paths:
            return False
        return self.kind in ("shell", "ssh") or (self.kind == "image" and path.suffix != ".py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One target that one file is for; ``entry`` is None for a file named on the command line only.

    ``view`` is the subject of its tests.
    """

    target: Target
    entry: PlannedEntry | None
    id: str
    view: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run: targets in the order of the command line, with the entries of their images.

    With ``paths_given`` the command line names the tests, and each of them is for every image; ``given``
    are the files among them. With ``ladder`` an image's targets are rungs: each test is for one of them.
    """

    targets: tuple[Target, ...]
    entries: tuple[PlannedEntry, ...]
    paths_given: bool
    given: frozenset[Path] = frozenset()
    ladder: bool = False

    @functools.cached_property
    def entries_by_key(self) -> Mapping[tuple[str, int], PlannedEntry]:
        """The entries by their keys."""
        return {entry.key: entry for entry in self.entries}

    @property
    def images(self) -> tuple[Entry[Image], ...]:
        """The images, each once."""
        return tuple({target.image.label: target.image for target in self.targets}.values())

    def target(self, image: str | None, environment: str | None) -> Target | None:
        """Return the target of an image's and an environment's labels, None if the run has none."""
        names = (image, environment)
        return next(
            (target for target in self.targets if (target.image.label, target.environment.label) == names),
            None,
        )

    def rungs(self, image: Entry[Image]) -> tuple[Target, ...]:
        """Return the targets of an image, in order."""
        return tuple(target for target in self.targets if target.image is image)

    def earlier(self, target: Target) -> tuple[Target, ...]:
        """Return the rungs that come before ``target`` on the ladder of its image; none without a ladder."""
        rungs = self.rungs(target.image) if self.ladder else (target,)
        return rungs[: rungs.index(target)]

    def later(self, target: Target) -> tuple[Target, ...]:
        """Return the rungs that come after ``target`` on the ladder of its image; none without a ladder."""
        rungs = self.rungs(target.image) if self.ladder else (target,)
        return rungs[rungs.index(target) + 1 :]

    def uses(self, path: Path, command: str | None = None) -> tuple[Use, ...]:
        """Return the targets that ``path`` is tested for; ids tell repeated entries and kinds apart.

        ``path`` may also be a file that lists external tests, ``command`` the place of one of them.
        """
        listing = [entry for entry in self.entries if self._lists(entry, path, command)]
        kinds = {entry.kind for entry in listing}
        found: list[Use] = []
        for target in self.targets:
            covering = [entry for entry in listing if entry.image == target.image.label]
            if self.paths_given and not covering and command is None:
                view = TREE if self._only_for_trees(path, kinds) else INSTANCE
                found.append(Use(target=target, entry=None, id=target.id, view=view))
            for kind in dict.fromkeys(entry.kind for entry in covering):
                alike = [entry for entry in covering if entry.kind == kind]
                name = target.id if len(kinds) == 1 else f"{target.id}-{kind}"
                view = TREE if kind == "image" else INSTANCE
                for number, entry in enumerate(alike[: 1 if self.paths_given else None], start=1):
                    found.append(
                        Use(target=target, entry=entry, id=self._id(target, name, number), view=view)
                    )
        return tuple(found)

    def _lists(self, entry: PlannedEntry, path: Path, command: str | None) -> bool:
        if command is not None:
            return entry.kind == EXTERNAL and entry.place == command and entry.covers(path)
        kinds = SCRIPT_KINDS if self.is_script(path) else FILE_KINDS
        return entry.kind in kinds and entry.covers(path)

    def _only_for_trees(self, path: Path, kinds: AbstractSet[str]) -> bool:
        """Whether a file that no entry of an image lists looks at files, going by what is known of it."""
        if path in tests_list.generic_tests().values():
            return tests_list.generic_kind(path) == "image"
        return kinds == {"image"}

    def _id(self, target: Target, name: str, number: int) -> str:
        numbered = name if number == 1 else f"{name}-{number}"
        return unlike(numbered, {other.id for other in self.targets} - {target.id})

    def is_script(self, path: Path) -> bool:
        """Whether ``path`` is run as a script: because an entry says so, or it was named itself.

        An executable that no entry names, in a folder that pytest collects, is not a test.
        """
        if any(entry.runs(path) for entry in self.entries):
            return True
        return path in self.given and path.suffix != ".py" and os.access(path, os.X_OK)

    def commands(self, path: Path) -> tuple[str, ...]:
        """Return the places of the external tests that the file ``path`` lists, for any image, in order."""
        places = [entry.place for entry in self.entries if entry.kind == EXTERNAL and path in entry.paths]
        return tuple(dict.fromkeys(places))

    def is_listed(self, path: Path) -> bool:
        """Whether an entry names ``path`` itself."""
        return any(path in entry.paths for entry in self.entries)

    def missing(self, items: Iterable[PlannedEntry | None]) -> list[PlannedEntry]:
        """Return the entries that none of the ``items`` belongs to."""
        present = {entry.key for entry in items if entry is not None}
        return [entry for entry in self.entries if entry.key not in present]

    def order(self, target: Target, entry: PlannedEntry | None) -> tuple[int, int]:
        """Return the sorting key of an item: target, then entry."""
        return (self.targets.index(target), -1 if entry is None else entry.index)


def plan(
    targets: Sequence[Target],
    *,
    cwd: Path,
    paths_given: bool,
    given: Iterable[str | Path] = (),
    ladder: bool = False,
) -> Plan:
    """Resolve the entries of all images of ``targets``; raises ConfigError for missing or unusable files."""
    images = {target.image.label: target.image for target in targets}.values()
    planned = [entry for image in images for entry in _planned(image, cwd)]
    files = frozenset(absolute(Path(str(path).partition("::")[0]), cwd) for path in given)
    return Plan(
        targets=tuple(targets),
        entries=tuple(planned),
        paths_given=paths_given,
        given=files,
        ladder=ladder,
    )


def _planned(image: Entry[Image], cwd: Path) -> Iterator[PlannedEntry]:
    """Yield an image's entries in the order in which they run."""
    tests_list.check_external(image)
    listed = [
        *(_listed(image, index, entry, cwd) for index, entry in enumerate(image.settings.tests.tests_list)),
        *(_external(image, index, test, cwd) for index, test in enumerate(image.settings.external_tests)),
    ]
    if not image.settings.tests.tests_list:
        listed.append(_listed(image, 0, SMOKE_TEST, cwd))
    order = {kind: turn for turn, kind in enumerate(RUNNING_ORDER)}
    listed.sort(key=lambda entry: order.get(entry.kind, len(order)))
    for turn, entry in enumerate(listed):
        yield dataclasses.replace(entry, index=turn)


def _listed(image: Entry[Image], index: int, entry: TestEntry, cwd: Path) -> PlannedEntry:
    folder = None if entry.path.startswith(tests_list.GENERIC) else tests_list.folder(entry, image, cwd)
    return PlannedEntry(
        image=image.label,
        index=index,
        kind=entry.kind,
        # Links stay links: a script may look at the name it was called by.
        paths=tuple(absolute(path, cwd) for path in tests_list.expand(entry, image, cwd, index=index)),
        timeout=float(entry.timeout),
        written=entry.path,
        place=f"tests.tests_list[{index}]",
        folder=absolute(folder, cwd) if folder else None,
        sudo=bool(entry.sudo),
        needs=frozenset(entry.needs),
        first_boot=bool(entry.first_boot),
    )


def _external(image: Entry[Image], index: int, test: ExternalTest, cwd: Path) -> PlannedEntry:
    return PlannedEntry(
        image=image.label,
        index=index,
        kind=EXTERNAL,
        paths=(absolute(image.path, cwd),),
        timeout=float(test.timeout),
        written=test.cmdline,
        place=tests_list.external_place(index),
        needs=frozenset(test.needs),
    )


def absolute(path: Path, cwd: Path) -> Path:
    """Return ``path`` as pytest names it: absolute and without "..", symbolic links as they are."""
    return Path(os.path.normpath(cwd / path))


def paths(the_plan: Plan) -> list[str]:
    """Return the paths that pytest has to collect, in order."""
    return list(dict.fromkeys(str(path) for entry in the_plan.entries for path in entry.paths))


def translate(arguments: Iterable[str], cwd: Path) -> list[str]:
    """Return command-line paths with ``generic:NAME[::test]`` replaced by the shipped files.

    The names that reports give shipped tests, ``image_tests/test_NAME.py::test``, are understood too.
    """
    return [path for argument in arguments for path in _translate(argument, cwd)]


def _translate(argument: str, cwd: Path) -> Iterator[str]:
    shipped = SHIPPED.match(argument)
    if shipped and not (cwd / argument.partition("::")[0]).exists():
        argument = f"{tests_list.GENERIC}{shipped.group(1)}{shipped.group(2)}"
    if not argument.startswith(tests_list.GENERIC):
        yield argument
        return
    name, separator, rest = argument.removeprefix(tests_list.GENERIC).partition("::")
    for path in tests_list.generic_paths(name):
        yield f"{path}{separator}{rest}"


def node_id(path: Path, rootdir: Path) -> str | None:
    """Return a node id for a file that pytest would name badly.

    Shipped tests read the same wherever they are installed; other files outside of ``rootdir`` would be
    nameless without it.
    """
    if path in tests_list.generic_tests().values():
        folder = f"{tests_list.TREE}/" if path.parent.name == tests_list.TREE else ""
        return f"image_tests/{folder}{path.name}"
    return None if path.is_relative_to(rootdir) else str(path)
