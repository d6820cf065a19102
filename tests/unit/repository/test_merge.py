"""``dibctl merge``: results of several jobs in one, with no failure lost and no harm done."""

from __future__ import annotations

import html
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pytest_dibctl.cli import main
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.repository import junit, merged_page

CASE = """<testcase classname="tests.test_a" name="{name}[{image}]" time="{seconds}"><properties>
<property name="dib_image" value="{image}"/><property name="dib_environment" value="local"/>
</properties>{inner}</testcase>"""


def results(path: Path, *cases: str, counts: str = 'tests="1" failures="0" errors="0"') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suite = f'<testsuite name="pytest" {counts}>{"".join(cases)}</testsuite>'
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><testsuites>{suite}</testsuites>')
    return path


def case(name: str, image: str = "web", inner: str = "", seconds: str = "1.5") -> str:
    return CASE.format(name=name, image=image, inner=inner, seconds=seconds)


FAILED = '<failure message="no">it failed</failure>'


def merge(tmp_path: Path, *arguments: str) -> tuple[int, ET.Element]:
    code = main.main(["merge", str(tmp_path / "parts"), "--junit-xml", str(tmp_path / "all.xml"), *arguments])
    return code, ET.parse(tmp_path / "all.xml").getroot()


def test_parts_become_one(tmp_path: Path) -> None:
    results(tmp_path / "parts/a/web.xml", case("test_a"), case("test_b", inner="<skipped/>"))
    results(tmp_path / "parts/b/db.xml", case("test_a", image="db"))
    code, root = merge(tmp_path, "--expect", "web,db@local")
    assert code == ExitCode.OK
    assert root.attrib == {
        "name": "dibctl",
        "tests": "3",
        "failures": "0",
        "errors": "0",
        "skipped": "1",
        "time": "4.500",
    }
    assert [suite.get("name") for suite in root] == ["a/web", "b/db"]


def test_a_failure_and_an_error_stay_where_the_same_test_passed_elsewhere(tmp_path: Path) -> None:
    results(tmp_path / "parts/1.xml", case("test_a", inner=FAILED), case("test_b", inner="<error/>"))
    results(tmp_path / "parts/2.xml", case("test_a"), case("test_b"))
    code, root = merge(tmp_path)
    assert code == ExitCode.TESTS_FAILED
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "1", "1")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no element found"),
        ("<testsuites><testsuite>", "no element found"),
        ("<html/>", "no test suite"),
        ("<testsuites/>", "no test suite"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><testsuite>&b;</testsuite>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><testsuite/>', "document type"),
        ('<?xml version="1.0" encoding="none-such"?><testsuite/>', "unknown encoding"),
        ('<testsuites failures="1"><testsuite/></testsuites>', "counts 1 failures and shows 0"),
        (
            '<testsuites><testsuite/><testcase name="a"><failure/></testcase></testsuites>',
            "outside of a test",
        ),
        ('<testsuite tests="3"/>', "counts 3 tests and shows none"),
        ("<testsuite>" + "<a>" * 100_000 + "</a>" * 100_000 + "</testsuite>", "nested"),
    ],
)
def test_what_cannot_be_read_is_a_failure(tmp_path: Path, content: str, problem: str) -> None:
    results(tmp_path / "parts/good.xml", case("test_a"))
    (tmp_path / "parts/bad.xml").write_text(content)
    code, root = merge(tmp_path)
    assert code == ExitCode.TESTS_FAILED
    assert root.get("errors") == "1"
    [error] = root.iter("error")
    assert problem in (error.get("message") or "")


def test_failures_that_are_counted_and_not_shown_are_told(tmp_path: Path) -> None:
    results(tmp_path / "parts/1.xml", case("test_a"), counts='tests="1" failures="2" errors="1"')
    code, root = merge(tmp_path)
    assert code == ExitCode.TESTS_FAILED
    assert "counts 3 failures and shows 0" in ET.tostring(root, encoding="unicode")


@pytest.mark.parametrize("expected", ["db", "web@roomy", "web,db"])
def test_an_image_without_a_result_is_a_failure(tmp_path: Path, expected: str) -> None:
    results(tmp_path / "parts/web.xml", case("test_a"))
    code, root = merge(tmp_path, "--expect", expected)
    assert code == ExitCode.TESTS_FAILED
    assert root.get("errors") == "1"


def test_an_image_whose_tests_were_all_skipped_has_no_result(tmp_path: Path) -> None:
    results(tmp_path / "parts/web.xml", case("test_a", inner="<skipped/>"))
    assert merge(tmp_path)[0] == ExitCode.OK
    code, root = merge(tmp_path, "--expect", "web@local")
    assert code == ExitCode.TESTS_FAILED
    assert "all tests of image web were skipped in local" in ET.tostring(root, encoding="unicode")


def test_results_that_cannot_be_opened_are_failures(tmp_path: Path) -> None:
    results(tmp_path / "parts/good.xml", case("test_a"))
    (tmp_path / "parts/gone.xml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "parts/pipe.xml")
    code, root = merge(tmp_path)
    assert (code, root.get("errors")) == (ExitCode.TESTS_FAILED, "2")


def test_names_of_parts_are_distinct_and_can_be_written(tmp_path: Path) -> None:
    files = [results(tmp_path / name, case("test_a")) for name in ("1/a.xml", "2/a.xml", "3/\udcff\x01.xml")]
    code = main.main(
        [
            "merge",
            *map(str, files),
            *("--junit-xml", str(tmp_path / "all.xml")),
            "--report",
            str(tmp_path / "all.html"),
        ]
    )
    assert code == ExitCode.OK
    assert [suite.get("name") for suite in ET.parse(tmp_path / "all.xml").getroot()] == ["a", "a (2)", "??"]


def test_nothing_at_all_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    assert main.main(["merge", str(tmp_path / "parts"), "--json"]) == ExitCode.TESTS_FAILED
    assert json.loads(capsys.readouterr().out)["problems"]
    assert main.main(["merge", str(tmp_path / "missing")]) == ExitCode.UNSPECIFIED


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "x", ""])
def test_a_time_that_is_none_counts_as_nothing(tmp_path: Path, seconds: str) -> None:
    part = junit.read("a", results(tmp_path / "a.xml", case("test_a", seconds=seconds)))
    assert [found.seconds for found in part.cases] == [0.0]


def test_the_report_shows_parts_in_frames_and_text_as_text(tmp_path: Path) -> None:
    evil = "</iframe><script>alert(1)</script>\"'"
    inner = f'<failure message="{html.escape(evil)}"/>'
    results(tmp_path / "parts/web.xml", case("test_a", inner=inner), case("test_b"))
    (tmp_path / "parts/web.html").write_text(f"<p>part</p>{evil}")
    merged = junit.merge(junit.parts([tmp_path / "parts"]), ["db"])
    page = merged_page.report(merged, "Tests")
    assert "<script" not in page
    assert page.count("<iframe") == 1
    assert '<iframe sandbox srcdoc="&lt;p&gt;part' in page
    assert "1 failed, 1 passed" in page
    assert "no test of image db has a result" in page


def test_a_report_that_is_a_link_is_not_taken_in(tmp_path: Path) -> None:
    results(tmp_path / "parts/web.xml", case("test_a"))
    (tmp_path / "secret.html").write_text("secret")
    (tmp_path / "parts/web.html").symlink_to(tmp_path / "secret.html")
    page = merged_page.report(junit.merge(junit.parts([tmp_path / "parts"]), []), "Tests")
    assert "secret" not in page
