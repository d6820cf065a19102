"""The generic tests: rules that keep them harmless and useful, checked on their source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.config import engines

FOLDER = Path(__file__).parents[2] / "image_tests"
MODULES = sorted([*FOLDER.glob("test_*.py"), *FOLDER.glob("tree/test_*.py")])


def functions(module: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def module_marks(module: Path) -> Iterator[ast.expr]:
    """Yield the marks that a module's ``pytestmark`` gives to all its tests."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from node.value.elts if isinstance(node.value, ast.List) else [node.value]


def arguments_of(marks: Iterable[ast.expr], name: str) -> set[str]:
    """Return what the marks of one name are given."""
    return {
        ast.literal_eval(argument)
        for mark in marks
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{name}"
        for argument in mark.args
    }


def marked_for(module: Path) -> set[str]:
    """Return the fixtures that a module's ``pytestmark`` makes all its tests use."""
    return arguments_of(module_marks(module), "usefixtures")


CASES = {
    f"{module.name}: {function.name}": (module, function)
    for module in MODULES
    for function in functions(module)
}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40


def test_each_asks_for_what_it_looks_at() -> None:
    """Without it, testinfra's local host would test this machine."""
    marked = {module: marked_for(module) for module in MODULES}
    wrong = {}
    for name, (module, function) in CASES.items():
        asked = {argument.arg for argument in function.args.args} | marked[module]
        looked_at = "image_tree" if module.parent.name == "tree" else "instance"
        if asked & {"image_tree", "instance"} != {looked_at}:
            wrong[name] = asked
    assert wrong == {}


def test_each_says_what_to_do_when_it_fails() -> None:
    said = {name: ast.get_docstring(function) or "" for name, (_, function) in CASES.items()}
    assert [name for name, text in said.items() if "If this fails" not in text] == []


NEEDED = {
    "clock": {"clock"},
    "console": {"kernel"},
    "reboot": {"kernel", "boot-loader", "initrd"},
    "rootfs": {"disk", "root-growth"},
    "systemd": {"kernel", "modules", "disk"},
    "network": {"kernel", "modules"},
}
"""What a test of each file needs of a machine; tests of other files run in a container too."""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_what_only_a_machine_has_is_asked_for_in_a_mark(module: Path) -> None:
    marks = [
        *module_marks(module),
        *(mark for function in functions(module) for mark in function.decorator_list),
    ]
    needed = arguments_of(marks, "dib_needs")
    assert needed == NEEDED.get(module.stem.removeprefix("test_"), set())
    assert needed <= set(engines.CAPABILITIES)


def test_nothing_is_collected_without_an_image(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--collect-only", "-q", str(FOLDER))
    result.assert_outcomes()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_file_named_outright_is_not_collected_either(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-q", str(FOLDER / "test_dns.py"))
    assert result.parseoutcomes().keys() & {"passed", "failed", "errors"} == set()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
