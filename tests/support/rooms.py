"""The rooms of the package: on which floor each stands, and which file imports which."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pytest_dibctl"

ROOMS = (
    ("errors",),
    ("system",),
    ("config", "guards"),
    ("image",),
    ("build", "guest"),
    ("clouds", "repository"),
    ("run",),
    ("publish", "cleanup"),
    ("plugin", "cli"),
)
"""From the ground up: a room imports from its own files and from the floors below it.

Rooms on one floor do not know each other.
"""


def name_of(path: Path) -> str:
    """Return a file's module, without the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE}
MODULES["errors"] = PACKAGE / "errors.py"


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Return what a file imports, in functions and for annotations too."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """Return the modules of this package that a file imports."""
    names = {
        name.removeprefix("pytest_dibctl.") for name in imported(path) if name.startswith("pytest_dibctl.")
    }
    modules = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return modules & MODULES.keys()


def room_of(module: str) -> str:
    """Return the room of a module."""
    return module.split(".", maxsplit=1)[0]


def floor(module: str) -> int:
    """Return the floor of a module's room."""
    return next(number for number, rooms in enumerate(ROOMS) if room_of(module) in rooms)


@functools.cache
def graph() -> dict[str, set[str]]:
    """Return each module, and the modules that it imports."""
    return {module: ours(path) for module, path in MODULES.items()}


def imports_of_rooms() -> dict[str, set[str]]:
    """Return each room with the other rooms that its files import from."""
    rooms: dict[str, set[str]] = {room: set() for rooms_of_floor in ROOMS for room in rooms_of_floor}
    for module, others in graph().items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    return rooms
