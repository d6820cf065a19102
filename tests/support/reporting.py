"""What a test run writes of itself for the table of ``.ci/run``, as JSON: outcomes, reruns, slowest tests.

The file is ``$DIBCTL_TEST_REPORTS/<tox environment>.json``; without that variable nothing is written.
"""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import pytest

DIRECTORY = "DIBCTL_TEST_REPORTS"
SLOWEST = 10


def first_error(text: str) -> str:
    """Return the first line of a failure's text that pytest marks as the error, else its first line."""
    marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (marked or text.splitlines() or [""])[0]


class Reporting:
    """Adds up the reports of a run; registered where these come together, not in xdist's workers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._reruns: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: its call, or the phase before or after it that did not pass."""
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self._outcomes[report.outcome] += 1
        # pytest-rerunfailures gives the report of a failure this outcome when it runs the test again.
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            self._reruns[report.nodeid] = first_error(report.longreprtext)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        slowest = sorted(self._seconds.items(), key=lambda item: item[1], reverse=True)[:SLOWEST]
        document = {"outcomes": dict(self._outcomes), "reruns": self._reruns, "slowest": slowest}
        self._file.write_text(json.dumps(document))


def register(config: pytest.Config) -> None:
    """Have the run reported if a directory for that is given."""
    directory = os.environ.get(DIRECTORY)
    if directory and not hasattr(config, "workerinput"):
        name = os.environ.get("TOX_ENV_NAME", "tests")
        config.pluginmanager.register(Reporting(Path(directory) / f"{name}.json"), "dibctl-ci-report")
