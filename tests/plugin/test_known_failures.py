"""Failures that images.yaml says are known: excused until their last day, and told."""

from __future__ import annotations

import datetime as dt
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import Project

URL = "https://tracker.example/1"
TESTS = """
def test_bad(instance): assert 0
def test_good(instance): pass
"""


@pytest.fixture
def debian(project: Project) -> Project:
    """An image with a test that fails and one that passes."""
    project.write("checks/test_it.py", TESTS)
    return project


def know(project: Project, *tests: str, until: str = "2999-01-01", **more: Any) -> None:
    """Write images.yaml with known failures."""
    known = [{"test": test, "url": URL, "until": until, **more} for test in tests]
    listed = [{"pytest": "checks/test_it.py"}]
    project.images({"debian": {"tests": {"tests_list": listed, "known_failures": known}}})


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_known_failure_runs_is_shown_and_fails_nothing(debian: Project, workers: str) -> None:
    know(debian, "checks/test_it.py::test_bad", "checks/test_no*", reason="a slow disk")
    result = debian.run(workers, "-rx", "--junit-xml=junit.xml", "--dib-summary=summary.md")
    result.assert_outcomes(passed=1, xfailed=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            f"checks/test_it.py::test_bad?debian?: known failure until 2999-01-01: {URL}",
            "images.yaml:*(debian.tests.known_failures?1?): no test is called checks/test_no*",
        ]
    )
    assert f"a slow disk: {URL} (known until 2999-01-01)" in result.stdout.str()
    [skipped] = ET.parse(debian.path / "junit.xml").iter("skipped")
    assert URL in str(skipped.get("message"))
    assert "### Known failures" in (debian.path / "summary.md").read_text()
    [statement] = statements.read(debian.path / "debian.qcow2")
    assert statement.vouches
    assert statement.known_failures == {
        "checks/test_it.py::test_bad[debian]": {"url": URL, "until": "2999-01-01"}
    }
    assert statement.described.endswith("in local, 1 known failure aside")
    assert statement.is_expired(dt.date(2999, 1, 2))
    assert not statement.is_expired(dt.date(2999, 1, 1))


def test_after_its_last_day_it_counts_and_the_summary_says_by_which_clock(debian: Project) -> None:
    know(debian, "checks/test_it.py", until="2020-02-29")
    result = debian.run()
    result.assert_outcomes(passed=1, failed=1)
    today = dt.datetime.now(dt.UTC).date()
    counts = "checks/test_it.py was a known failure until 2020-02-29"
    result.stdout.fnmatch_lines([f"images.yaml:*: {counts}, *it is {today} (UTC)*{URL}*"])


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_one_whose_tests_all_pass_is_told_once_everywhere(debian: Project, workers: str) -> None:
    debian.write("checks/test_it.py", TESTS + "def test_other(instance): __import__('pytest').skip('no')")
    know(debian, "*::test_good[debian]", "checks/test_it.py", "checks/test_it.py::test_o*")
    result = debian.run(workers, "--dib-summary=s.md", "--dib-report=r.html")
    result.assert_outcomes(xfailed=1, xpassed=1, skipped=1)
    told = [line for line in result.stdout.lines if "can go" in line]
    assert len(told) == 1, "one fails of the second's, none has passed of the third's"
    where = "(debian.tests.known_failures[0]): *::test_good[debian] passes now, and the line in images.yaml"
    assert where in told[0]
    for file in ("s.md", "r.html"):
        assert (debian.path / file).read_text().count("can go: ") == 1


def test_one_is_needed_while_a_test_of_it_fails_in_any_environment(project: Project) -> None:
    project.write(
        "checks/test_it.py", "def test_it(instance, request): assert 'roomy' not in request.node.name"
    )
    know(project, "checks/test_it.py::test_*")
    project.write("test.yaml", "roomy: {qemu: {memory: 2048}}")
    result = project.run("--dib-env=local,roomy")
    result.assert_outcomes(xfailed=1, xpassed=1)
    assert "can go" not in result.stdout.str()


def test_one_is_not_done_where_tests_were_left_out(debian: Project) -> None:
    debian.write("checks/test_it.py", TESTS.replace("assert 0", "pass"))
    know(debian, "checks/test_it.py")
    assert "can go" in debian.run().stdout.str()
    assert "can go" not in debian.run("-k", "good").stdout.str()
    assert "can go" not in debian.run("checks/test_it.py").stdout.str()


def test_a_failed_boot_is_not_excused(debian: Project) -> None:
    know(debian, "checks/test_it.py")
    debian.faults(boot=True)
    result = debian.run()
    result.assert_outcomes(errors=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "can go" not in result.stdout.str()


def test_the_tests_of_a_module_that_fails_to_import_may_be_those_that_are_meant(debian: Project) -> None:
    debian.write("checks/test_it.py", "import nothing_of_that_name\n" + TESTS)
    debian.write("checks/test_more.py", "def test_more(instance): pass")
    listed = [{"pytest": "checks/test_it.py"}, {"pytest": "checks/test_more.py"}]
    known = [{"test": "checks/test_it.py::test_bad", "url": URL, "until": "2999-01-01"}]
    debian.images({"debian": {"tests": {"tests_list": listed, "known_failures": known}}})
    result = debian.run("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)
    assert "no test is called" not in result.stdout.str()


def test_a_run_of_some_tests_misses_none(debian: Project) -> None:
    know(debian, "checks/test_other.py")
    assert "no test is called" not in debian.run("checks/test_it.py").stdout.str()
