"""Reports of image tests: written by one process, read once in another."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_dibctl.plugin import reports
from pytest_dibctl.plugin.planning import Plan
from pytest_dibctl.plugin.reports import Notes
from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.run.targets import Target


def target(image: str, environment: str) -> Target:
    return Target(
        image=cast("Any", SimpleNamespace(label=image)),
        environment=cast("Any", SimpleNamespace(label=environment)),
        id=image,
    )


PLAN = Plan(targets=(target("debian", "local"), target("debian", "far")), entries=(), paths_given=False)


def made(
    outcome: str = "passed", when: str = "call", environment: str = "far", **more: Any
) -> pytest.TestReport:
    properties = [("dib_image", "debian"), ("dib_environment", environment), ("own", 1)]
    return pytest.TestReport(
        nodeid="test_it.py::test_it",
        location=("test_it.py", 0, "test_it"),
        keywords={},
        outcome=cast("Any", outcome),
        longrepr="broken" if outcome == "failed" else None,
        when=cast("Any", when),
        user_properties=[*properties, *more.pop("properties", ())],
        **more,
    )


def test_a_report_is_read_with_its_target_and_its_facts() -> None:
    logs: list[tuple[Any, str]] = [("dib_build_log", "b.log"), ("dib_console_log", "c.log"), (7, "own too")]
    report = reports.read(made("failed", properties=logs, worker_id="gw1"), PLAN)
    assert report is not None
    assert report.target is PLAN.targets[1]
    assert (report.failed, report.outcome, report.text, report.worker) == (True, "failed", "broken", "gw1")
    assert report.logs == ("c.log", "b.log")
    assert "own" not in report.facts


def test_the_length_of_a_phase_is_not_the_day_s_clock() -> None:
    report = reports.read(made(start=100.0, stop=40.0, duration=2.5), PLAN)
    assert report is not None
    assert (report.started, report.seconds) == (100.0, 2.5)


@pytest.mark.parametrize("environment", ["elsewhere", ""])
def test_a_report_of_no_target_is_none(environment: str) -> None:
    assert reports.read(made(environment=environment), PLAN) is None


@pytest.mark.parametrize(
    ("outcome", "when", "more", "expected"),
    [
        ("passed", "setup", {}, None),
        ("passed", "call", {}, "passed"),
        ("passed", "call", {"wasxfail": ""}, "xpassed"),
        ("passed", "teardown", {}, None),
        ("skipped", "setup", {}, "skipped"),
        ("skipped", "call", {"wasxfail": ""}, "xfailed"),
        ("failed", "setup", {}, "errors"),
        ("failed", "call", {}, "failed"),
        ("failed", "???", {}, "errors"),
        ("rerun", "call", {}, "reruns"),
    ],
)
def test_what_a_phase_adds_to_the_outcomes(outcome: str, when: str, more: Any, expected: str | None) -> None:
    report = reports.read(made(outcome, when, **more), PLAN)
    assert report is not None
    assert report.outcome == expected
    assert report.rerun is (outcome == "rerun")


def test_notes_survive_the_way_to_another_process() -> None:
    notes = Notes(
        phases={"tests": 1.5}, entry=2, content_failed=True, failed_tally="failed a 2", exit_code=10
    )
    report = made()
    notes.write(report)
    data = json.loads(json.dumps(report._to_json()))
    report = pytest.TestReport._from_json(data)
    assert Notes.read(report) == notes
    assert Notes.read(made()) == Notes()


def test_a_healthy_guest_hides_no_failed_one() -> None:
    found = TargetReport(image="web")
    found.add_facts({"dib_instance": "1", "dib_cause": "kernel-panic", "dib_console_line": "9"}, guest="gw0")
    found.add_facts({"dib_instance": "2", "dib_screen": "2.png", "dib_region": "r"}, guest="gw1")
    found.add_facts({"dib_instance": "2", "dib_region": "r"}, guest="gw1")
    assert found.facts == {
        "dib_instance": "2", "dib_region": "r", "dib_cause": "kernel-panic", "dib_console_line": "9",
    }  # fmt: skip
    found.add_facts({"dib_instance": "3"}, guest="gw0")  # its test was run again
    assert found.facts == {"dib_instance": "3", "dib_region": "r"}
