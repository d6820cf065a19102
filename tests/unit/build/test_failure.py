"""What is said of a build that failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pytest_dibctl.build import failure
from pytest_dibctl.build.elements import Element
from pytest_dibctl.build.log import Watcher
from pytest_dibctl.build.plan import Plan
from tests.support import building


def plan(path: Path, *names: str) -> Plan:
    """Return a build of elements that have a script each."""
    elements = tuple(Element(name=name, path=path / "elements" / name) for name in names)
    for element in elements:
        building.hook(element.path, "install.d", f"50-{element.name}", "#!/bin/sh\nnonesuch\n")
    return Plan(
        image=building.entry(path),
        target=path / "tiny.qcow2",
        cwd=path,
        recipe=dataclasses.replace(building.recipe(), elements=elements),
        components={},
        salt="",
        record=None,
    )


def message(build: Plan, script: str, *lines: str) -> list[str]:
    watcher = Watcher(lambda _line: None)
    for line in (f"dib-run-parts Running {script}", *lines):
        watcher.feed(line)
    return failure.failed(build, 127, watcher, 3.0).message.splitlines()


@pytest.mark.parametrize("folder", ["/tmp/in_target.d", "/w/.tiny.qcow2.building/tmp/dib_build.aB3/hooks"])
def test_a_script_is_named_by_its_file_in_the_element(tmp_path: Path, folder: str) -> None:
    script = f"{folder}/install.d/50-web"
    first, second, _ = message(plan(tmp_path, "web", "db"), script, f"{script}: line 2: nonesuch: not found")
    assert "in install.d/50-web (elements/web/install.d/50-web) after 3 s" in first
    assert second == "  elements/web/install.d/50-web: line 2: nonesuch: not found"


def test_a_script_that_no_element_has_keeps_the_name_it_gives_itself(tmp_path: Path) -> None:
    script = "/tmp/in_target.d/install.d/99-made"
    first, second, _ = message(plan(tmp_path, "web"), script, f"{script}: failed")
    assert "in install.d/99-made after 3 s" in first
    assert second == f"  {script}: failed"
