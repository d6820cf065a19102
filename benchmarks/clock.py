"""A pytest plugin, for ``-p``: when each test's body began, as lines of JSON in the file $BENCH_CLOCK."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Write the test's id and the time; by now its fixtures are there."""
    view = item.callspec.params.get("dib_view", "") if hasattr(item, "callspec") else ""
    with Path(os.environ["BENCH_CLOCK"]).open("a") as file:
        file.write(json.dumps({"id": item.nodeid, "view": view, "time": time.time()}) + "\n")
