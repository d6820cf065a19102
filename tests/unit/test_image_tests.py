"""The generic tests: rules that keep them harmless and useful, checked on their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "image_tests"
MODULES = sorted([*FOLDER.glob("test_*.py"), *FOLDER.glob("tree/test_*.py")])


def functions(module: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def marked_for(module: Path) -> set[str]:
    """Return the fixtures that a module's ``pytestmark`` makes all its tests use."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            assert isinstance(node.value, ast.Call)
            assert ast.unparse(node.value.func) == "pytest.mark.usefixtures"
            return {ast.literal_eval(argument) for argument in node.value.args}
    return set()


CASES = [
    pytest.param(module, function, id=f"{module.stem}-{function.name}")
    for module in MODULES
    for function in functions(module)
]


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(("module", "function"), CASES)
def test_each_asks_for_what_it_looks_at(module: Path, function: ast.FunctionDef) -> None:
    asked = {argument.arg for argument in function.args.args} | marked_for(module)
    looked_at = "image_tree" if module.parent.name == "tree" else "instance"
    assert looked_at in asked, "without it, testinfra's local host would test this machine"
    assert asked & {"image_tree", "instance"} == {looked_at}


@pytest.mark.parametrize(("module", "function"), CASES)
def test_each_says_what_to_do_when_it_fails(module: Path, function: ast.FunctionDef) -> None:
    said = ast.get_docstring(function) or ""
    assert "If this fails" in said, f"{module.name}: {function.name}"


def test_nothing_is_collected_without_an_image(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--collect-only", "-q", str(FOLDER))
    result.assert_outcomes()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_file_named_outright_is_not_collected_either(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-q", str(FOLDER / "test_dns.py"))
    assert result.parseoutcomes().keys() & {"passed", "failed", "errors"} == set()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
