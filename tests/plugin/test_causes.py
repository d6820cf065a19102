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
