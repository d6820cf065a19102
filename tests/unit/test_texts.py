"""Programs that tests keep as text import what exists: no linter and no type checker reads them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
IMPORT = re.compile(r"\bfrom (pytest_dibctl(?:\.\w+)*) import ((?:\w+(?: as \w+)?(?:, )?)+)")
MODULE = re.compile(r"[\"' ](pytest_dibctl(?:\.\w+)+)[\"' ]")


def references(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every module and name of ours that a file imports, in code and in texts."""
    text = path.read_text()
    for module, names in IMPORT.findall(text):
        yield from ((module, name.split(" as ")[0].strip()) for name in names.split(",") if name.strip())
    yield from ((module, "") for module in MODULE.findall(text))


@functools.cache
def exists(module: str, name: str) -> bool:
    """Return whether a module is there, with that name in it; a module may be a dotted name in one, too."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        parent, _, attribute = module.rpartition(".")
        return not name and hasattr(importlib.import_module(parent), attribute)
    return not name or hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None


# The one file of names that are not there.
FILES = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "test_public_names.py"]


def test_imports_in_texts_resolve() -> None:
    missing = [
        f"{path.relative_to(TESTS)}: {module} {name}".strip()
        for path in FILES
        for module, name in references(path)
        if not exists(module, name)
    ]
    assert missing == []
