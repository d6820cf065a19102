"""Additions to pytest's JUnit report beyond properties: attachments, and crashed tests' properties."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Generator

import pytest
from _pytest.junitxml import xml_key

from pytest_dibctl.plugin import reports

CRASHED = "???"
"""The phase of xdist's report of a test that ended its worker."""


class Attachments:
    """Hooks of a run with ``--junit-xml``."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Attach a failed test's logs; pytest closes a test's element with its teardown."""
        if report.failed and report.when == "teardown":
            self._attach(report)
        result = yield
        if report.failed and report.when != "teardown":
            self._attach(report)
        if report.failed and report.when == CRASHED and (xml := self._config.stash.get(xml_key, None)):
            xml.finalize(report)  # no teardown will come: without this its properties were lost
        return result

    def _attach(self, report: pytest.TestReport) -> None:
        """Name the logs in the words that GitLab and Jenkins look for."""
        xml = self._config.stash.get(xml_key, None)
        facts = reports.facts_of(report)
        lines = [f"[[ATTACHMENT|{facts[name]}]]" for name in reports.LOGS if name in facts]
        if xml is None or not lines:
            return
        element = ET.Element("system-out")
        element.text = "\n".join(lines)
        xml.node_reporter(report).append(element)
