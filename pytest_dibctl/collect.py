"""From ``tests_list`` to pytest nodes: which file is for which images, and how scripts become items."""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl import process
from pytest_dibctl.config import entries
from pytest_dibctl.config.catalog import Entry
from pytest_dibctl.config.models import Image, TestEntry
from pytest_dibctl.errors import CommandError
from pytest_dibctl.targets import Target, unlike

SHIPPED = re.compile(r"image_tests/test_(\w+)\.py(.*)$", re.DOTALL)
LIMIT: pytest.StashKey[float | None] = pytest.StashKey()
"""Seconds a shell test has; its process is ended by us, not by pytest-timeout."""
LAST_LINES = 40
SMOKE_TEST = TestEntry(pytest=f"{entries.GENERIC}login")
"""What an image without ``tests_list`` is tested with: that it boots and lets us log in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedEntry:
    """One line of an image's ``tests_list``: files or directories, and the seconds its tests share."""

    image: str
    index: int
    kind: str
    paths: tuple[Path, ...]
    timeout: float
    written: str

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the entry within a run."""
        return (self.image, self.index)

    def covers(self, path: Path) -> bool:
        """Whether ``path`` is one of the entry's files or lies in one of its directories."""
        return any(path == own or own in path.parents for own in self.paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One target that one file is for; ``entry`` is None for a file named on the command line only."""

    target: Target
    entry: PlannedEntry | None
    id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run tests: targets in the order of the command line, with the entries of their images.

    With ``paths_given`` the command line names the tests, and each of them is for every image; ``given``
    are the files among them.
    """

    targets: tuple[Target, ...]
    entries: tuple[PlannedEntry, ...]
    paths_given: bool
    given: frozenset[Path] = frozenset()

    @property
    def images(self) -> tuple[Entry[Image], ...]:
        """The images, each once."""
        return tuple({target.image.label: target.image for target in self.targets}.values())

    def uses(self, path: Path) -> tuple[Use, ...]:
        """Return the targets that ``path`` is tested for; ids tell repeated entries apart."""
        kind = "shell" if self.is_script(path) else "pytest"
        found: list[Use] = []
        for target in self.targets:
            covering = [
                entry
                for entry in self.entries
                if entry.image == target.image.label and entry.kind == kind and entry.covers(path)
            ]
            if self.paths_given and not covering:
                found.append(Use(target=target, entry=None, id=target.id))
            for number, entry in enumerate(covering[: 1 if self.paths_given else None], start=1):
                found.append(Use(target=target, entry=entry, id=self._id(target, number)))
        return tuple(found)

    def _id(self, target: Target, number: int) -> str:
        if number == 1:
            return target.id
        return unlike(f"{target.id}-{number}", {other.id for other in self.targets})

    def is_script(self, path: Path) -> bool:
        """Whether ``path`` is run as a shell test: because an entry says so, or it was named itself.

        An executable that merely lies in a folder that is collected is nobody's test.
        """
        if any(path in entry.paths for entry in self.entries if entry.kind == "shell"):
            return True
        return path in self.given and path.suffix != ".py" and os.access(path, os.X_OK)

    def is_listed(self, path: Path) -> bool:
        """Whether an entry names ``path`` itself."""
        return any(path in entry.paths for entry in self.entries)

    def missing(self, items: Iterable[PlannedEntry | None]) -> list[PlannedEntry]:
        """Return the entries that none of the ``items`` belongs to."""
        present = {entry.key for entry in items if entry is not None}
        return [entry for entry in self.entries if entry.key not in present]

    def order(self, target: Target, entry: PlannedEntry | None) -> tuple[int, int]:
        """Return what items are sorted by: target, then entry."""
        return (self.targets.index(target), -1 if entry is None else entry.index)


def plan(
    targets: Sequence[Target],
    *,
    cwd: Path,
    paths_given: bool,
    given: Iterable[str | Path] = (),
) -> Plan:
    """Resolve the entries of all images of ``targets``; raises ConfigError for missing or unusable files."""
    planned = [
        PlannedEntry(
            image=image.label,
            index=index,
            kind=entry.kind,
            # Links stay links: a script may look at the name it was called by.
            paths=tuple(absolute(path, cwd) for path in entries.expand(entry, image, cwd, index=index)),
            timeout=float(entry.timeout),
            written=entry.path,
        )
        for image in {target.image.label: target.image for target in targets}.values()
        for index, entry in enumerate(image.settings.tests.tests_list or (SMOKE_TEST,))
    ]
    files = frozenset(absolute(Path(str(path).partition("::")[0]), cwd) for path in given)
    return Plan(targets=tuple(targets), entries=tuple(planned), paths_given=paths_given, given=files)


def absolute(path: Path, cwd: Path) -> Path:
    """Return ``path`` as pytest names it: absolute and without "..", symbolic links as they are."""
    return Path(os.path.normpath(cwd / path))


def paths(the_plan: Plan) -> list[str]:
    """Return what pytest has to collect, in order."""
    return list(dict.fromkeys(str(path) for entry in the_plan.entries for path in entry.paths))


def translate(arguments: Iterable[str], cwd: Path) -> list[str]:
    """Return command-line paths with ``generic:NAME[::test]`` replaced by the shipped files.

    The names that reports give shipped tests, ``image_tests/test_NAME.py::test``, are understood too.
    """
    return [path for argument in arguments for path in _translate(argument, cwd)]


def _translate(argument: str, cwd: Path) -> Iterator[str]:
    shipped = SHIPPED.match(argument)
    if shipped and not (cwd / argument.partition("::")[0]).exists():
        argument = f"{entries.GENERIC}{shipped.group(1)}{shipped.group(2)}"
    if not argument.startswith(entries.GENERIC):
        yield argument
        return
    name, separator, rest = argument.removeprefix(entries.GENERIC).partition("::")
    for path in entries.generic_paths(name):
        yield f"{path}{separator}{rest}"


def node_id(path: Path, rootdir: Path) -> str | None:
    """Return a node id for a file that pytest would name badly.

    Shipped tests read the same wherever they are installed; other files outside of ``rootdir`` would be
    nameless without it.
    """
    if path in entries.generic_tests().values():
        return f"image_tests/{path.name}"
    return None if path.is_relative_to(rootdir) else str(path)


class ImageModule(pytest.Module):
    """A test module whose every test is run for an image, even one that asks for no fixture."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = ["image", *(["dib_upload_only"] if self.config.getoption("dib_upload_only") else [])]
        self.add_marker(pytest.mark.usefixtures(*wanted))


class ScriptFile(ImageModule):
    """A shell script as a module with one test function, so that marks, ids and reports come for free."""

    def _getobj(self) -> types.ModuleType:
        module = types.ModuleType(self.path.stem)
        module.__file__ = str(self.path)
        setattr(module, function_name(self.path), script_test(self.path))
        return module

    def istestfunction(self, obj: object, name: str) -> bool:
        """Whatever the script is called, it is the test here."""
        return isinstance(obj, types.FunctionType) and name == function_name(self.path)


def function_name(path: Path) -> str:
    """Return what a script's test is called: its name without suffix; pytest gives dots another meaning."""
    return path.stem.replace(".", "_")


def script_test(path: Path) -> Callable[..., None]:
    """Return a test function that runs ``path`` and fails with its output."""

    def script(dib_variables: Mapping[str, str], request: pytest.FixtureRequest) -> None:
        live = request.config.getoption("capture") == "no"
        lines: list[str] = []

        def hear(line: str) -> None:
            lines.append(line)
            if live:
                print(line)  # noqa: T201 -- what -s is for

        limit = request.node.stash.get(LIMIT, None)
        try:
            result = process.run(
                script_argv(path),
                env=dib_variables,
                cwd=request.config.invocation_params.dir,
                check=False,
                timeout=limit,
                on_line=hear,
                credentials=True,
            )
        except CommandError as error:
            ended = (
                f"was stopped after {limit:g} s" if limit and "did not end" in error.message else str(error)
            )
        else:
            ended = f"{process.describe_exit(result.returncode)} after {result.seconds:.1f} s"
            if result.returncode == 0:
                return
        pytest.fail("\n".join([f"{path.name} {ended}", *lines[-LAST_LINES:]]), pytrace=False)

    # Reports take file and line from the code object: they should name the script, not this module.
    script.__code__ = script.__code__.replace(co_filename=str(path), co_firstlineno=1)
    script.__name__ = script.__qualname__ = function_name(path)
    script.__doc__ = f"Shell test {path.name}."
    return script


def script_argv(path: Path) -> list[str]:
    """Return how to run ``path``; a script without ``#!`` goes to ``/bin/sh``, as shells do it."""
    with path.open("rb") as file:
        start = file.read(4)
    return [str(path)] if start.startswith((b"#!", b"\x7fELF")) else ["/bin/sh", str(path)]
