"""What is said of a build that failed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from pytest_dibctl.build import failure
from pytest_dibctl.build.elements import Element
from pytest_dibctl.build.log import Watcher
from pytest_dibctl.build.plan import Plan
from pytest_dibctl.guards.build_steps import STEP
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


@pytest.mark.parametrize("name", ["a" * 300, "..", "50-web/../50-web", "50-wéb"])
def test_a_script_that_cannot_be_is_no_file(tmp_path: Path, name: str) -> None:
    first, *_ = message(plan(tmp_path, "web"), f"/tmp/in_target.d/install.d/{name}", "failed")
    assert "(elements" not in first


def test_a_log_names_no_file_outside_of_the_elements(tmp_path: Path) -> None:
    watcher = Watcher(lambda _line: None)
    for line in (f"{STEP}/etc/passwd", "failed"):
        watcher.feed(line)
    assert "(/etc/passwd)" not in failure.failed(plan(tmp_path, "web"), 1, watcher, 3.0).message


def test_long_lines_are_read_in_no_time(tmp_path: Path) -> None:
    build = plan(tmp_path, "web")
    before = time.process_time()
    for line in ("x" * 30_000, "/" * 30_000, "/hooks" * 5_000, "/hooks/a-" * 3_000):
        message(build, "/tmp/in_target.d/install.d/50-web", f"failed: {line}")
    assert time.process_time() - before < 1
