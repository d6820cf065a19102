"""For tests on the real OpenStack: the cloud, one for all workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_dibctl.errors import DibctlError
from tests.openstack.cloud import DevCloud, lifecycle, sessions
from tests.openstack.cloud.layout import Layout

KEEP = "DIBCTL_TEST_CLOUD"
"""The environment variable that leaves the cloud running after the tests when it says "keep"."""


@pytest.fixture(scope="session")
def devcloud(request: pytest.FixtureRequest) -> Iterator[DevCloud]:
    """The real OpenStack, started if none runs; whoever starts it here stops it at the end."""
    try:
        layout = Layout.at(None)
        with sessions.using(layout, keep=os.environ.get(KEEP) == "keep") as cloud:
            yield cloud
            if request.session.testsfailed:
                lifecycle.keep_logs(layout)
    except DibctlError as error:
        pytest.fail(f"no cloud to test with: {error}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where to look for the services' side of a failure."""
    kept = Layout.at(None).failed
    if terminalreporter.stats.get("failed") and kept.exists():
        terminalreporter.write_line(f"the services' logs are in {kept}")
