"""What other plugins do to a run of images: their reports are whole, and every image is booted once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.plugin.conftest import Project

PASSING = """
    def test_one(instance):
        assert instance.name

    def test_two(instance):
        pass
"""
FLAKY = """
    from pathlib import Path

    def test_flaky(instance, request):
        flag = Path(f"{request.node.name}.flag")
        seen = flag.exists()
        flag.touch()
        assert seen
"""


def two_images(project: Project, text: str) -> None:
    project.write("tests/test_it.py", text)
    entry = [{"pytest": "tests/test_it.py"}]
    project.images({"debian": entry, "ubuntu": entry})


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_reports_of_others_name_the_images(project: Project, run: Any, workers: tuple[str, ...]) -> None:
    two_images(project, PASSING + FLAKY)
    result = run(*workers, "--html=report.html", "--alluredir=allure", "--cov=tests", "--reruns=1")
    assert result.ret == 0, result.outlines
    assert "2 rerun" in result.outlines[-1] or any("rerun" in line for line in result.outlines)
    page = (project.path / "report.html").read_text()
    for name in ("test_one[debian]", "test_two[ubuntu]", "test_flaky[ubuntu]"):
        assert name in page
    named = [json.loads(file.read_text())["name"] for file in (project.path / "allure").glob("*-result.json")]
    assert {"test_one[debian]", "test_flaky[ubuntu]"} <= set(named)
    assert any(re.match(r"tests/test_it\.py\s+\d+\s+0\s", line) for line in result.outlines)
    assert project.counts()["boot"] == 2


def test_a_random_order_boots_each_image_once(project: Project, run: Any) -> None:
    two_images(project, PASSING)
    for seed in ("1", "2"):
        assert run("-p", "randomly", f"--randomly-seed={seed}").ret == 0
    assert project.counts()["boot"] == 4


def test_a_subtest_that_fails_fails_the_image(project: Project, run: Any) -> None:
    text = """
        def test_parts(instance, subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert number != 1
    """
    two_images(project, text)
    result = run("--junit-xml=junit.xml", images="debian")
    assert result.ret == 1
    report = (project.path / "junit.xml").read_text()
    assert re.search(r"debian +failed 1 of 1", result.stdout.str())
    assert "test_parts[debian]" in report
    assert "contains 1 failed subtest" in report
    assert project.counts()["boot"] == 1


def test_coroutines_are_tests_of_images(project: Project, run: Any) -> None:
    text = """
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_waits(instance):
            await asyncio.sleep(0)
            assert instance.name
    """
    two_images(project, text)
    result = run()
    assert result.ret == 0, result.outlines
    assert project.counts()["boot"] == 2


def test_scenarios_are_tests_of_images(project: Project, run: Any) -> None:
    """pytest-bdd asks for the fixtures of a step when the step runs."""
    project.write(
        "tests/boot.feature",
        """
        Feature: Boot
          Scenario: It has a name
            Given a machine
            Then it has a name
        """,
    )
    text = """
        from pytest_bdd import given, scenarios, then

        scenarios("boot.feature")

        @given("a machine", target_fixture="machine")
        def _(instance):
            return instance

        @then("it has a name")
        def _(machine):
            assert machine.name
    """
    two_images(project, text)
    result = run("-v")
    assert result.ret == 0, result.outlines
    assert project.counts()["boot"] == 2


# -- the same repository, without images -----------------------------------------------------------


def test_testinfras_own_hosts_are_left_alone(project: Project, run: Any) -> None:
    two_images(project, PASSING)
    project.write(
        "test_here.py", "def test_here(host):\n    assert host.check_output('echo here') == 'here'\n"
    )
    result = run("--hosts=local://", "test_here.py", images=None)
    assert result.ret == 0, result.outlines
    refused = run("--hosts=local://")
    assert refused.ret != 0
    assert "--hosts" in refused.stderr.str() + refused.stdout.str()


NO_PROGRAMS = """
    import shutil, subprocess

    def refuse(*arguments, **options):
        raise FileNotFoundError("no program is here")

    subprocess.Popen.__init__ = refuse
    shutil.which = lambda *arguments, **options: None
"""


@pytest.mark.parametrize("images", [None, "all"], ids=["discovery", "images"])
def test_tests_are_collected_where_no_program_is(project: Project, run: Any, images: str | None) -> None:
    """As editors do when they look for tests: VS Code and PyCharm collect without options."""
    two_images(project, PASSING)
    project.write("conftest.py", NO_PROGRAMS)
    result = run("--collect-only", "-q", *(("tests",) if images is None else ()), images=images)
    assert result.ret == 0, result.errlines + result.outlines
    assert sum("test_one" in line for line in result.outlines) == (1 if images is None else 2)
