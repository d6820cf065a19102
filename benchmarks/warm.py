"""A guest that goes on from a ready state against one that boots, until each lets the first test begin.

The image is ``images/debian.qcow2``, as the README's first line leaves it, or the file that is named. Each
round is two whole runs of pytest with one test; the seconds are those of the steps boot and ready, as the
run's JUnit file tells them. A third test is pristine: what going back to the ready guest takes. A
round takes a minute where there is no KVM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import demo, paired
from benchmarks.rows import Row

ROUNDS = 1
TESTS = """
import pytest

def test_first(ssh_access):
    assert ssh_access.run("true").returncode == 0

@pytest.mark.dib_pristine
def test_pristine(ssh_access):
    pass
"""


def rows(rounds: str = str(ROUNDS), image: str = "", username: str = "debian") -> Iterator[Row]:
    """Compare both ``rounds`` times, after a run that keeps the state; ``username`` logs in to ``image``."""
    file = Path(image).absolute() if image else demo.image()
    with tempfile.TemporaryDirectory(prefix="warm-") as name:
        directory = Path(name)
        tests: dict[str, Any] = {"ssh": {"username": username}, "tests_list": [{"pytest": "test_it.py"}]}
        (directory / "test_it.py").write_text(TESTS)
        (directory / "images.yaml").write_text(json.dumps({"it": {"filename": str(file), "tests": tests}}))
        _run(directory, "--dib-warm")
        started: dict[str, list[float]] = {"warm": [], "cold": []}
        pristine: list[float] = []
        for _ in range(int(rounds)):
            for kind, options in (("warm", ["--dib-warm"]), ("cold", [])):
                seconds = _run(directory, *options)
                started[kind].append(seconds["boot"] + seconds["ready"])
                pristine.append(seconds["pristine"])
    pair = paired.Pair(ours=tuple(started["warm"]), theirs=tuple(started["cold"]))
    yield Row.of_pair("warm start to the first test", pair, peer="a boot")
    yield Row(figure="pristine instance", ours=tuple(pristine), peer="snapshot and going back")


def _run(directory: Path, *options: str) -> dict[str, float]:
    """Return the seconds of each step of a run."""
    argv = [sys.executable, "-m", "pytest", "--dib-image=it", "--dib-build=never", "--junit-xml=junit.xml"]
    env = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}
    run = subprocess.run(
        [*argv, *options], cwd=directory, env=env, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(run.stdout)
    case = [*ET.parse(directory / "junit.xml").iter("testcase")][-1]
    told = {found.get("name", ""): found.get("value", "") for found in case.iterfind("properties/property")}
    prefix = "dib_seconds_"
    return {
        name.removeprefix(prefix): float(value) for name, value in told.items() if name.startswith(prefix)
    }
