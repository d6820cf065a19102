"""The cause of a boot that failed, in the terminal and in JUnit."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.plugin.conftest import Project


def test_the_cause_is_first_in_the_terminal_and_a_property_in_junit(project: Project) -> None:
    project.write("test_it.py", "def test_it(ssh_access): pass\n")
    project.images({"web": [{"pytest": "test_it.py"}]})
    project.faults(boot="Flavor's disk is too small for requested image. \x1b[2J")
    result = project.run("--junit-xml=junit.xml")
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_it*", "web: the instance is too small for the image [[]flavor-mismatch]"]
    )
    result.stdout.fnmatch_lines(["hint: take a flavor with more disk and memory*"])
    result.stdout.no_fnmatch_line("*\x1b*")
    (case,) = ET.parse(project.path / "junit.xml").iter("testcase")
    facts = {entry.get("name"): entry.get("value") for entry in case.iterfind("properties/property")}
    assert facts["dib_cause"] == "flavor-mismatch"


MORE = "test_more[web]"
HEALING = """
import os

def pytest_runtest_logreport(report):
    if report.outcome == "rerun":
        os.environ.pop("MEMORY_CLOUD_FAULTS", None)
"""


def test_a_boot_that_works_the_second_time_has_no_cause(project: Project) -> None:
    project.write("test_it.py", "def test_it(ssh_access): pass\ndef test_more(ssh_access): pass\n")
    project.images({"web": [{"pytest": "test_it.py"}]})
    project.write("healing.py", HEALING)
    project.faults(boot="Flavor's disk is too small for requested image.")
    result = project.run("--reruns=1", "--junit-xml=junit.xml", "-p", "healing")
    assert result.parseoutcomes()["rerun"] == 1
    assert result.parseoutcomes()["passed"] == 2
    later = next(
        case for case in ET.parse(project.path / "junit.xml").iter("testcase") if case.get("name") == MORE
    )
    assert "dib_cause" not in [entry.get("name") for entry in later.iter("property")]
