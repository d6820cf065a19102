"""The pytest nodes of a run: modules whose tests run once for each image, and scripts as such modules."""

from __future__ import annotations

import collections
import re
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.guest.scripts import Runner, interpreter
from pytest_dibctl.plugin import again
from pytest_dibctl.plugin.planning import TREE, Plan, PlannedEntry, Use
from pytest_dibctl.run.targets import Target
from pytest_dibctl.system import bounded_log
from pytest_dibctl.system.text import visible

LIMIT: pytest.StashKey[float | None] = pytest.StashKey()
"""Seconds that an item has; of a script's we end the process, not pytest-timeout."""
ENTRY: pytest.StashKey[PlannedEntry | None] = pytest.StashKey()
"""The entry that an item belongs to; None for a file named on the command line only."""
LAST_LINES = 40
"""Lines of a script's output that its failure shows."""
TRACED_LINES = 200
"""Likewise of a script whose commands are shown too."""
LONGEST_LINE = 4096
LIVE_LIMIT = 16 << 20
"""Characters of a script's output that ``-s`` shows."""


class ImageModule(pytest.Module):
    """A test module whose tests all run for an image, even a test that asks for no fixture."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = [
            "image",
            "dib_view",
            *(["dib_upload_only"] if self.config.getoption("dib_upload_only") else []),
        ]
        self.add_marker(pytest.mark.usefixtures(*wanted))

    def uses(self, plan: Plan, name: str) -> tuple[Use, ...]:
        """Return the targets that the test function ``name`` is for."""
        del name
        return plan.uses(self.path)


class ScriptFile(ImageModule):
    """A script as a module with one test function: pytest gives it marks, ids and reports."""

    def _getobj(self) -> types.ModuleType:
        return _module_of(self.path, [(function_name(self.path), self.path.name)])

    def istestfunction(self, obj: object, name: str) -> bool:
        """Whether ``obj`` is the function of the script; its name need not match ``python_functions``."""
        return isinstance(obj, types.FunctionType) and name == function_name(self.path)


class CommandsFile(ImageModule):
    """A file that lists external tests, as a module with one test function for each."""

    places: tuple[str, ...] = ()

    def _getobj(self) -> types.ModuleType:
        return _module_of(
            self.path, [(command_name(place), place.partition(".")[0]) for place in self.places]
        )

    def istestfunction(self, obj: object, name: str) -> bool:
        """Whether ``obj`` is the function of a listed command."""
        return isinstance(obj, types.FunctionType) and name in map(command_name, self.places)

    def uses(self, plan: Plan, name: str) -> tuple[Use, ...]:
        """Return the targets whose images list the external test ``name``."""
        place = next(place for place in self.places if command_name(place) == name)
        return plan.uses(self.path, command=place)


def _module_of(path: Path, tests: Iterable[tuple[str, str]]) -> types.ModuleType:
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    for name, shown in tests:
        setattr(module, name, script_test(path, name, shown))
    return module


def function_name(path: Path) -> str:
    """Return the name of a script's test: the file's without suffix; pytest gives dots another meaning."""
    return path.stem.replace(".", "_")


def command_name(place: str) -> str:
    """Return the name of an external test: "external_1" is the first of its image."""
    index = int(re.sub(r"\D", "", place))
    return f"external_{index + 1}"


def target_of(item: pytest.Item) -> Target | None:
    """Return the target an item is for."""
    target = _parameter(item, "image")
    return target if isinstance(target, Target) else None


def view_of(item: pytest.Item) -> str | None:
    """Return the subject of an item; None for a test that is for no image."""
    view = _parameter(item, "dib_view")
    return view if isinstance(view, str) else None


def planned_entry(item: pytest.Item, plan: Plan) -> PlannedEntry | None:
    """Return the entry that an item was collected for, by its mark; ``ENTRY`` holds it after collection."""
    marker = item.get_closest_marker("dib_entry")
    return plan.entries_by_key[marker.args[0], marker.args[1]] if marker else None


def _parameter(item: pytest.Item, name: str) -> object:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(name) if callspec else None


def kind_of(item: pytest.Item) -> str:
    """Return the kind of entry that an item belongs to, or would if it were listed."""
    entry = item.stash.get(ENTRY, None)
    if entry is not None:
        return entry.kind
    if view_of(item) == TREE:
        return "image"
    return "shell" if is_script(item) else "pytest"


def is_script(item: pytest.Item) -> bool:
    """Whether an item runs a script or a command, which is ended by us and not by pytest-timeout."""
    return isinstance(item.parent, (ScriptFile, CommandsFile))


def script_test(path: Path, name: str, shown: str) -> Callable[..., None]:
    """Return a test function that runs a script, or a command listed in ``path``; ``shown`` is its name."""

    def script(dib_runner: Runner, request: pytest.FixtureRequest) -> None:
        output = _Output(
            live=request.config.getoption("capture") == "no",
            kept=TRACED_LINES if request.config.option.dib_trace else LAST_LINES,
        )
        outcome = dib_runner(limit=request.node.stash.get(LIMIT, None), on_line=output)
        if not outcome.passed:
            lines = [f"{shown} {outcome.ended}", *output.shown(), *again.lines(request)]
            pytest.fail("\n".join(lines), pytrace=False)

    # Reports take file and line from the code object: they should name the script, not this module.
    script.__code__ = script.__code__.replace(co_filename=str(path), co_firstlineno=1)
    script.__name__ = script.__qualname__ = name
    script.__doc__ = f"Runs {shown}."
    return script


class _Output:
    """The last lines that a script wrote; ``live`` shows all of them at once, up to ``LIVE_LIMIT``."""

    def __init__(self, *, live: bool, kept: int) -> None:
        self._last: collections.deque[str] = collections.deque(maxlen=kept)
        self._lines = 0
        self._live_left = LIVE_LIMIT if live else 0

    def __call__(self, line: str) -> None:
        self._lines += 1
        self._last.append(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}... [line cut]")
        if self._live_left > 0:
            self._live_left -= len(line) + 1
            print(visible(line))  # noqa: T201 -- what -s is for
            if self._live_left <= 0:
                print(bounded_log.limit_note(LIVE_LIMIT))  # noqa: T201 -- see above

    def shown(self) -> list[str]:
        """Return the last lines, after a line that counts the lines that are not kept."""
        if not self._lines:
            return ["[it wrote nothing]"]
        left_out = self._lines - len(self._last)
        return [*([f"[{left_out} lines before these are not kept]"] if left_out else []), *self._last]


def script_argv(path: Path, *, trace: bool) -> list[str]:
    """Return how to run ``path`` on this machine; with ``trace``, a shell shows its commands."""
    return [*interpreter(path, trace=trace), str(path)]
