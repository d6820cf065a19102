"""A guest that goes on from a ready state against one that boots, until each lets the first test begin.

The image is ``images/debian.qcow2``, as the README's first line leaves it, or the file that is named. Each
round is two whole runs of pytest; the seconds are those of the steps boot and ready, as the run's JUnit file
tells them. The pristine tests go back to the ready guest; their own work is nothing, so that they take the
return and a login. A round takes a minute where there is no KVM.
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
RETURNS = 5
TESTS = f"""
import pytest

def test_first(ssh_access):
    assert ssh_access.run("true").returncode == 0

@pytest.mark.dib_pristine
@pytest.mark.parametrize("again", range({RETURNS}))
def test_pristine(ssh_access, again):
    pass

def test_last(ssh_access):
    pass  # its seconds are those of the removal too
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
        whole: list[float] = []
        for _ in range(int(rounds)):
            for kind, options in (("warm", ["--dib-warm"]), ("cold", [])):
                seconds, returns = _run(directory, *options)
                started[kind].append(seconds["boot"] + seconds["ready"])
                pristine.append(seconds["pristine"] / RETURNS)
                whole += returns
    pair = paired.Pair(ours=tuple(started["warm"]), theirs=tuple(started["cold"]))
    yield Row.of_pair("warm start to the first test", pair, peer="a boot")
    yield Row(figure="pristine instance", ours=tuple(pristine), peer="snapshot, shared, and going back")
    yield Row(figure="pristine test", ours=tuple(whole), peer="with its login")


def _run(directory: Path, *options: str) -> tuple[dict[str, float], list[float]]:
    """Return the seconds of each step of a run, and of each test that went back to the ready guest."""
    argv = [sys.executable, "-m", "pytest", "--dib-image=it", "--dib-build=never", "--junit-xml=junit.xml"]
    env = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}
    run = subprocess.run(
        [*argv, *options], cwd=directory, env=env, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(run.stdout)
    cases = [*ET.parse(directory / "junit.xml").iter("testcase")]
    facts = {
        fact.get("name", ""): fact.get("value", "") for fact in cases[-1].iterfind("properties/property")
    }
    prefix = "dib_seconds_"
    steps = {
        name.removeprefix(prefix): float(value) for name, value in facts.items() if name.startswith(prefix)
    }
    returns = [float(case.get("time", "0")) for case in cases if "test_pristine" in case.get("name", "")]
    return steps, returns
