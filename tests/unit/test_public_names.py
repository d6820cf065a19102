"""The names that users import from ``pytest_dibctl`` itself: complete, typed alike, and free until used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_dibctl

ROOT = Path(pytest_dibctl.__file__).parents[1]
SHIPPED = [
    *sorted((ROOT / "image_tests").rglob("*.py")),
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", pytest_dibctl.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(pytest_dibctl, name) is not None
    assert name in dir(pytest_dibctl)


def test_type_checkers_see_the_names_that_python_resolves() -> None:
    tree = ast.parse(Path(pytest_dibctl.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            renamed = f":{alias.name}" if alias.asname else ""
            typed[alias.asname or alias.name] = f"{node.module}{renamed}"
    assert typed == pytest_dibctl._HOMES
    assert sorted(typed) == sorted(pytest_dibctl.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Imgae'"):
        pytest_dibctl.Imgae  # noqa: B018


def test_importing_the_package_imports_nothing_else_of_ours() -> None:
    code = "import sys, pytest_dibctl; print(*[m for m in sys.modules if m.startswith('pytest_dibctl')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["pytest_dibctl"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_generic_tests_and_documents_use_public_names_only(path: Path) -> None:
    assert not re.findall(r"^\s*(?:from|import) pytest_dibctl\.\S+.*$", path.read_text(), re.MULTILINE)
