"""From ``tests_list`` to pytest nodes: which file is for which images, and how scripts become items."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl import process
from pytest_dibctl.config import entries
from pytest_dibctl.config.catalog import Entry
from pytest_dibctl.config.models import Image, TestEntry

GENERIC = "generic:"
SMOKE_TEST = TestEntry(pytest="generic:login")
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
    """One image that one file is tested for; ``entry`` is None for a file named on the command line only."""

    image: str
    entry: PlannedEntry | None
    id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run tests: images in the order of the command line, with their entries.

    With ``paths_given`` the command line names the tests, and each of them is for every image.
    """

    images: tuple[Entry[Image], ...]
    entries: tuple[PlannedEntry, ...]
    paths_given: bool

    def uses(self, path: Path) -> tuple[Use, ...]:
        """Return the images that ``path`` is tested for; ids tell repeated entries apart."""
        found: list[Use] = []
        for image in self.images:
            covering = [entry for entry in self.entries if entry.image == image.label and entry.covers(path)]
            if self.paths_given:
                found.append(Use(image=image.label, entry=covering[0] if covering else None, id=image.label))
                continue
            for number, entry in enumerate(covering, start=1):
                suffix = f"-{number}" if number > 1 else ""
                found.append(Use(image=image.label, entry=entry, id=image.label + suffix))
        return tuple(found)

    def is_script(self, path: Path) -> bool:
        """Whether ``path`` is run as a shell test."""
        kinds = {entry.kind for entry in self.entries if entry.covers(path)}
        if kinds:
            return kinds == {"shell"}
        return self.paths_given and path.suffix != ".py" and os.access(path, os.X_OK)

    def order(self, image: str, entry: PlannedEntry | None) -> tuple[int, int]:
        """Return what items are sorted by: image, then entry."""
        labels = [known.label for known in self.images]
        return (labels.index(image), -1 if entry is None else entry.index)


def plan(images: Sequence[Entry[Image]], *, cwd: Path, paths_given: bool) -> Plan:
    """Resolve the entries of all ``images``; raises ConfigError for missing or unusable files."""
    planned = [
        PlannedEntry(
            image=image.label,
            index=index,
            kind=entry.kind,
            paths=tuple(path.resolve() for path in entries.expand(entry, image, cwd, index=index)),
            timeout=float(entry.timeout),
            written=entry.path,
        )
        for image in images
        for index, entry in enumerate(image.settings.tests.tests_list or (SMOKE_TEST,))
    ]
    return Plan(images=tuple(images), entries=tuple(planned), paths_given=paths_given)


def paths(the_plan: Plan) -> list[Path]:
    """Return what pytest has to collect, in order; a file inside a listed directory is left out."""
    wanted = dict.fromkeys(path for entry in the_plan.entries for path in entry.paths)
    return [path for path in wanted if not any(other in path.parents for other in wanted)]


def translate(arguments: Iterable[str]) -> list[Path | str]:
    """Return command-line paths with ``generic:NAME[::test]`` replaced by the shipped files."""
    return [path for argument in arguments for path in _translate(argument)]


def _translate(argument: str) -> Iterator[Path | str]:
    if not argument.startswith(GENERIC):
        yield argument
        return
    name, separator, rest = argument.removeprefix(GENERIC).partition("::")
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
        self.add_marker(pytest.mark.usefixtures("image"))


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
        result = process.run(
            script_argv(path),
            env=dib_variables,
            cwd=request.config.invocation_params.dir,
            check=False,
            on_line=print,
        )
        if result.returncode != 0:
            pytest.fail(
                f"{path.name} {process.describe_exit(result.returncode)} after {result.seconds:.1f} s\n"
                f"{result.output}",
                pytrace=False,
            )

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
